//! Names of apps: they are used in file names, environment variables, metrics and URLs.

/// The name of the session's own manifest; no app can have it.
pub const WORKSPACE: &str = "workspace";
const LONGEST: usize = 63;

/// The rule, for messages.
pub const RULE: &str =
    "use letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most 63, and not ending in `.ron`";

/// Whether an app may have this name.
pub fn is_allowed(name: &str) -> bool {
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    letters && name.len() <= LONGEST && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && !name.ends_with(".ron")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_wherever_they_stand() {
        assert!(["a", "Web", "app0001", "a.b_c-d", &"x".repeat(63)].into_iter().all(is_allowed));
        for name in ["", ".a", "-a", "_a", "a b", "a/b", "../a", "é", "a\n", "a:b", "a.ron", &"x".repeat(64)] {
            assert!(!is_allowed(name), "{name}");
        }
    }
}
