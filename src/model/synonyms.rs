//! The names that other supervisors have for the fields of an app. `check`, `explain` and editors translate them.

/// A name that is no field here, and what to write instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synonym {
    /// The path of the field that it means, as in `limits.max_rss`.
    pub field: &'static str,
    /// An imperative such as ``write `cwd: "/path"` ``.
    pub advice: &'static str,
}

/// Names in lower case and with `_`, the field, the advice.
const SYNONYMS: &[(&[&str], &str, &str)] = &[
    (
        &["depends_on", "depends", "requires", "needs", "wants", "bindsto", "partof", "dependencies"],
        "after",
        "write `after: [\"other\"]`",
    ),
    (
        &["working_dir", "workdir", "working_directory", "workingdirectory", "directory", "dir", "chdir"],
        "cwd",
        "write `cwd: \"/path\"`",
    ),
    (&["description", "title", "comment"], "about", "write `about: \"…\"`"),
    (&["tty", "terminal"], "pty", "write `pty: true`"),
    (&["uid", "run_as", "username"], "user", "write `user: \"NAME\"`"),
    (&["gid"], "group", "write `group: \"NAME\"`"),
    (&["ulimit", "ulimits", "rlimit", "limitnofile"], "rlimits", "write `rlimits: Rlimits(nofile: 65536)`"),
    (
        &["cmd", "exec", "execstart", "exec_start", "entrypoint", "program", "binary", "run", "script"],
        "command",
        "write `command: \"/path/to/program\"`, and put its arguments into `args`",
    ),
    (&["arguments", "argv"], "args", "write `args: [\"one\", \"two\"]`"),
    (&["environment", "env_vars", "envs"], "env", "write `env: {\"NAME\": \"value\"}`"),
    (
        &["env_file", "environmentfile", "environment_file", "envfile", "dotenv"],
        "env_files",
        "write `env_files: [\"app.env\"]`",
    ),
    (&["disabled", "autostart", "enable"], "enabled", "write `enabled: false` to keep the app down"),
    (&["autorestart", "restart_policy"], "restart", "write `restart: Always`, `OnFailure` or `Never`"),
    (
        &["restart_sec", "restartsec", "retries", "max_restarts", "startretries", "startsecs"],
        "backoff",
        "write `backoff: Backoff(…)`",
    ),
    (&["healthcheck", "health_check", "liveness", "liveness_probe"], "health", "write `health: Health(probe: …)`"),
    (&["readiness", "readiness_probe", "ready_check"], "ready", "write `ready: Ready(probe: …)`"),
    (
        &[
            "stop_signal",
            "stopsignal",
            "killsignal",
            "kill_signal",
            "stopwaitsecs",
            "stop_grace_period",
            "stop_timeout",
            "timeoutstopsec",
        ],
        "stop",
        "write `stop: Stop(signal: \"INT\", grace: \"5s\")`",
    ),
    (
        &["stdout", "stderr", "stdout_logfile", "logfile", "log_file", "logs", "logging"],
        "log",
        "write `log: Log(file: \"/path\")`",
    ),
    (
        &["memory", "mem_limit", "max_memory", "memory_limit", "memorymax"],
        "limits.max_rss",
        "write `limits: Limits(max_rss: \"1GiB\")`",
    ),
    (&["nice", "priority"], "limits.nice", "write `limits: Limits(nice: 5)`"),
    (
        &["pre_start", "prestart", "execstartpre", "before", "setup"],
        "prelaunch",
        "write `prelaunch: [Run(argv: [\"cmd\"])]`",
    ),
    (&["pre_stop", "execstop"], "prestop", "write `prestop: [Run(argv: [\"cmd\"])]`"),
    (&["post_stop", "execstoppost"], "poststop", "write `poststop: [Run(argv: [\"cmd\"])]`"),
    (&["post_start", "poststart", "execstartpost"], "postlaunch", "write `postlaunch: [Run(argv: [\"cmd\"])]`"),
];

/// The meaning of this name here, in any spelling: `WorkingDirectory`, `working-dir`.
pub fn synonym(name: &str) -> Option<Synonym> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let (_, field, advice) = SYNONYMS.iter().find(|(names, ..)| names.contains(&name.as_str()))?;
    Some(Synonym { field, advice })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::reference;

    #[test]
    fn every_synonym_means_a_field_that_there_is() {
        let paths: Vec<String> = reference::entries().iter().map(reference::ReferenceEntry::path).collect();
        for (names, field, advice) in SYNONYMS {
            assert!(paths.iter().any(|path| path == field), "{field}");
            let written = format!("`{}:", field.split('.').next().unwrap());
            assert!(advice.contains(&written), "{advice}");
            assert!(names.iter().all(|name| synonym(name).is_some_and(|one| one.field == *field)), "{names:?}");
        }
    }

    #[test]
    fn no_synonym_is_listed_twice_or_is_a_field_itself() {
        let mut seen = BTreeSet::new();
        let paths: Vec<String> = reference::entries().iter().map(reference::ReferenceEntry::path).collect();
        for name in SYNONYMS.iter().flat_map(|(names, ..)| *names) {
            assert!(seen.insert(name) && !paths.iter().any(|path| path == name), "{name}");
        }
    }

    #[test]
    fn names_are_known_in_the_spelling_of_each_peer() {
        for name in ["WorkingDirectory", "working-dir", "working_dir"] {
            assert_eq!(synonym(name).map(|one| one.field), Some("cwd"), "{name}");
        }
        assert_eq!(synonym("colour"), None);
    }
}
