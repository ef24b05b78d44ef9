//! The checker's view of one manifest: each setting takes its fields out of the form, interpolates their texts, and
//! reports what is wrong with them. Owns field paths, ranges and the wording of range errors. Does not know the
//! position of a field in a file, nor where variables come from.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::manifest::pattern::{Case, Pattern};
use crate::model::manifest::quantity::{Size, Span};
use crate::model::manifest::switch;

/// A problem with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The field's path, such as `prelaunch[2].timeout`.
    pub path: String,
    /// What is wrong, without the position.
    pub message: String,
    /// How to fix it; may be empty.
    pub help: String,
    /// Whether the manifest is applied in spite of this.
    pub warning: bool,
}

/// How a variable's value is inserted into a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insert {
    /// Unchanged.
    AsIs,
    /// Escaped for a regular expression: the value matches itself literally.
    Escaped,
    /// Unchanged, into a script: the program that reads it has variables of its own.
    Script,
}

/// Whether a form has every field that was written. Fields with mistakes are left out, so that the others are still
/// checked. Problems that only follow from a left-out field must not be reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// Every field is there.
    Yes,
    /// At least one field was left out.
    No,
}

/// Interpolates the text at a field path.
pub type FillIn<'a> = &'a mut dyn FnMut(&str, String, Insert) -> String;

/// The longest wait or limit. A longer one is a mistake, because no session lasts that long.
pub const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The fields of one manifest, and the problems found so far.
pub struct Fields<'a> {
    path: String,
    fill_in: FillIn<'a>,
    whole: Whole,
    findings: Vec<Finding>,
}

impl<'a> Fields<'a> {
    /// The fields of a whole manifest. `fill_in` interpolates each text.
    pub fn new(fill_in: FillIn<'a>, whole: Whole) -> Self {
        Fields { path: String::new(), fill_in, whole, findings: Vec::new() }
    }

    /// Everything that was reported, in the order of the checks.
    pub fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    /// Checks the fields of the setting in `field`.
    pub fn within<T>(&mut self, field: &str, check: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path = self.path_of(field);
        let checked = check(self);
        self.path.truncate(length);
        checked
    }

    /// Checks each element of the list in `field`.
    pub fn each<F, T>(&mut self, field: &str, list: Vec<F>, mut check: impl FnMut(&mut Self, F) -> T) -> Vec<T> {
        let element = |(i, form)| self.within(&format!("{field}[{i}]"), |fields| check(fields, form));
        list.into_iter().enumerate().map(element).collect()
    }

    /// Reports an error in `field`: the manifest is not applied.
    pub fn error(&mut self, field: &str, message: impl Into<String>, help: impl Into<String>) {
        let finding = Finding { path: self.path_of(field), message: message.into(), help: help.into(), warning: false };
        self.findings.push(finding);
    }

    /// Reports that this field does not fit another one.
    pub fn mismatch(&mut self, field: &str, message: impl Into<String>, help: impl Into<String>) {
        if self.whole == Whole::Yes {
            self.error(field, message, help);
        }
    }

    /// Reports a warning about `field`: the manifest is applied all the same.
    pub fn warning(&mut self, field: &str, message: impl Into<String>, help: impl Into<String>) {
        let finding = Finding { path: self.path_of(field), message: message.into(), help: help.into(), warning: true };
        self.findings.push(finding);
    }

    /// The text of `field`, interpolated.
    pub fn text(&mut self, field: &str, text: String) -> String {
        let path = self.path_of(field);
        (self.fill_in)(&path, text, Insert::AsIs)
    }

    /// The texts of a list, interpolated. In a script (the word after `-c` or `-e`), only variables that are known are
    /// replaced.
    pub fn texts(&mut self, field: &str, texts: Vec<String>) -> Vec<String> {
        let mut insert = Insert::AsIs;
        let fill_in = |(i, text): (usize, String)| {
            let path = self.path_of(&format!("{field}[{i}]"));
            let before =
                std::mem::replace(&mut insert, if takes_script(&text) { Insert::Script } else { Insert::AsIs });
            (self.fill_in)(&path, text, before)
        };
        texts.into_iter().enumerate().map(fill_in).collect()
    }

