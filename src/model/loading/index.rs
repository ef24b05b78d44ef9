//! Index of a RON text: the byte range of each field. Errors of ron have a position; problems that are found after
//! parsing need this index to point at a line. Accepts everything that ron accepts and never judges a value, with one
//! exception: it finds map keys that are written twice, which ron accepts silently.

mod reader;

use std::ops::Range;

/// One field of a text. Ranges are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// For example `prelaunch[2].timeout`. Map keys count as fields; names of structs and variants are left out.
    pub path: String,
    /// The range of the field's name or the map's key; empty for elements of lists.
    pub key: Range<usize>,
    /// The range of the value, without white space around it.
    pub value: Range<usize>,
    /// For a string without escapes, the offset of its text within `value`; 0 for anything else.
    pub plain: usize,
}

impl IndexEntry {
    /// From the key to the end of the value.
    pub fn whole(&self) -> Range<usize> {
        if self.key.is_empty() { self.value.clone() } else { self.key.start..self.value.end }
    }
}

/// All fields of one text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// A parent comes after its children.
    entries: Vec<IndexEntry>,
    /// Second and later occurrences of a key in one map.
    pub doubled: Vec<Range<usize>>,
}

/// A place that the index could not read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The byte at which it stopped.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
    /// What to do about it; may be empty.
    pub help: &'static str,
}

impl Index {
    /// Indexes a text. The error says where it cannot be read.
    pub fn of(text: &str) -> Result<Index, Unreadable> {
        reader::read(text)
    }

