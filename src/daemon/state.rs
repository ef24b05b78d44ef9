//! The data that outlives a supervisor in the state folder: the ledger, and copies of good manifests. Also keeps the folder
//! itself usable.

mod copies;
mod folder;
mod ledger;
pub use copies::Copies;
pub use folder::{Folder, Restored};
pub use ledger::{Ledger, crashes, parse};
