//! Patterns: compiled regular expressions that can be compared and printed. The only place that compiles them, so that
//! the pattern that passed the check is the one in use.

use std::fmt;

use regex_lite::{Regex, RegexBuilder};

/// Whether matching is case-sensitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Upper and lower case differ, as in paths and arguments.
    Sensitive,
    /// Upper and lower case are the same, as in window classes.
    Ignored,
}

/// A compiled regular expression. Two are equal if their text and case are.
#[derive(Clone)]
pub struct Pattern {
    regex: Regex,
    case: Case,
}

impl Pattern {
    /// Compiles the text. The error says what is wrong with it.
    pub fn new(text: &str, case: Case) -> Result<Self, String> {
        let regex = RegexBuilder::new(text).case_insensitive(case == Case::Ignored).build();
        regex.map(|regex| Pattern { regex, case }).map_err(|error| error.to_string())
    }

    /// A pattern that matches nothing.
    pub fn nothing() -> Self {
        Pattern::new(r"[^\s\S]", Case::Sensitive).expect("a class without members")
    }

    /// Whether the pattern matches anywhere in the text.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The regular expression as it was compiled.
    pub fn as_str(&self) -> &str {
        self.regex.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        (self.as_str(), self.case) == (other.as_str(), other.case)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_matches_nothing() {
        assert!(["", "a", "\n", "a\nb"].iter().all(|text| !Pattern::nothing().is_match(text)));
    }

    #[test]
    fn patterns_are_compared_by_text_and_case() {
        let pattern = |case| Pattern::new("^Web$", case).unwrap();
        assert_eq!(pattern(Case::Ignored), pattern(Case::Ignored));
        assert_ne!(pattern(Case::Ignored), pattern(Case::Sensitive));
        assert!(pattern(Case::Ignored).is_match("WEB") && !pattern(Case::Sensitive).is_match("WEB"));
    }
}
