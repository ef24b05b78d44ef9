//! How much memory and CPU time a process uses, and what the kernel killed because memory ran out.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::read::{stat, text};
use crate::model::tree::Pid;

/// How long ago a process was started, from its start time in clock ticks since boot.
pub fn age(started: u64) -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
    now.saturating_sub(ticks(started))
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// CPU time of one process, and of the children that it has waited for. `None` if it is gone.
pub fn cpu(pid: Pid) -> Option<Duration> {
    let stat = stat(pid)?;
    let fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11).take(4);
    Some(ticks(fields.filter_map(|field| field.parse::<u64>().ok()).sum()))
}

/// Resident bytes of one process, or 0 if it is gone. Memory shared with others counts in full.
pub fn resident(pid: Pid) -> u64 {
    let pages = text(&format!("/proc/{pid}/statm"));
    let pages = pages.and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// The process's proportional share of its resident bytes: memory shared by n processes counts 1/n for each. `None` if
/// it may not be read.
pub fn share(pid: Pid) -> Option<u64> {
    let rollup = text(&format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The process's `oom_score_adj`, which the kernel uses to choose what to kill when memory runs out. 0 if the process
/// is gone.
pub fn oom_score_adj(pid: Pid) -> i32 {
    text(&format!("/proc/{pid}/oom_score_adj")).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The file in which the kernel counts the out-of-memory kills in our memory cgroup.
pub fn out_of_memory_file() -> Option<fs::File> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        match controllers {
            "" => Some(PathBuf::from(format!("/sys/fs/cgroup/{path}/memory.events"))),
            _ if controllers.split(',').any(|one| one == "memory") => {
                Some(PathBuf::from(format!("/sys/fs/cgroup/memory/{path}/memory.oom_control")))
            }
            _ => None,
        }
    });
    // A container often sees its own cgroup mounted as the root, whatever name /proc gives.
    let roots = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"].map(PathBuf::from);
    own.chain(roots).find_map(|file| fs::File::open(file).ok())
}

/// The number of out-of-memory kills in the file.
pub fn out_of_memory_kills(file: &fs::File) -> Option<u64> {
    let mut room = [0; 1024];
    let read = rustix::io::pread(file, &mut room, 0).ok()?;
    let text = String::from_utf8_lossy(&room[..read]);
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}
