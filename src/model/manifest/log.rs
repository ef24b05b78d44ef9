//! `log`: where an app's output goes and how much of it is kept. Form, defaults and check.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::Fields;

/// Smaller files would be rotated more often than they are read; larger ones fill any disk.
const MAX_SIZE: RangeInclusive<u64> = 4 << 10..=1 << 40;
/// Every rotation renames each of these files.
const KEEP: RangeInclusive<u32> = 0..=100;
/// These lines are held in memory.
const TAIL: RangeInclusive<u32> = 0..=1_000;

/// `Log(…)` as written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename = "Log", deny_unknown_fields, default)]
pub struct LogForm {
    /// `logs/<app>.log` in the state folder by default.
    pub file: Option<String>,
    /// A file that would grow beyond this is rotated at a line break.
    pub max_size: Option<String>,
    /// Rotated files kept: `file.1` is the newest.
    pub keep: Option<u32>,
    /// How many last lines of output are kept with each crash.
    pub tail: Option<u32>,
    /// Also pass each line on to the supervisor's own log, at most 100 a second.
    pub forward: bool,
    /// Begin each line of the file with the time at which it was read.
    pub timestamps: bool,
}

/// Where an app's output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `None` for `logs/<app>.log` in the state folder.
    pub file: Option<PathBuf>,
    /// In bytes. A file that would grow beyond it is rotated at a line break.
    pub max_size: u64,
    /// Rotated files kept: `file.1` is the newest.
    pub keep: u32,
    /// How many last lines of output are kept with each crash.
    pub tail: usize,
    /// Whether each line is also passed on to the supervisor's own log.
    pub forward: bool,
    /// Whether each line of the file begins with the time at which it was read.
    pub timestamps: bool,
}

impl Default for Log {
    fn default() -> Self {
        Log { file: None, max_size: 10 << 20, keep: 3, tail: 5, forward: false, timestamps: false }
    }
}

impl LogForm {
    /// Fills in defaults and reports values that are out of range.
    pub fn check(self, fields: &mut Fields<'_>) -> Log {
        let LogForm { file, max_size, keep, tail, forward, timestamps } = self;
        let default = Log::default();
        Log {
            file: file.map(|file| fields.path("file", file)),
            max_size: max_size
                .map_or(default.max_size, |text| fields.size("max_size", text, default.max_size, MAX_SIZE)),
            keep: fields.number("keep", keep.unwrap_or(default.keep), KEEP),
            tail: tail.map_or(default.tail, |tail| fields.number("tail", tail, TAIL) as usize),
            forward,
            timestamps,
        }
    }
}
