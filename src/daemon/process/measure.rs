//! Measures the memory and the CPU time of an app's tree.

use std::time::Duration;

use super::Processes;
use crate::host::proc::{self, Process};
use crate::model::app::AppId;
use crate::model::protocol::ProcessView;

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

    /// The processes of the app's tree, oldest first.
    pub fn tree(&mut self, id: AppId) -> Vec<ProcessView> {
        let members: Vec<Process> = self.sight.look().trees.members(id).copied().collect();
        let view = |process: Process| ProcessView {
            pid: process.pid,
            parent: process.parent,
            command: proc::command_line(process.pid),
            memory_bytes: proc::resident(process.pid),
            cpu_ms: proc::cpu(process.pid).unwrap_or_default().as_millis() as u64,
            age_ms: proc::age(process.started).as_millis() as u64,
        };
        members.into_iter().map(view).collect()
    }

    /// CPU time that the app's tree has used, with the children that its processes waited for.
    pub fn cpu(&mut self, id: AppId) -> Duration {
        self.sight.look().trees.members(id).filter_map(|member| proc::cpu(member.pid)).sum()
    }
}
