//! Hides our memory from other processes of our own user. A process can normally be read by every other process of its user:
//! its environment, its memory and its open files, secrets included. The guard, the supervisor, the launcher and PID 1
//! deny that. Owns what such a process can no longer do the usual way.

use std::fs::{File, OpenOptions};
use std::io;

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

/// Denies other processes of our user the view of our memory, environment and open files, and leaves no core dump. Programs
/// that we start are not affected. Call this as early as possible: what was read before cannot be taken back.
pub fn hide() {
    // Cannot fail: the kernel knows the value.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Our own `oom_score_adj`, which the programs that we start inherit. A process that hides itself cannot open the file
/// of its own score, and neither can the child that still shares its memory. So it is opened once, at the start.
pub struct OomScore(File);

impl OomScore {
    /// Opens it. A process that is hidden, because it was forked from one, is visible for that moment, as it would be
    /// after an exec.
    ///
    /// # Errors
    /// Those of the open: `/proc` is missing or read-only.
    pub fn open() -> io::Result<OomScore> {
        let hidden = dumpable_behavior().is_ok_and(|now| now == DumpableBehavior::NotDumpable);
        if hidden {
            let _ = set_dumpable_behavior(DumpableBehavior::Dumpable); // the kernel knows the value
        }
        let opened = OpenOptions::new().read(true).write(true).open("/proc/self/oom_score_adj").map(OomScore);
        if hidden {
            hide();
        }
        opened
    }

    /// Runs `start` while we have this score ourselves, so that the program it starts has it from its first instruction.
    ///
    /// # Errors
    /// The score cannot be set: only root may lower it.
    pub fn during<T>(&self, score: i32, start: impl FnOnce() -> T) -> io::Result<T> {
        let mut before = [0; 16];
        let read = rustix::io::pread(&self.0, &mut before, 0)?;
        self.write(score.to_string().as_bytes())?;
        let started = start();
        // We may always return to the score that we had.
        let _ = self.write(before[..read].trim_ascii());
        Ok(started)
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        rustix::io::pwrite(&self.0, text, 0)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::proc;

    #[test]
    fn a_program_has_the_score_and_we_have_our_own_again() {
        let own = std::process::id() as i32;
        let before = proc::oom_score_adj(own);
        let start = || std::process::Command::new("cat").arg("/proc/self/oom_score_adj").output().unwrap().stdout;
        let said = OomScore::open().unwrap().during(before + 300, start).unwrap();
        assert_eq!(String::from_utf8(said).unwrap().trim(), (before + 300).to_string());
        assert_eq!(proc::oom_score_adj(own), before);
    }
}
