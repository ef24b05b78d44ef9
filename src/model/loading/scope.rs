//! Scope: the variables that the strings of one manifest may use, and their interpolation. Owns `vars`. If one of them
//! fails, the fields that use it are not reported, because they are not wrong. Judges no value.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::loading::interpolate::{Failed, interpolate};
use crate::model::loading::locator::Locator;
use crate::model::loading::parse::MOST_PROBLEMS;
use crate::model::loading::problem::Problem;
use crate::model::loading::shell;
use crate::model::manifest::fields::{Insert, Whole};

/// The longest chain of vars that refer to each other.
const MOST_VARS_IN_A_ROW: usize = 64;
/// The most bytes for all interpolated strings of one manifest: more than any program accepts.
const MOST_BYTES: usize = 4 << 20;

type LookUp<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables that texts of one manifest may name, and the problems found on the way.
pub struct Scope<'a> {
    vars: Vars<'a>,
    locator: &'a Locator<'a>,
    whole: Whole,
    /// The fields whose text is unknown. Problems with their values are consequences and are not reported.
    unsure: BTreeSet<String>,
    filled: usize,
    problems: Vec<Problem>,
}

impl<'a> Scope<'a> {
    /// `fixed`: vars whose value replaces the written one. `outer`: looks up names that are not vars.
    pub fn new(
        (written, fixed): (BTreeMap<String, String>, BTreeMap<String, String>),
        outer: LookUp<'a>,
        home: Option<&'a str>,
        (locator, whole): (&'a Locator<'a>, Whole),
    ) -> Self {
        let mut vars = Vars { written, outer, home, open: Vec::new(), done: BTreeMap::new(), failed: Vec::new() };
        let problems = vars.fix(fixed, locator);
        for name in vars.written.keys().cloned().collect::<Vec<_>>() {
            vars.value(&name);
        }
        let mut scope = Scope { vars, locator, whole, unsure: BTreeSet::new(), filled: 0, problems };
        for (name, failed) in std::mem::take(&mut scope.vars.failed) {
            scope.fail(&format!("vars.{name}"), failed);
        }
        scope
    }

    /// The interpolated text. A text that fails is returned as it was written.
    pub fn fill_in(&mut self, path: &str, text: String, insert: Insert) -> String {
        if self.filled > MOST_BYTES || self.locator.is_full() {
            return text;
        }
        match self.vars.interpolated(&text, insert) {
            Ok(None) => {
                self.unsure.insert(path.into());
            }
            Ok(Some(filled)) if filled.contains('\0') => {
                self.tell(path, self.locator.problem(path, "a text with a NUL byte cannot be given to a program"));
            }
            Ok(Some(filled)) => {
                self.filled += filled.len();
                if insert == Insert::AsIs {
                    self.warn_of_shell(path, &text);
                }
                if self.filled > MOST_BYTES {
                    let message = "the texts up to here are longer than 4 MiB when they are filled in";
                    self.tell(path, self.locator.problem(path, message).help("no program accepts that much"));
                }
                return filled;
            }
            Err(failed) => self.fail(path, failed),
        }
        text
    }

    /// Warns of text that a shell would expand, because no shell reads it here.
    fn warn_of_shell(&mut self, path: &str, text: &str) {
        let Some((span, help)) = shell::left_alone(text, |name| self.vars.is_known(name)) else { return };
        let message = format!("`{}` stays as it is: no shell reads this", &text[span.clone()]);
        self.problems.push(self.locator.problem_within(path, span, message).help(help).warning());
    }

    fn fail(&mut self, path: &str, failed: Failed) {
        if self.whole == Whole::No {
            self.unsure.insert(path.into());
            return; // it may use a var that was left out because of its own mistake
        }
        let problem = self.locator.problem_within(path, failed.span, failed.message).help(failed.help);
        self.tell(path, problem);
    }

    fn tell(&mut self, path: &str, problem: Problem) {
        self.unsure.insert(path.into());
        self.problems.push(problem);
    }

    /// Puts the failures of the scope before the given problems, and drops those that are only their consequences.
    /// Returns the vars.
    pub fn conclude(self, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
        problems.retain(|problem| !self.unsure.contains(&problem.field));
        problems.splice(0..0, self.problems);
        // An error decides about the app, so warnings must not push it over the limit.
        problems.sort_by_key(|problem| problem.severity);
        problems.truncate(MOST_PROBLEMS);
        self.vars.done.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// `vars` may use each other, in any order, but not in a circle.
struct Vars<'a> {
    written: BTreeMap<String, String>,
    outer: LookUp<'a>,
    home: Option<&'a str>,
    /// The vars being interpolated; each one is used by the one before.
    open: Vec<String>,
    /// `None` if the var failed, or one that it uses.
    done: BTreeMap<String, Option<String>>,
    failed: Vec<(String, Failed)>,
}

impl Vars<'_> {
    /// Gives vars the values of an override. Warns if a value differs from the written one, because other manifests may
    /// rely on that.
    fn fix(&mut self, fixed: BTreeMap<String, String>, locator: &Locator<'_>) -> Vec<Problem> {
        let fixed: BTreeMap<_, _> = fixed.into_iter().filter(|(name, _)| self.written.contains_key(name)).collect();
        let differing = |(name, value): (&String, &String)| {
            let written = self.value(name).filter(|written| written != value)?;
            let message = format!("the override of `args` sets this to `{value}`, where it would be `{written}`");
            let help = "hooks, patterns and probes of this manifest follow it; other manifests do not";
            Some(locator.problem(&format!("vars.{name}"), message).help(help).warning())
        };
        let problems = fixed.iter().filter_map(differing).collect();
        self.failed.clear();
        self.done = fixed.into_iter().map(|(name, value)| (name, Some(value))).collect();
        problems
    }

    fn value(&mut self, name: &str) -> Option<String> {
        if let Some(value) = self.done.get(name) {
            return value.clone();
        }
        let text = self.written.get(name)?.clone();
        self.open.push(name.into());
        let value = self.interpolated(&text, Insert::AsIs).unwrap_or_else(|failed| {
            self.failed.push((name.into(), failed));
            None
        });
        self.open.pop();
        self.done.insert(name.into(), value.clone());
        value
    }

    /// `None` if the text uses a var that has failed.
    fn interpolated(&mut self, text: &str, insert: Insert) -> Result<Option<String>, Failed> {
        let mut leans = false;
        let home = self.home;
        let filled = interpolate(text, home, insert, &mut |name| {
            if !self.written.contains_key(name) {
                return Ok((self.outer)(name));
            }
            self.refuse_circle(name)?;
            let value = self.value(name);
            leans |= value.is_none();
            Ok(Some(value.unwrap_or_default()))
        });
        filled.map(|filled| Some(filled).filter(|_| !leans))
    }

    fn is_known(&self, name: &str) -> bool {
        self.written.contains_key(name) || (self.outer)(name).is_some()
    }

    fn refuse_circle(&self, name: &str) -> Result<(), String> {
        if let Some(at) = self.open.iter().position(|open| open == name) {
            return Err(format!("these refer to each other: {} -> {name}", self.open[at..].join(" -> ")));
        }
        match self.open.len() >= MOST_VARS_IN_A_ROW && !self.done.contains_key(name) {
            true => Err(format!("more than {MOST_VARS_IN_A_ROW} vars refer to each other in a row")),
            false => Ok(()),
        }
    }
}
