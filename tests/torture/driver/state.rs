//! Harms the state folder, as cleaners of temporary files and volumes do, and checks at quiet points that it is whole and
//! still ours.

use super::Driver;
use crate::expect::Part;
use crate::harness::until_ok;
use crate::stage::Harm;

impl Driver {
    /// Harms the folder. Half of the time, waits until it is restored; otherwise the next fault may come before that.
    pub(super) fn harm_state(&mut self) {
        let harms = [
            Harm::Delete,
            Harm::Delete,
            Harm::Move,
            Harm::Open(0o2775),
            Harm::Open(0o755),
            Harm::DeleteOne("control.sock"),
            Harm::DeleteOne("lock"),
            Harm::DeleteOne("ledger.jsonl"),
            Harm::DeleteOne("checkpoint"),
            Harm::DeleteOne("last-good.jsonl"),
        ];
        let harm = harms[self.random.usize(..harms.len())];
        self.note(format!("harm the state folder: {harm:?}"));
        self.tally.folders_harmed += 1;
        self.harmed = true;
        self.stage.harm_state(harm);
        // The copies of manifests that are broken now cannot be made again.
        self.parts.iter_mut().for_each(Part::copy_lost);
        if self.random.bool() && !self.starved {
            self.await_state();
            self.note("the state folder is restored".into());
        }
    }

    fn await_state(&mut self) {
        until_ok("the state folder is restored:", || {
            self.status()?;
            self.stage.state_wrong().map_or(Ok(()), Err)
        });
        self.harmed = false;
    }

    /// All faults have ended: the folder must be whole, and no other session may start on it.
    pub(super) fn check_state(&mut self) {
        self.await_state();
        if self.random.u32(..4) == 0 {
            let (code, said) = self.stage.start_another();
            assert!(code == Some(1) && said.contains("another supervisor"), "a second session: {code:?}, {said}");
        }
    }
}
