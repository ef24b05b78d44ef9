//! The apps that are tortured: one of each kind, as programs and as manifests. Every program takes a lock that
//! whatever it starts inherits, so that two trees of one app cannot live unnoticed.

use crate::harness::{FOREVER, Session};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stays,
    /// Ends by itself, again and again.
    Dies,
    /// Has a helper that left its session.
    Helps,
    /// Forks away from its launcher.
    Launched,
    /// Ignores TERM.
    Deaf,
    /// Numbers its lines and notes each outside of its log.
    Counts,
    /// Says much, into a log in the state folder.
    Chats,
    /// Is ready only after a while.
    Slow,
    /// Its manifest is in a folder that is swapped as a whole, as Kubernetes mounts a ConfigMap.
    Mounted,
    /// Fails at once and waits long before it is tried again.
    Waits,
}

pub const ALL: [Kind; 10] = [
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
];

/// What a manifest says of the things that are changed in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edition {
    /// In its arguments: another one is another process.
    pub version: u32,
    /// In what is changed in place or not at all.
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
        }
    }

    /// Its tree is never larger.
    pub fn most_processes(self) -> usize {
        match self {
            Kind::Stays | Kind::Launched | Kind::Deaf | Kind::Mounted => 1,
            Kind::Dies | Kind::Helps | Kind::Counts | Kind::Chats | Kind::Slow | Kind::Waits => 2,
        }
    }

    /// It ends by itself, so that it is up at one moment and down at the next.
    pub fn comes_and_goes(self) -> bool {
        matches!(self, Kind::Dies | Kind::Waits)
    }

    pub fn manifest(self, edition: Edition) -> String {
        let own = match self {
            Kind::Launched => "matches: Match(cmdline: \"^/bin/sh ${BIN}/daemon \"), ",
            Kind::Deaf => "stop: Stop(grace: \"150ms\"), ",
            Kind::Counts => "log: Log(file: \"${DATA}/counts.log\", max_size: \"1GiB\"), ",
            Kind::Chats => "log: Log(max_size: \"256KiB\", keep: 1), ",
            Kind::Slow => "ready: Ready(probe: Path(path: \"${DATA}/slow.ready\"), within: \"20s\"), ",
            Kind::Stays => "actions: {\"tidy\": [Run(argv: [\"/bin/true\"])]}, ",
            Kind::Dies | Kind::Helps | Kind::Mounted | Kind::Waits => "",
        };
        let backoff = match self {
            Kind::Waits => "first: \"10m\", max: \"10m\", stable_after: \"1h\"",
            _ => "first: \"20ms\", max: \"150ms\", stable_after: \"0s\"",
        };
        let Edition { version, remark, enabled } = edition;
        format!(
            "// remark {remark}\nApp(command: \"${{BIN}}/{}\", args: [\"v{version}\"], about: \"remark {}\", enabled: {enabled}, {own}\
             backoff: Backoff({backoff}, give_up: Never))\n",
            self.name(),
            remark / 2, // every other change is one of the comment alone
        )
    }

    fn program(self) -> String {
        let body = match self {
            Kind::Stays | Kind::Mounted => FOREVER.to_owned(),
            Kind::Waits => "exit 3\n".to_owned(),
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

/// Each line is said first, then noted: of a run that was killed, at most one is said and not noted.
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

/// Descriptor 9 is inherited by all that the app starts: a later run finds it free or is the second tree. Only the
/// code that says so counts: `flock` is a process too, and is killed like all others.
fn lock(name: &str) -> String {
    format!(
        "exec 9>>\"$DATA/{name}.lock\"\nflock -n -E 99 9\n\
         [ $? != 99 ] || echo \"{name}, pid $$, as $KASM_VOID_APP\" >>\"$DATA/doubled\"\n"
    )
}

/// Writes all programs.
pub fn programs(session: Session) -> Session {
    std::fs::create_dir(session.data().join("said")).expect("a folder for what is said");
    let session = session.program("helper", FOREVER).program("daemon", FOREVER);
    ALL.iter().fold(session, |session, kind| session.program(kind.name(), &kind.program()))
}
