//! The operating system, as used by the daemon, the guard, PID 1 and the command line. Knows nothing about apps and
//! makes no decisions.

pub mod null;
pub mod sync;
pub mod sys;
pub mod terminal;

pub mod privacy;
pub mod proc;
pub mod session;
pub mod signals;

pub mod listener;
pub mod socket;

pub mod accounts;
pub mod claim;
pub mod clock;
pub mod display;
pub mod handover;
pub mod home;
pub mod journal;
pub mod layout;
pub mod link;
pub mod secret;
pub mod trust;

pub mod load;
pub mod marks;