    /// The values of a map, interpolated; its keys stay as they are.
    pub fn map(&mut self, field: &str, map: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let filled = |(key, text)| {
            let text = self.text(&format!("{field}.{key}"), text);
            (key, text)
        };
        map.into_iter().map(filled).collect()
    }

    /// A program and its arguments.
    pub fn command(&mut self, field: &str, argv: Vec<String>) -> Vec<String> {
        let argv = self.texts(field, argv);
        if argv.first().is_none_or(String::is_empty) {
            self.error(field, "the command is empty", "name a program");
        }
        argv
    }

    /// An absolute path.
    pub fn path(&mut self, field: &str, text: String) -> PathBuf {
        let text = self.text(field, text);
        if !text.starts_with('/') {
            self.error(
                field,
                format!("`{text}` is a relative path"),
                "use an absolute path, or one that begins with `~/`",
            );
        }
        PathBuf::from(text)
    }

    /// A regular expression. An invalid one is reported and matches nothing.
    pub fn pattern(&mut self, field: &str, text: String, case: Case) -> Pattern {
        let path = self.path_of(field);
        let text = (self.fill_in)(&path, text, Insert::Escaped);
        Pattern::new(&text, case).unwrap_or_else(|error| {
            self.error(field, format!("this is not a regex: {error}"), "");
            Pattern::nothing()
        })
    }

    /// A length of time within `range`.
    pub fn duration(
        &mut self,
        field: &str,
        text: Option<String>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(text) = text else { return default };
        match self.text(field, text).parse::<Span>() {
            Ok(Span(duration)) => {
                self.in_range(field, Span(duration), Span(*range.start())..=Span(*range.end()));
                duration
            }
            Err(message) => {
                self.error(field, message, "");
                default
            }
        }
    }

    /// A number of bytes within `range`.
    pub fn size(&mut self, field: &str, text: String, default: u64, range: RangeInclusive<u64>) -> u64 {
        match self.text(field, text).parse::<Size>() {
            Ok(Size(bytes)) => {
                self.in_range(field, Size(bytes), Size(*range.start())..=Size(*range.end()));
                bytes
            }
            Err(message) => {
                self.error(field, message, "");
                default
            }
        }
    }

    /// A number within `range`.
    pub fn number<N: PartialOrd + Display + Copy>(&mut self, field: &str, number: N, range: RangeInclusive<N>) -> N {
        self.in_range(field, number, range);
        number
    }

    /// A switch. `otherwise` is the message for a text that is neither on nor off. Such a text counts as on, because a
    /// mistyped switch was more likely meant to be on.
    pub fn switch(&mut self, field: &str, text: String, otherwise: &str) -> bool {
        let text = self.text(field, text);
        switch::read(&text).unwrap_or_else(|| {
            self.warning(field, format!("`{text}` is neither on nor off; {otherwise}"), switch::HELP);
            true
        })
    }

    fn in_range<V: PartialOrd + Display>(&mut self, field: &str, value: V, range: RangeInclusive<V>) {
        if !range.contains(&value) {
            let help = format!("use {} to {}", range.start(), range.end());
            self.error(field, format!("{value} is out of range"), help);
        }
    }

    /// The full path of `field` in the setting that is being checked.
    fn path_of(&self, field: &str) -> String {
        match (self.path.is_empty(), field.is_empty()) {
            (true, _) => field.into(),
            (_, true) => self.path.clone(),
            _ => format!("{}.{field}", self.path),
        }
    }
}

/// Whether the word after this one is a script, as in `sh -c SCRIPT` and `perl -e SCRIPT`.
fn takes_script(word: &str) -> bool {
    let letters = word.strip_prefix('-').filter(|letters| letters.len() <= 3);
    letters.is_some_and(|letters| letters.ends_with(['c', 'e']))
}
