//! Which session of which machine this is. A state folder may lie on a disk that outlives a container: what another
//! session wrote there says nothing about the processes and wishes of this one.

use std::fs;

use super::proc;

/// Equal in two processes only when they run since the same boot, see the same process ids, and have the same first
/// process: a container that is stopped and started again has another one, also when it was not recreated.
pub fn id() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    // Hidden from us where /proc is mounted with hidepid; the rest has to do then.
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
