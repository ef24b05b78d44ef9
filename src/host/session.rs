//! Identifies this session on this machine. A state folder may be on a disk that outlives a container. What another
//! session wrote there does not apply to the processes and requests of this one.

use std::fs;

use super::proc;

/// The session's id. Equal in two processes only if they run since the same boot, see the same process ids, and have
/// the same first process. A container that is stopped and started again has a new first process, even if it was not
/// recreated.
pub fn id() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    // Not visible if /proc is mounted with hidepid; then the rest must do.
    let first = proc::process(1).map_or(0, |first| first.started);
    format!("{} {} {first}", boot.trim(), namespace.display())
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_names_boot_processes_and_the_first_of_them() {
        let id = super::id();
        let words: Vec<&str> = id.split(' ').collect();
        assert!(words.len() == 3 && words[0].len() == 36 && words[1].starts_with("pid:["), "{id}");
        assert_eq!(super::id(), id);
    }
}
