//! The marks in the environment of a process: which app it belongs to, and in which session.

use super::Pid;

/// The marks that every process of an app inherits in its environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// The app's name.
    pub app: Option<String>,
    /// The state folder of the supervisor that started it.
    pub state: Option<String>,
    /// The identity of that folder and its container, as [`Place::text`] writes it. Missing in processes that were
    /// started by a version before 0.2.
    pub place: Option<String>,
    /// The pid of the process that was started with these marks. All others have inherited them.
    pub leader: Option<Pid>,
    /// It is the command of a hook or probe, or was started by one.
    pub hook: bool,
}

/// Identifies the session of a state folder. The path alone does not: two containers of one image use the same one,
/// and may share a pid namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The path of the state folder.
    pub state: String,
    /// The mount namespace, by its inode.
    pub namespace: u64,
    /// Device and inode of the state folder.
    pub folder: (u64, u64),
}

impl Place {
    /// The text that marks carry in addition to the path.
    pub fn text(&self) -> String {
        format!("{}:{}:{}", self.namespace, self.folder.0, self.folder.1)
    }

    /// These marks are from this supervisor, or from an earlier one of the same session. Either the namespace or the
    /// folder may differ: a deleted folder is created again, and a service manager may give each start of a service its
    /// own mount namespace.
    pub fn owns(&self, marks: &Marks) -> bool {
        let Some((namespace, folder)) = marks.place.as_deref().map_or(Some((None, None)), split) else { return false };
        let same_place = match (namespace, folder) {
            (None, _) => true, // an earlier version only knew the path
            (Some(namespace), folder) => namespace == self.namespace || folder == Some(self.folder),
        };
        marks.state.as_deref() == Some(self.state.as_str()) && same_place
    }

    /// These marks name another session.
    pub fn is_anothers(&self, marks: &Marks) -> bool {
        marks.app.is_some() && marks.state.is_some() && !self.owns(marks)
    }
}

type Written = (Option<u64>, Option<(u64, u64)>);

fn split(text: &str) -> Option<Written> {
    let mut parts = text.split(':').map(|part| part.parse().ok());
    let (namespace, device, inode) = (parts.next()??, parts.next()??, parts.next()??);
    Some((Some(namespace), Some((device, inode))))
}
