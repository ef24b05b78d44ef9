//! Durations and sizes as people write them in a manifest: `"1m 30s"`, `"10MiB"`.
//!
//! Owns these two notations and their errors, nothing else.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, written as in systemd or humantime: `"3s"`, `"1m 30s"`, `"250ms"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

impl Span {
    /// This many seconds.
    pub const fn secs(seconds: u64) -> Self {
        Span(Duration::from_secs(seconds))
    }

    /// This many milliseconds.
    pub const fn millis(milliseconds: u64) -> Self {
        Span(Duration::from_millis(milliseconds))
    }
}

/// A number of bytes, written with a binary or decimal unit: `"10MiB"`, `"64kB"`, `"4096"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u64);

impl Size {
    /// This many mebibytes.
    pub const fn mib(n: u64) -> Self {
        Size(n << 20)
    }
}

const UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
    ("", 1),
];

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
        let unit = text[digits.len()..].trim();
        let wrong = || format!("`{text}` is not a size: write a number and a unit, as in \"10MiB\" or \"64kB\"");
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number
            .checked_mul(*factor)
            .map(Size)
            .ok_or_else(|| format!("`{text}` is more bytes than a 64 bit number holds"))
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map(Span).map_err(|error| {
            format!(
                "`{text}` is not a duration ({error}): write a number and a unit, as in \"500ms\", \"3s\" or \"1m 30s\""
            )
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS[..4].iter().rev().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match exact {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Both types are strings on the wire and in RON.
macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Span);
as_text!(Size);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_alike() {
        for (text, bytes) in [("10MiB", 10 << 20), ("64kB", 64_000), ("4096", 4096), ("3 GiB", 3 << 30), ("7B", 7)] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
        assert_eq!(Size(10 << 20).to_string(), "10MiB");
        assert_eq!(Size(64_000).to_string(), "64000");
    }

    #[test]
    fn a_wrong_size_says_how_to_write_one() {
        for text in ["", "MiB", "10 mib", "-1", "1.5GiB", "99999999999TiB"] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(error.contains("size") || error.contains("64 bit"), "{text}: {error}");
        }
    }

    #[test]
    fn a_wrong_duration_says_how_to_write_one() {
        assert_eq!("1m 30s".parse::<Span>().unwrap(), Span::secs(90));
        assert!("3".parse::<Span>().unwrap_err().contains("\"3s\""));
    }
}
