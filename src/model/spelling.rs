//! Suggestions for mistyped words, and counts in words.

/// The candidate closest to a mistyped word ("did you mean …?"), if one is close.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The end of an error about a name that is not among `candidates`: the one that was meant, or all of them. `none` is said if
/// there are no candidates.
pub fn way_out<'a>(word: &str, candidates: impl Iterator<Item = &'a str>, (all, none): (&str, &str)) -> String {
    let candidates: Vec<&str> = candidates.collect();
    match closest(word, candidates.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if candidates.is_empty() => none.into(),
        None => format!("{all} {}", candidates.join(", ")),
    }
}

/// A count in words: `1 restart`, `2 restarts`. `one` is a noun that takes an `s`.
pub fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// The error for a name that no app has. `apps` are the names there are.
pub fn no_such_app<'a>(name: &str, apps: impl Iterator<Item = &'a str>) -> String {
    format!("no app is called `{name}`: {}", way_out(name, apps, ("there are", "there are none yet")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "line")), ["0 lines", "1 line", "2 lines"]);
    }

    #[test]
    fn suggestions_are_close_ones() {
        assert_eq!(closest("comand", ["command", "args"]), Some("command"));
        assert_eq!(closest("zzz", ["command", "args"]), None);
    }

    #[test]
    fn an_unknown_name_comes_with_those_there_are() {
        let told = |name, apps: &[&'static str]| no_such_app(name, apps.iter().copied());
        assert_eq!(told("brwser", &["browser", "web"]), "no app is called `brwser`: did you mean `browser`?");
        assert_eq!(told("zzz", &["browser", "web"]), "no app is called `zzz`: there are browser, web");
        assert_eq!(told("zzz", &[]), "no app is called `zzz`: there are none yet");
    }
}
