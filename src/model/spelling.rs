//! Suggestions for mistyped words.

/// The candidate closest to a mistyped word ("did you mean …?"), if one is close.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_close_ones() {
        assert_eq!(closest("comand", ["command", "args"]), Some("command"));
        assert_eq!(closest("zzz", ["command", "args"]), None);
    }
}