    /// All fields. A parent comes after its children.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The field at this path.
    pub fn find(&self, path: &str) -> Option<&IndexEntry> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    /// The entry itself, or its closest parent that is present in the text.
    pub fn closest(&self, path: &str) -> Option<&IndexEntry> {
        let mut path = path;
        loop {
            if let Some(entry) = self.find(path) {
                return Some(entry);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// The innermost field whose value contains this byte. The closing parenthesis of a struct is part of its value.
    pub fn holding(&self, at: usize) -> Option<&IndexEntry> {
        self.entries.iter().filter(|entry| entry.value.contains(&at)).min_by_key(|entry| entry.value.len())
    }

    /// The innermost field around a byte.
    pub fn around(&self, at: usize) -> Option<&IndexEntry> {
        let holds = |entry: &&IndexEntry| entry.whole().start <= at && at <= entry.whole().end;
        self.entries.iter().filter(holds).min_by_key(|entry| entry.whole().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::Manifest;
    use proptest::prelude::*;

    fn value_of<'a>(text: &'a str, path: &str) -> &'a str {
        let index = Index::of(text).unwrap();
        &text[index.find(path).unwrap_or_else(|| panic!("no {path} in {index:?}")).value.clone()]
    }

    const TEXT: &str = r##"#![enable(implicit_some)]
        // a comment with "quotes" and ( parentheses
        App(
            command: "/usr/bin/x", /* nested /* comment */ here */
            args: ["--a", r#"raw " one"#, "esc\"aped"],
            env: { "LANG": "en", "A": "B" },
            prelaunch: [WaitFor(what: Tcp(address: "h:1"), timeout: "3s"), MakeDir(path: "x")],
            matches: Some((cmdline: "^x")),
            backoff: Backoff(factor: 2.0, give_up: After(times: 3, within: "1m")),
        )"##;

    #[test]
    fn every_field_is_found_by_its_path() {
        assert_eq!(value_of(TEXT, "command"), "\"/usr/bin/x\"");
        assert_eq!(value_of(TEXT, "args[1]"), r##"r#"raw " one"#"##);
        assert_eq!(value_of(TEXT, "env.LANG"), "\"en\"");
        assert_eq!(value_of(TEXT, "prelaunch[0].timeout"), "\"3s\"");
        assert_eq!(value_of(TEXT, "prelaunch[0].what.address"), "\"h:1\"");
        assert_eq!(value_of(TEXT, "matches.cmdline"), "\"^x\"");
        assert_eq!(value_of(TEXT, "backoff.give_up.times"), "3");
    }

    #[test]
    fn a_missing_field_is_placed_at_its_parent() {
        let index = Index::of(TEXT).unwrap();
        assert_eq!(index.closest("backoff.give_up.nothing.here").unwrap().path, "backoff.give_up");
        assert_eq!(index.closest("prelaunch[7].path").unwrap().path, "prelaunch");
        assert!(index.closest("unheard_of").is_none());
    }

    #[test]
    fn a_key_written_twice_is_noticed() {
        let text = r#"App(command: "x", env: {"A": "1", "B": "2", "A": "3"})"#;
        let index = Index::of(text).unwrap();
        assert_eq!(index.doubled.len(), 1);
        assert_eq!(index.doubled[0].start, text.rfind("\"A\"").unwrap());
    }

    #[test]
    fn a_key_is_the_same_however_it_is_spelled() {
        for again in [r#""\u{41}""#, r#"r"A""#, r##"r#"A"#"##] {
            let text = format!(r#"App(env: {{"A": "1", {again}: "2"}})"#);
            assert_eq!(Index::of(&text).unwrap().doubled.len(), 1, "{text}");
        }
    }

    #[test]
    fn the_byte_behind_a_value_belongs_to_its_parent() {
        let text = r#"App(about: "x", log: Log(tail: 3))"#;
        let index = Index::of(text).unwrap();
        let holder = |at: usize| index.holding(at).map(|entry| entry.path.as_str());
        assert_eq!(holder(text.len() - 2), Some("log"));
        assert_eq!(holder(text.len() - 1), None);
    }

    #[test]
    fn ten_thousand_parentheses_are_refused_not_followed() {
        let deep = "(".repeat(10_000);
        assert_eq!(Index::of(&deep).unwrap_err().what, "this is nested too deeply");
    }

    /// RON as written by people and generators.
    fn any_ron() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("true".to_string()),
            Just("None".to_string()),
            Just("()".to_string()),
            Just("'x'".to_string()),
            Just("'\\''".to_string()),
            Just("'''".to_string()),
            Just("b'x'".to_string()),
            Just("b\"bytes\"".to_string()),
            Just("inf".to_string()),
            Just("-NaN".to_string()),
            Just("1_000u32".to_string()),
            Just("0xFF".to_string()),
            any::<f64>().prop_map(|number| format!("{number:?}")),
            any::<i64>().prop_map(|number| number.to_string()),
            ".*".prop_map(|text| format!("{text:?}")),
            "[^\"#]*".prop_map(|text| format!("r#\"{text}\"#")),
        ];
        let space = prop_oneof![Just(""), Just(" "), Just("\n"), Just("/* c /* d */ */"), Just("// e\n")];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            let space = space.clone();
            let items = proptest::collection::vec((inner.clone(), space.clone()), 0..5);
            prop_oneof![
                items.clone().prop_map(|items| format!(
                    "[{}]",
                    items.iter().map(|(i, s)| format!("{s}{i}{s},")).collect::<String>()
                )),
                items.clone().prop_map(|items| format!(
                    "Name({})",
                    items.iter().enumerate().map(|(n, (i, s))| format!("f{n}{s}:{s}{i},")).collect::<String>()
                )),
                items.clone().prop_map(|items| format!(
                    "({})",
                    items.iter().map(|(i, s)| format!("{i}{s},")).collect::<String>()
                )),
                items.prop_map(|items| format!(
                    "{{{}}}",
                    items.iter().enumerate().map(|(n, (i, s))| format!("\"k{n}\"{s}:{i},")).collect::<String>()
                )),
                inner.prop_map(|inner| format!("Some({inner})")),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_ron_accepts_is_indexed(text in any_ron()) {
            if ron::from_str::<ron::Value>(&text).is_ok() {
                prop_assert!(Index::of(&text).is_ok(), "{text}: {:?}", Index::of(&text));
            }
        }

        #[test]
        fn whatever_ron_writes_is_indexed(value in any_ron(), compact: bool, depth in 0usize..4) {
            let Ok(value) = ron::from_str::<ron::Value>(&value) else { return Ok(()) };
            let pretty = ron::ser::PrettyConfig::new().depth_limit(depth).compact_arrays(compact).struct_names(true);
            for text in [ron::ser::to_string(&value).unwrap(), ron::ser::to_string_pretty(&value, pretty).unwrap()] {
                prop_assert!(Index::of(&text).is_ok(), "{text}: {:?}", Index::of(&text));
            }
        }

        /// Valid texts with a piece removed, inserted or repeated: the index accepts whatever RON still accepts.
        #[test]
        fn whatever_ron_accepts_of_a_damaged_text_is_indexed(
            text in any_ron(),
            at in any::<prop::sample::Index>(),
            length in 0usize..4,
            piece in "[(){}\\[\\]:,\"'#/*\\\\rb_.0-9 \n]{0,3}|r#|//|br\"|Some\\(|\u{200e}|\u{301}|\u{2028}|\u{feff}",
        ) {
            let mut characters: Vec<char> = text.chars().collect();
            let start = at.index(characters.len() + 1);
            let end = (start + length).min(characters.len());
            characters.splice(start..end, piece.chars());
            let damaged: String = characters.into_iter().collect();
            if ron::from_str::<ron::Value>(&damaged).is_ok() {
                prop_assert!(Index::of(&damaged).is_ok(), "{damaged:?}: {:?}", Index::of(&damaged));
            }
        }

        #[test]
        fn nothing_makes_it_panic(text in "[\\x20-\\x7e\\n\\\\\"'(){}\\[\\]:,#é]{0,60}") {
            if Index::of(&text).is_err() {
                prop_assert!(ron::from_str::<Manifest>(&text).is_err());
            }
        }
    }
}
