//! The apps under torture: one of each kind, as programs and manifests. Every program takes a lock that its children
//! inherit, so that two trees of one app are always noticed.

use crate::harness::{FOREVER, Session};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stays,
    /// Exits by itself, again and again.
    Dies,
    /// Has a helper that left its session.
    Helps,
    /// Forks away from its launcher.
    Launched,
    /// Ignores TERM.
    Deaf,
    /// Numbers its lines, and records each outside of its log too.
    Counts,
    /// Prints much, into a log in the state folder.
    Chats,
    /// Becomes ready only after a while.
    Slow,
    /// Its manifest is in a folder that is swapped as a whole, as Kubernetes mounts a ConfigMap.
    Mounted,
    /// Fails at once, with a long wait before its next start.
    Waits,
    /// Has a helper that clears its environment and overwrites it with a title, as many servers do.
    Hides,
    /// Forks into the background, and its manifest does not say how to find it there.
    Daemonises,
    /// Becomes another user; only root can start it.
    Drops,
    /// A server with workers that write titles over their arguments and environment, each in its own session.
    Forks,
    /// Starts a daemon that leaves everything behind: descent, session, environment and output. Nothing but the moment
    /// ties it to the app, so it may be nobody's, but it must not outlive the session.
    Escapes,
}

const ALL: [Kind; 15] = [
    Kind::Stays,
    Kind::Dies,
    Kind::Helps,
    Kind::Launched,
    Kind::Deaf,
    Kind::Counts,
    Kind::Chats,
    Kind::Slow,
    Kind::Mounted,
    Kind::Waits,
    Kind::Hides,
    Kind::Daemonises,
    Kind::Drops,
    Kind::Forks,
    Kind::Escapes,
];

/// The name under which daemons of `escapes` are seen. No app has it.
pub const STRAY: &str = "(stray)";

/// The kinds that can run on this machine.
pub fn all() -> impl Iterator<Item = Kind> {
    let root = rustix::process::geteuid().is_root();
    ALL.into_iter().filter(move |kind| root || *kind != Kind::Drops)
}

/// The parts of a manifest that the suite changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edition {
    /// In its arguments; changing it needs another process.
    pub version: u32,
    /// In fields that apply in place, or in a comment.
    pub remark: u32,
    pub enabled: bool,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Stays => "stays",
            Kind::Dies => "dies",
            Kind::Helps => "helps",
            Kind::Launched => "launched",
            Kind::Deaf => "deaf",
            Kind::Counts => "counts",
            Kind::Chats => "chats",
            Kind::Slow => "slow",
            Kind::Mounted => "mounted",
            Kind::Waits => "waits",
            Kind::Hides => "hides",
            Kind::Daemonises => "daemonises",
            Kind::Drops => "drops",
            Kind::Forks => "forks",
            Kind::Escapes => "escapes",
        }
    }

    /// The largest size of its tree.
    pub fn most_processes(self) -> usize {
        match self {
            Kind::Stays | Kind::Launched | Kind::Deaf | Kind::Mounted | Kind::Drops => 1,
            Kind::Forks => 1 + WORKERS,
            Kind::Hides
            | Kind::Daemonises
            | Kind::Dies
            | Kind::Helps
            | Kind::Counts
            | Kind::Chats
            | Kind::Slow
            | Kind::Escapes
            | Kind::Waits => 2,
        }
    }

    /// Whether it exits by itself, so that it may be up or down at any moment.
    pub fn comes_and_goes(self) -> bool {
        matches!(self, Kind::Dies | Kind::Waits | Kind::Daemonises)
    }

    pub fn manifest(self, edition: Edition) -> String {
        let own = match self {
            Kind::Launched => "matches: Match(cmdline: \"^/bin/sh ${BIN}/daemon \"), ",
            Kind::Deaf => "stop: Stop(grace: \"150ms\"), ",
            Kind::Counts if (edition.remark / 2).is_multiple_of(2) => {
                "log: Log(file: \"${DATA}/counts.log\", max_size: \"1GiB\"), "
            }
            Kind::Counts => "log: Log(file: \"${DATA}/counts.log\", max_size: \"1GiB\", timestamps: true), ",
            Kind::Chats => "log: Log(max_size: \"256KiB\", keep: 1), ",
            Kind::Slow => "ready: Ready(probe: Path(path: \"${DATA}/slow.ready\"), within: \"20s\"), ",
            Kind::Stays => "actions: {\"tidy\": [Run(argv: [\"/bin/true\"])]}, ",
            Kind::Dies | Kind::Helps | Kind::Mounted | Kind::Waits => "",
            Kind::Hides | Kind::Daemonises | Kind::Drops | Kind::Forks | Kind::Escapes => "",
        };
        let backoff = match self {
            Kind::Waits => "first: \"10m\", max: \"10m\", stable_after: \"1h\"",
            _ => "first: \"20ms\", max: \"150ms\", stable_after: \"10ms\"",
        };
        let Edition { version, remark, enabled } = edition;
        format!(
            "// remark {remark}\nApp(command: \"${{BIN}}/{}\", args: [\"v{version}\"], about: \"remark {}\", enabled: {enabled}, {own}\
             backoff: Backoff({backoff}, give_up: Never))\n",
            self.name(),
            remark / 2, // every second change changes only the comment
        )
    }

    fn program(self) -> String {
        let body = match self {
            Kind::Stays | Kind::Mounted => FOREVER.to_owned(),
            Kind::Waits => "exit 3\n".to_owned(),
            Kind::Hides => format!("\"$BIN/hider\" &\n{FOREVER}"),
            Kind::Daemonises => "setsid \"$BIN/background\" &\nsleep 0.1\nexit 0\n".to_owned(),
            Kind::Drops => DROPS.to_owned(),
            Kind::Forks => "exec perl \"$BIN/server\" \"$@\"\n".to_owned(),
            Kind::Escapes => {
                format!("(setsid env -i DATA=\"$DATA\" \"$BIN/stray\" >/dev/null 2>&1 9>&- &)\n{FOREVER}")
            }
            Kind::Dies => "sleep \"0.$(($$ * 7919 % 90 + 10))\"\nexit 3\n".to_owned(),
            Kind::Helps => format!("(setsid \"$BIN/helper\" &)\n{FOREVER}"),
            Kind::Launched => "setsid \"$BIN/daemon\" \"$@\" &\nexit 0\n".to_owned(),
            Kind::Deaf => format!("trap '' TERM\n{FOREVER}"),
            Kind::Counts => COUNTS.to_owned(),
            Kind::Chats => "while :; do seq 1000 1300; sleep 0.05; done\n".to_owned(),
            Kind::Slow => format!("rm -f \"$DATA/slow.ready\"\nsleep 0.2\n: >\"$DATA/slow.ready\"\n{FOREVER}"),
        };
        format!("{}{body}", lock(self.name()))
    }
}

