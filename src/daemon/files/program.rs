//! Tells whether a process runs a certain program.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::host::proc::{self, Pid};

/// Whether a process runs `program`: the file itself, one of the same name (a wrapper starts another file, an
/// update puts a new one in its place), or an interpreter with it as its script. `false` also for a process that
/// we may not look into.
pub(super) fn runs(pid: Pid, arguments: &[String], program: &Path) -> bool {
    if program.as_os_str().is_empty() {
        return false; // the session's own steps have none
    }
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
    let target = resolved(program);
    let running = proc::program(pid).unwrap_or_default();
    let name = running.file_name().map(OsStr::as_bytes).unwrap_or_default();
    let name = OsStr::from_bytes(name.strip_suffix(b" (deleted)").unwrap_or(name));
    [program.file_name(), target.file_name()].contains(&Some(name))
        || arguments.iter().take(2).any(|word| resolved(Path::new(word)) == target)
}
