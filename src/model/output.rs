//! An app's output as bytes and lines: what is kept in memory, where a file ends, what is dropped and how it is
//! counted, what is passed on. Reads no pipe and writes no file.

pub mod lines;

pub mod losses;
pub mod pass;
pub mod pressure;
pub mod recent;
pub mod rotation;