/// Prints each line first and then records it. If the run is killed, at most one line is printed but not recorded.
const COUNTS: &str = r#"
run=$(date +%s%N)-$$
number=0
while :; do
    number=$((number + 1))
    echo "$run $number"
    echo "$number" >>"$DATA/said/$run"
    [ $((number % 8)) != 0 ] || sleep 0.01
done
"#;

/// Before it hides, it records who it is; `sight` reads that.
const HIDER: &str = r#"
started=$(cut -d ' ' -f 22 "/proc/$$/stat")
echo hides >"$DATA/hidden/$$.$started"
exec env -i perl -e '$0 = "x" x 3000; sleep 1000000 while 1'
"#;

const STRAY_DAEMON: &str = r#"
started=$(cut -d ' ' -f 22 "/proc/$$/stat")
echo "(stray)" >"$DATA/hidden/$$.$started"
exec env -i sleep 1000000
"#;

const WORKERS: usize = 3;

/// Each worker records who it is before it hides.
const SERVER: &str = r#"
use POSIX;
for (1 .. 3) {
    next if fork;
    POSIX::setsid() if $_ > 1;
    open my $stat, "<", "/proc/$$/stat";
    my $started = (split / /, <$stat>)[21];
    open my $note, ">", "$ENV{DATA}/hidden/$$.$started";
    print $note "forks\n";
    close $note;
    $0 = "x" x 3000;
    sleep 1000000 while 1;
}
sleep 1000000 while 1;
"#;

/// The other user may not enter the session's folder, so the pipe that it blocks on is opened before the switch.
const DROPS: &str = r#"
exec 8<>"$DATA/never"
exec setpriv --reuid 65534 --clear-groups sh -c 'read _ <&8' drops "$@"
"#;

/// All children of the app inherit descriptor 9, so a run that finds the lock taken is a second tree. Only flock's own exit
/// code counts, because `flock` is a process too and may be killed like all others.
fn lock(name: &str) -> String {
    format!(
        "exec 9>>\"$DATA/{name}.lock\"\nflock -n -E 99 9\n\
         [ $? != 99 ] || echo \"{name}, pid $$, as $KASM_VOID_APP\" >>\"$DATA/doubled\"\n"
    )
}

/// Writes all programs.
pub fn programs(session: Session) -> Session {
    for folder in ["said", "hidden"] {
        std::fs::create_dir(session.data().join(folder)).expect("a folder for what programs tell");
    }
    let session = session.program("helper", FOREVER).program("daemon", FOREVER);
    let session = session.program("background", FOREVER).program("hider", HIDER).program("stray", STRAY_DAEMON);
    std::fs::write(session.bin().join("server"), SERVER).expect("a server");
    all().fold(session, |session, kind| session.program(kind.name(), &kind.program()))
}
