//! The view of processes: this turn's process table, sorted into trees, and details of single processes. Makes
//! no decisions: `model::tree` does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use crate::host::marks;
use crate::host::proc::{self, Pid, Process};
use crate::model::app::AppId;
use crate::model::manifest::matches::{self, FolderFlag};
use crate::model::tree::{self, Lineage, Look, Marks, Owner, Table, Trees};

/// The name of our own program, in every version.
const OURSELVES: &str = "kasm-void";

pub(super) struct Sight {
    own: Pid,
    pub lineage: Lineage,
    /// The process table of the first turn, which was read just before it.
    pub first: Option<Table>,
    details: Details,
    /// This turn's process table, sorted into trees.
    trees: Option<Trees>,
    /// Our children of this turn that the lineage does not know. `None` inside if the kernel does not list children.
    orphans: Option<Option<Vec<Pid>>>,
}

impl Sight {
    pub fn new(lineage: Lineage, own: Pid) -> Self {
        let details = Details::new(lineage.place().namespace);
        Sight { own, lineage, first: None, details, trees: None, orphans: None }
    }

    /// Discards what was seen, because it is out of date.
    pub fn forget(&mut self) {
        self.trees = None;
        self.orphans = None;
        self.details.forget();
    }

    /// Registers the pipe of the app's output, by device and inode.
    pub fn output(&mut self, app: AppId, output: (u64, u64)) {
        self.details.outputs.insert(output, app);
    }

    /// All processes, sorted into trees. Read once per turn.
    pub fn look(&mut self) -> Seen<'_> {
        let Sight { own, lineage, first, details, .. } = self;
        let trees = self.trees.get_or_insert_with(|| {
            let mut table = first.take().unwrap_or_else(proc::table);
            table.add_unseen(*own, &proc::children(*own).unwrap_or_default());
            let trees = tree::sort(table, lineage, details);
            lineage.learn(&trees);
            trees
        });
        Seen { trees, lineage, details }
    }

    /// The owner of this process, as far as this turn's look has shown.
    pub fn owner(&self, pid: Pid) -> Option<Owner> {
        self.trees.as_ref()?.owner(pid).cloned()
    }

    /// Whether the process is our child, so that `wait` reports its exit.
    pub fn is_child(&self, process: &Process) -> bool {
        process.parent == self.own
    }

    /// Records that a process and its descendants are now part of an app.
    pub fn adopted(&mut self, app: AppId, pid: Pid) {
        if let Some(trees) = &mut self.trees {
            trees.adopted(app, pid);
        }
    }

    /// Whether nothing of the app is left, by [`Lineage::surely_empty`]. False if that would take a whole look.
    pub fn surely_empty(&mut self, app: AppId) -> bool {
        let Sight { own, lineage, orphans, .. } = self;
        let lineage = &*lineage;
        lineage.surely_empty(app, move || {
            let read = || {
                let mut children = proc::children(*own)?;
                children.retain(|pid| !lineage.holds(*pid));
                Some(children)
            };
            orphans.get_or_insert_with(read).as_deref()
        })
    }

    /// Live processes that became our children and belong to no app.
    pub fn strays(&mut self) -> Vec<Pid> {
        let staging = self.lineage.holds_any_of(AppId::WORKSPACE);
        let Seen { trees, .. } = self.look();
        let left_by_steps = trees.members(AppId::WORKSPACE).filter(|_| !staging);
        left_by_steps.chain(trees.strays()).map(|process| process.pid).collect()
    }

    /// All live processes that belong to an app or became our children.
    pub fn everything(&mut self) -> Vec<Pid> {
        let Seen { trees, .. } = self.look();
        let owned = trees.owned().map(|(process, _)| process).filter(|process| !process.zombie);
        owned.chain(trees.strays()).map(|process| process.pid).collect()
    }
}

/// The result of a look, with what is needed to query it.
pub(super) struct Seen<'a> {
    pub trees: &'a Trees,
    pub lineage: &'a Lineage,
    pub details: &'a dyn Look,
}

/// Details of single processes. Each is read at most once per turn.
struct Details {
    /// Our own mount namespace.
    namespace: u64,
    /// Maps the device and inode of an output pipe to its app.
    outputs: HashMap<(u64, u64), AppId>,
    marks: RefCell<HashMap<Pid, Rc<Marks>>>,
    command_lines: RefCell<HashMap<Pid, Rc<str>>>,
}

impl Details {
    fn new(namespace: u64) -> Self {
        let (marks, command_lines) = (RefCell::default(), RefCell::default());
        Details { namespace, outputs: HashMap::new(), marks, command_lines }
    }

    fn forget(&mut self) {
        self.marks.get_mut().clear();
        self.command_lines.get_mut().clear();
    }
}

/// Device and inode of the program that a process runs.
fn file(pid: Pid) -> Option<(u64, u64)> {
    let file = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}

/// Whether a process runs kasm-void: this very file, or one with that name.
pub(super) fn is_kasm_void(pid: Pid) -> bool {
    match proc::program_name(pid) {
        Some(name) => name == OURSELVES || file(pid).is_some_and(|its| Some(its) == file(std::process::id() as Pid)),
        None => {
            let line = proc::command_line(pid);
            line.split(' ').next().and_then(|word| word.rsplit('/').next()) == Some(OURSELVES)
        }
    }
}

/// Whether a process has this folder as the value of the flag: by its path, through a link, or relative to its working
/// folder.
pub(super) fn names_folder(pid: Pid, FolderFlag { flag, folder }: &FolderFlag) -> bool {
    let arguments = proc::arguments(pid);
    let Some(spelled) = matches::value_of(&arguments, flag).filter(|spelled| !spelled.is_empty()) else { return false };
    let spelled = Path::new(&format!("/proc/{pid}/cwd")).join(spelled);
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    match (identity(&spelled), identity(folder)) {
        (Some(its), Some(ours)) => its == ours,
        // If the folder does not exist, compare the spelling.
        _ => spelled.components().eq(folder.components()),
    }
}

impl Look for Details {
    fn marks(&self, pid: Pid) -> Rc<Marks> {
        self.marks.borrow_mut().entry(pid).or_insert_with(|| Rc::new(marks::of(pid))).clone()
    }

    fn command_line(&self, pid: Pid) -> Rc<str> {
        self.command_lines.borrow_mut().entry(pid).or_insert_with(|| proc::command_line(pid).into()).clone()
    }

    fn names_folder(&self, pid: Pid, folder: &FolderFlag) -> bool {
        names_folder(pid, folder)
    }

    fn output(&self, pid: Pid) -> Option<AppId> {
        if self.outputs.is_empty() {
            return None;
        }
        proc::outputs(pid).find_map(|output| self.outputs.get(&output).copied())
    }

    fn is_kasm_void(&self, pid: Pid) -> bool {
        is_kasm_void(pid)
    }

    fn is_ending(&self, pid: Pid) -> bool {
        proc::is_ending(pid)
    }

    fn is_elsewhere(&self, pid: Pid) -> bool {
        self.namespace != 0 && proc::mount_namespace(pid).is_some_and(|its| its != self.namespace)
    }
}
