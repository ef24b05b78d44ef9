//! Recognises files that are not RON. Judges only by how a text begins.

/// The probable format of a text that does not begin like a manifest, if it is known.
pub fn format(text: &str) -> Option<&'static str> {
    let begin = text.lines().map(str::trim).find(|line| !is_comment(line))?;
    let name = begin.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "_-.".contains(c));
    let after = name.trim_start();
    match begin.chars().next()? {
        '#' if begin.starts_with("#!/") => Some("a script"),
        '<' => Some("XML"),
        '{' => Some("JSON"),
        '[' => Some("TOML, or a unit of systemd"),
        _ if begin.starts_with("---") => Some("YAML"),
        '-' if begin.starts_with("- ") => Some("YAML"),
        _ if name.len() == begin.len() => None,
        _ if name.starts_with(':') => Some("YAML"),
        _ if after.starts_with('=') => Some("TOML, or a unit of systemd"),
        _ => None,
    }
}

/// Whether the text is empty or holds only comments.
pub fn is_empty(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with("//"))
}

fn is_comment(line: &str) -> bool {
    line.is_empty() || line.starts_with("//") || line.starts_with('#') && !line.starts_with("#!")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_known_by_how_they_begin() {
        let table = [
            ("command: /usr/bin/xterm\nargs: []", Some("YAML")),
            ("# an app\n---\ncommand: x", Some("YAML")),
            ("services:\n  web:\n    image: x", Some("YAML")),
            ("- command: x", Some("YAML")),
            ("{\"command\": \"x\"}", Some("JSON")),
            ("[Unit]\nDescription=x", Some("TOML, or a unit of systemd")),
            ("command = \"x\"", Some("TOML, or a unit of systemd")),
            ("#!/bin/sh\nexec x", Some("a script")),
            ("<service/>", Some("XML")),
            ("App(command: \"x\")", None),
            ("# why\nApp(command: \"x\")", None),
            ("#![enable(implicit_some)]\nApp(command: \"x\")", None),
            ("(command: \"x\")", None),
            ("\0\0", None),
            ("", None),
        ];
        for (text, wanted) in table {
            assert_eq!(format(text), wanted, "{text}");
        }
        assert!(is_empty("") && is_empty("\n// later\n") && !is_empty("App()"));
    }
}
