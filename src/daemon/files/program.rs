//! Decides whether a process runs a certain program.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::host::proc::{self, Pid};

/// Whether a process runs `program`. True for the file itself, for a file with the same name (a wrapper starts
/// another file, and an update replaces the file), and for an interpreter that has it as its script. Also false if we
/// may not inspect the process.
pub(super) fn runs(pid: Pid, arguments: &[String], program: &Path) -> bool {
    if program.as_os_str().is_empty() {
        return false; // the workspace's own steps have no program
    }
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
    let target = resolved(program);
    let running = proc::program(pid).unwrap_or_default();
    let name = running.file_name().map(OsStr::as_bytes).unwrap_or_default();
    let name = OsStr::from_bytes(name.strip_suffix(b" (deleted)").unwrap_or(name));
    [program.file_name(), target.file_name()].contains(&Some(name))
        || arguments.iter().take(2).any(|word| resolved(Path::new(word)) == target)
}
