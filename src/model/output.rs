//! The rules for an app's output: what is kept in memory, when a log file is rotated, what is dropped and counted, and
//! what is forwarded. Reads no pipe and writes no file.

pub mod lines;

pub mod losses;
pub mod pass;
pub mod pressure;
pub mod recent;
pub mod rotation;
pub mod stamps;
