//! The terminal that our output goes to, if any.

use std::ffi::OsString;
use std::io::{IsTerminal, stdout};

/// The terminal's columns. `None` if stdout is not a terminal, so that a pipe gets whole lines. `$COLUMNS` takes
/// precedence, since `watch` sets it.
pub fn width() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let size = || {
        let size = stdout().is_terminal().then(|| rustix::termios::tcgetwinsize(stdout()).ok())??;
        // Some terminals report 0.
        Some(if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) })
    };
    told.filter(|columns| *columns > 0).or_else(size)
}

/// The terminal's rows. `None` if stdout is not a terminal, or does not tell.
pub fn rows() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stdout()).ok()?;
    Some(usize::from(size.ws_row)).filter(|rows| *rows > 0)
}

/// Whether stdout is a terminal whose locale is not UTF-8, which shows every other character as rubbish. The first of
/// `LC_ALL`, `LC_CTYPE` and `LANG` that is set decides, as for every program.
pub fn shows_ascii_only() -> bool {
    stdout().is_terminal() && !is_utf8(|name| std::env::var_os(name))
}

/// Whether stdout shows colours: a terminal that knows them, and a person who has not set `NO_COLOR`.
pub fn colours_wanted() -> bool {
    anstream::AutoStream::choice(&stdout()) != anstream::ColorChoice::Never
}

fn is_utf8(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|value| !value.is_empty());
    let locale = locale.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_locale_that_is_set_decides() {
        for (variables, expected) in [
            (&[("LANG", "en_US.UTF-8")][..], true),
            (&[("LANG", "en_US.UTF-8"), ("LC_ALL", "C")], false),
            (&[("LANG", "C"), ("LC_CTYPE", "C.utf8"), ("LC_ALL", "")], true),
            (&[], false),
        ] {
            let variable = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
            assert_eq!(is_utf8(variable), expected, "{variables:?}");
        }
    }
}
