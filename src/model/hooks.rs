//! What the built-in steps decide, each for itself; `daemon` gathers their facts and does what they say.

pub mod display_lock;
pub mod json_edit;
pub mod maximize;
pub mod profile_lock;
