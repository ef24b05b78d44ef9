//! The decisions of the built-in steps, one file each. `daemon` gathers the facts and carries out the decisions.

pub mod display_lock;
pub mod json_edit;
pub mod maximize;
pub mod profile_lock;
