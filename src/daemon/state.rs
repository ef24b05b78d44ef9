//! What outlives a supervisor, in the state folder: the ledger, and copies of good manifests.

mod copies;
mod ledger;
pub use copies::Copies;
pub use ledger::{Inherited, Ledger, VERSION, crashes, parse};
