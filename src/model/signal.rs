//! Signals by name and number.

/// Reloads the manifests.
pub const HUP: i32 = 1;
/// These three signals end a session.
pub const INT: i32 = 2;
/// Ends a session.
pub const QUIT: i32 = 3;
/// Ends a session. The default of `stop.signal`.
pub const TERM: i32 = 15;
/// Passed on to the command of `kasm-void init`, if that catches it.
pub const USR1: i32 = 10;
/// As [`USR1`].
pub const USR2: i32 = 12;
/// As [`USR1`].
pub const WINCH: i32 = 28;

/// Linux x86_64 and aarch64 signal numbers by name.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Reads `TERM`, `SIGTERM`, `term` or `15`.
pub fn signal_number(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    match name.parse() {
        Ok(number @ 1..=31) => Ok(number),
        _ => Err(format!("`{text}` is not a signal: use a name as in \"TERM\" or \"INT\", or a number from 1 to 31")),
    }
}

/// The name without `SIG`; `None` for real-time signals.
pub fn signal_name(number: i32) -> Option<&'static str> {
    SIGNALS.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_kill_reads_them() {
        for text in ["INT", "SIGINT", "int", "2"] {
            assert_eq!(signal_number(text), Ok(2), "{text}");
        }
        assert!(signal_number("0").is_err() && signal_number("TERMINATE").is_err());
    }
}
