//! What outlives a supervisor, in the state folder: the ledger, and copies of good manifests; and the folder itself.

mod copies;
mod folder;
mod ledger;
pub use copies::Copies;
pub use folder::{Folder, Restored};
pub use ledger::{Inherited, Ledger, VERSION, crashes, parse};
