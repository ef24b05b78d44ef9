//! `args_fixed`: arguments that nothing can remove or change, each group with a switch. Form, check, and how they are put
//! among the other arguments.

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::Fields;
use crate::model::manifest::switch::{on, switch};

/// `Fixed(…)` as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "Fixed", deny_unknown_fields)]
pub struct FixedForm {
    /// Whether this group is used.
    #[serde(default = "on", deserialize_with = "switch")]
    pub enabled: String,
    /// Arguments, each a flag in one word: `--flag` or `--flag=value`.
    pub args: Vec<String>,
    /// Flags that are removed, because they would cancel these.
    #[serde(default)]
    pub without: Vec<String>,
}

/// The groups of an app that are switched on, as one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FixedArgs {
    args: Vec<String>,
    without: Vec<String>,
}

/// An argument that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// As it was written.
    pub word: String,
    /// The fixed argument that is used instead; `None` if the flag is not allowed at all.
    pub instead: Option<String>,
}

/// Checks all groups, and joins those that are on.
pub fn check(groups: Vec<FixedForm>, fields: &mut Fields<'_>) -> FixedArgs {
    let mut fixed = FixedArgs::default();
    let groups = fields.each("args_fixed", groups, |fields, FixedForm { enabled, args, without }| {
        let is_on = fields.switch("enabled", enabled, "these arguments stay fixed");
        let (args, without) = (fields.texts("args", args), fields.texts("without", without));
        for (field, words) in [("args", &args), ("without", &without)] {
            for (i, word) in words.iter().enumerate().filter(|(_, word)| !word.starts_with('-')) {
                let help = "write a flag and its value as one word, as in \"--flag=value\"";
                fields.error(&format!("{field}[{i}]"), format!("`{word}` is not a flag"), help);
            }
        }
        is_on.then_some((args, without))
    });
    for (args, without) in groups.into_iter().flatten() {
        fixed.args.extend(args);
        fixed.without.extend(without);
    }
    fixed
}

impl FixedArgs {
    /// Puts the fixed arguments before the others, and removes what contradicts them. They come first because nothing behind
    /// `--` is a flag. Returns what was removed and says something else.
    pub fn apply(&self, words: Vec<String>) -> (Vec<String>, Vec<Removed>) {
        let mut kept = self.args.clone();
        let mut removed = Vec::new();
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            let name = flag(&word);
            if name.is_some() && self.without.iter().any(|other| flag(other) == name) {
                removed.push(Removed { word, instead: None });
                continue;
            }
            let Some(own) = self.args.iter().find(|own| name.is_some() && flag(own) == name) else {
                kept.push(word);
                continue;
            };
            // `--flag value` means the same as `--flag=value` to most programs.
            let is_split = own.contains('=') && !word.contains('=');
            let value = if is_split { words.next_if(|next| !next.starts_with('-')) } else { None };
            let written = value.map_or(word.clone(), |value| format!("{word}={value}"));
            if written != *own {
                removed.push(Removed { word: written, instead: Some(own.clone()) });
            }
        }
        (kept, removed)
    }
}

/// The name of a flag. Many programs take `-flag` for `--flag`.
fn flag(word: &str) -> Option<&str> {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    let name = name.split('=').next().unwrap_or_default();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fixed() -> FixedArgs {
        FixedArgs {
            args: vec!["--proxy=http://127.0.0.1:9997".into(), "--no-quic".into()],
            without: vec!["--no-proxy".into()],
        }
    }

    fn applied(words: &str) -> (String, Vec<(String, Option<String>)>) {
        let (kept, removed) = fixed().apply(words.split(' ').map(String::from).collect());
        let removed = removed.into_iter().map(|Removed { word, instead }| (word, instead));
        (kept[2..].join(" "), removed.collect())
    }

    #[test]
    fn what_contradicts_a_fixed_argument_is_removed_and_told() {
        let instead = || Some("--proxy=http://127.0.0.1:9997".to_owned());
        for (words, kept, removed) in [
            ("--a b", "--a b", vec![]),
            ("--proxy=http://127.0.0.1:9997 --no-quic x", "x", vec![]),
            ("--proxy http://127.0.0.1:9997 x", "x", vec![]),
            ("--proxy=direct:// x", "x", vec![("--proxy=direct://", instead())]),
            ("--proxy direct:// x", "x", vec![("--proxy=direct://", instead())]),
            ("-proxy=direct://", "", vec![("-proxy=direct://", instead())]),
            ("--proxy --a", "--a", vec![("--proxy", instead())]),
            ("--no-proxy https://a.com", "https://a.com", vec![("--no-proxy", None)]),
            ("-no-proxy=1", "", vec![("-no-proxy=1", None)]),
            ("--proxy-other=1 -- --no-proxied", "--proxy-other=1 -- --no-proxied", vec![]),
        ] {
            let removed: Vec<_> = removed.into_iter().map(|(word, instead)| (word.to_owned(), instead)).collect();
            assert_eq!(applied(words), (kept.to_owned(), removed), "{words}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_others_are_the_fixed_ones_are_first_and_alone(
            words in prop::collection::vec("-{0,2}(proxy|no-proxy|no-quic|a|)(=?)[a-z]{0,3}", 0..8),
        ) {
            let (kept, _) = fixed().apply(words);
            prop_assert_eq!(&kept[..2], &fixed().args[..]);
            let named = |name| kept.iter().filter(|word| flag(word) == Some(name)).count();
            prop_assert_eq!((named("proxy"), named("no-quic"), named("no-proxy")), (1, 1, 0));
        }
    }
}
