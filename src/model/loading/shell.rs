//! Finds text that only a shell would expand (`$HOME`, `$(date)`, `--dir=~/x`). kasm-void passes it on unchanged.

use std::ops::Range;

/// The first such place in a text, and the help to show. `is_known` tells whether a variable of this name exists.
pub fn left_alone(text: &str, is_known: impl Fn(&str) -> bool) -> Option<(Range<usize>, String)> {
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let behind = &text[at + c.len_utf8()..];
        match c {
            // `$$` is an intended dollar sign.
            '$' if behind.starts_with('$') => drop(rest.next()),
            '$' if behind.starts_with('(') => {
                let end = behind.find(')').map_or(text.len(), |end| at + 1 + end + 1);
                let help = "run a shell: args: [\"-c\", \"…\"]; or write `$$` for a dollar sign";
                return Some((at..end, help.into()));
            }
            '$' => {
                let length = behind.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(behind.len());
                let name = &behind[..length];
                if !name.is_empty() && is_known(name) {
                    let help = format!("write `${{{name}}}`, or `$${name}` for a dollar sign");
                    return Some((at..at + 1 + length, help));
                }
            }
            '~' if behind.starts_with('/') && text[..at].ends_with(['=', ':']) => {
                return Some((
                    at..at + 1,
                    "write `${HOME}`: `~` is the home folder at the beginning of a text only".into(),
                ));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<&str> {
        left_alone(text, |name| ["HOME", "USER"].contains(&name)).map(|(span, _)| &text[span])
    }

    #[test]
    fn what_a_shell_would_fill_in_is_found() {
        let table = [
            ("$HOME/x", Some("$HOME")),
            ("é $USER", Some("$USER")),
            ("$(date +%s)", Some("$(date +%s)")),
            ("a$(", Some("$(")),
            ("--dir=~/x", Some("~")),
            ("/bin:~/bin", Some("~")),
            ("${HOME}", None),
            ("$$HOME", None),
            ("$UNKNOWN", None),
            ("{print $1}", None),
            ("^a$", None),
            ("~/x", None),
            ("a~/x", None),
        ];
        for (text, wanted) in table {
            assert_eq!(found(text), wanted, "{text}");
        }
    }
}
