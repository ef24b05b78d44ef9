//! Measures the memory and the CPU time of an app's tree.

use std::time::Duration;

use super::Processes;
use crate::host::proc;
use crate::model::app::AppId;

impl Processes {
    /// Resident bytes of the app's whole tree. Memory that its processes share counts once, if the kernel lets us read
    /// the shares. A single process shares with no other of its app, so the cheaper number is used.
    pub fn memory(&mut self, id: AppId) -> u64 {
        let members = self.members(id);
        match members[..] {
            [only] => proc::resident(only),
            _ => members.into_iter().map(|pid| proc::share(pid).unwrap_or_else(|| proc::resident(pid))).sum(),
        }
    }

    /// CPU time that the app's tree has used, with the children that its processes waited for.
    pub fn cpu(&mut self, id: AppId) -> Duration {
        self.sight.look().trees.members(id).filter_map(|member| proc::cpu(member.pid)).sum()
    }
}
