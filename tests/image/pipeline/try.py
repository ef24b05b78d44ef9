"""try.py LOG: processes a workspace's stdout as the cluster does, through Vector's remap language into ClickHouse, and runs
the dashboard's queries. Needs pyvrl and chdb: the language and the engine without their servers."""

import json
import pathlib
import sys
import tempfile

import chdb.session
import pyvrl

here = pathlib.Path(__file__).parent
lines = pathlib.Path(sys.argv[1]).read_text().splitlines()
rule = pyvrl.Transform((here / "rule.vrl").read_text())
# The time at which Vector read the line, unless the line has its own.
rows = [rule.remap({"message": line, "timestamp": "2000-01-01 00:00:00.000"}) for line in lines]

folder = tempfile.TemporaryDirectory()
batch = pathlib.Path(folder.name) / "batch.json"
batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
house = chdb.session.Session()
house.query((here / "table.sql").read_text())
house.query(f"INSERT INTO project_logs SELECT * FROM file('{batch}', JSONEachRow)")


def ask(question):
    return str(house.query(question, "TSV")).strip()


def expect(what, wanted, question):
    heard = ask(question)
    if heard != str(wanted):
        sys.exit(f"{what}: wanted {wanted}, ClickHouse says {heard}\n{question}")
    print(f"   ok  {what}: {heard}")


ours = [json.loads(line) for line in lines if line.startswith("{")]
assert ours, "the log holds no line of the supervisor's"
expect("every line is a row", len(lines), "SELECT count() FROM project_logs")
for app in ("cloakbrowser", "discord"):
    launched = sum(line["msg"] == f"launching {app}" for line in ours)
    assert launched, f"{app} was never launched"
    expect(f"starts of {app}", launched, f"SELECT count() FROM project_logs WHERE message LIKE '%launching {app}%'")
expect(
    "warnings and errors",
    sum(line["level"] in ("warn", "error") for line in ours),
    "SELECT count() FROM project_logs WHERE level IN ('warn', 'error')",
)
expect("levels that nobody knows", 0, "SELECT count() FROM project_logs WHERE level NOT IN ('debug', 'info', 'warn', 'error')")
expect(
    "rows by app, from the metadata",
    sum(line.get("app") == "discord" for line in ours),
    "SELECT count() FROM project_logs WHERE JSONExtractString(metadata, 'app') = 'discord'",
)
expect(
    "the supervisor's lines without their own time",
    0,
    "SELECT count() FROM project_logs WHERE metadata != '{}' AND timestamp < '2001-01-01'",
)
# The audit trail: one row for each request of the stories, with the client, the host and the result, and nothing else.
audit = "JSONExtractString(metadata, 'event') = 'launcher.request' AND JSONExtractString(metadata, 'host') LIKE 'audit-%.internal'"
expect("requests of the audit", 5, f"SELECT count() FROM project_logs WHERE {audit}")
expect("of five hosts", 5, f"SELECT uniqExact(JSONExtractString(metadata, 'host')) FROM project_logs WHERE {audit}")
expect(
    "with verdict, status and app",
    5,
    f"SELECT count() FROM project_logs WHERE {audit} AND JSONExtractString(metadata, 'verdict') != '' "
    "AND JSONExtractInt(metadata, 'status') = 400 AND JSONExtractString(metadata, 'app') = 'nav-shim' AND level = 'info'",
)
expect(
    "rows with a path, a query or a token",
    0,
    "SELECT count() FROM project_logs WHERE match(message || metadata, 'secret-path|secret-query|the-token|the-vnc-password')",
)
expect("lines of 16 KiB or more", 0, "SELECT countIf(length(message) + length(metadata) >= 16384) FROM project_logs")
