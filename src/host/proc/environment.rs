//! The environment that a process was started with.

use std::time::{Duration, Instant};

use super::read::{stat, whole};
use crate::model::tree::Pid;

/// An exec on a busy machine is over by then. Limits the wait for a dead disk; the first look is nearly always enough.
const EXEC_TAKES: Duration = Duration::from_millis(500);
const LOOKS_AT_ONCE: u32 = 10;
const EXEC_PAUSE: Duration = Duration::from_micros(200);

/// The whole environment block. Empty if there is none, or if it may not be read.
///
/// A process in the middle of `execve` shows neither environment nor arguments for a moment. If that were taken for
/// "has no marks", the process would be lost from its app's tree, so this waits.
pub fn environment(pid: Pid) -> Vec<u8> {
    let mut looks = 0;
    let deadline = Instant::now() + EXEC_TAKES;
    while Instant::now() < deadline {
        // Do not wait for one that may not be read.
        let Some(block) = whole(&format!("/proc/{pid}/environ"), 128 << 10) else { return Vec::new() };
        if !block.is_empty() {
            return block;
        }
        let Some(Room { start, end, is_complete }) = room_for_environment(pid) else { return block };
        if start == end && is_complete {
            return block;
        }
        // If it has room for one, it has just become the next program: read again at once. It may also have lost its
        // core in the middle of `execve`, so only the first looks are without a pause.
        looks += 1;
        if start == end || looks > LOOKS_AT_ONCE {
            std::thread::sleep(EXEC_PAUSE);
        }
    }
    Vec::new()
}

/// The place of a process's environment in its memory.
struct Room {
    start: u64,
    end: u64,
    /// `execve` has filled it. Before, the addresses are zero, or equal also if the environment is not empty.
    is_complete: bool,
}

/// `None` if the process has ended.
fn room_for_environment(pid: Pid) -> Option<Room> {
    let stat = stat(pid)?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    // The kernel sets the start of the code after the environment. 1 stands for one that we may not see.
    let code: u64 = fields.nth(22)?.parse().ok()?;
    let (start, end) = (fields.nth(23)?.parse().ok()?, fields.next()?.parse().ok()?);
    (!dead).then_some(Room { start, end, is_complete: code > 1 && end != 0 })
}

/// The value of one variable in an environment block. `None` also if the block could not be read and is empty.
pub fn variable(environment: &[u8], name: &str) -> Option<String> {
    let entries = environment.split(|byte| *byte == 0);
    let value = entries.filter_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next()?;
    Some(String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_executes_the_next_program_keeps_its_environment() {
        let chain = r#"i=${1:-0}; [ $i -lt 1000 ] || exit 0; exec sh -c "$0" "$0" $((i+1))"#;
        let mut child =
            std::process::Command::new("sh").args(["-c", chain, chain]).env("CHAIN", "link").spawn().unwrap();
        let pid = child.id() as Pid;
        let mut without = 0;
        while child.try_wait().unwrap().is_none() {
            let block = environment(pid);
            // One that is exiting has no memory any more, and is no zombie yet.
            let alive = room_for_environment(pid).is_some_and(|room| room.end != 0);
            without += usize::from(alive && variable(&block, "CHAIN").is_none());
        }
        assert_eq!(without, 0);
    }

    #[test]
    fn an_empty_environment_is_told_from_one_that_is_not_set_yet() {
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").env_clear().spawn().unwrap();
        let pid = child.id() as Pid;
        assert_eq!(environment(pid), b"");
        let room = room_for_environment(pid).expect("it lives");
        assert!(room.is_complete && room.start == room.end);
        child.kill().and_then(|()| child.wait()).unwrap();
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let block = b"KASM_VOID_APPS=x\0KASM_VOID_APP=web:3\0";
        assert_eq!(variable(block, "KASM_VOID_APP").as_deref(), Some("web:3"));
        assert_eq!(variable(block, "KASM_VOID"), None);
    }
}
