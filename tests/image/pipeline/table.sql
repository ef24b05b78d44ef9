CREATE TABLE project_logs
(
    timestamp DateTime64(3, 'UTC'),
    level LowCardinality(String),
    message String,
    metadata String
)
ENGINE = MergeTree
ORDER BY timestamp
