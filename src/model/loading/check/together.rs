//! Together: problems between apps: unknown names in `after`, circles, and two apps that match the same processes.
//! Decides which app is held back for them: a new or changed app rather than an unchanged one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Known;
use crate::model::app::App;
use crate::model::loading::locator::Locator;
use crate::model::loading::problem::Problem;
use crate::model::loading::source::Source;
use crate::model::manifest::after::Until;
use crate::model::manifest::matches::FolderFlag;
use crate::model::manifest::restart::Restart;
use crate::model::spelling::closest;

/// The problems by app. An app with problems is not applied.
pub type ProblemsByApp = BTreeMap<String, Vec<Problem>>;

/// First checks what is written, to report everything at once, and then what would be applied: an old version that
/// stays because of another mistake may also clash with a new one.
pub fn check(known: &BTreeMap<String, Known>, sources: &[&Source]) -> ProblemsByApp {
    let mut session = Session {
        known,
        sources: sources.iter().map(|s| (s.name.as_str(), *s)).collect(),
        found: ProblemsByApp::new(),
    };
    session.unknown_names();
    let written = session.view(|_, known| known.latest.as_deref());
    session.clashes(&written);
    loop {
        let before = session.held();
        let applied = session.view(|session, known| session.applied(known));
        session.clashes(&applied);
        if session.held() == before {
            return session.found;
        }
    }
}

type View<'a> = BTreeMap<&'a str, &'a App>;

struct Session<'a> {
    known: &'a BTreeMap<String, Known>,
    sources: BTreeMap<&'a str, &'a Source>,
    found: ProblemsByApp,
}

impl<'a> Session<'a> {
    fn view(&self, version: impl Fn(&Self, &'a Known) -> Option<&'a App>) -> View<'a> {
        self.known.iter().filter_map(|(name, known)| Some((name.as_str(), version(self, known)?))).collect()
    }

    /// The version that would be applied, given the problems found so far.
    fn applied(&self, known: &'a Known) -> Option<&'a App> {
        let latest = known.latest.as_deref().filter(|app| !known.is_wrong() && !self.found.contains_key(&app.name));
        latest.or(known.good.as_deref())
    }

    fn held(&self) -> usize {
        self.found.len()
    }

    fn tell(&mut self, name: &str, find: impl FnOnce(&Locator<'_>) -> Problem) {
        let Some(source) = self.sources.get(name) else { return };
        let problem = find(&Locator::new(source));
        let told = self.found.entry(name.into()).or_default();
        if !told.contains(&problem) {
            told.push(problem);
        }
    }

    fn unknown_names(&mut self) {
        for (name, known) in self.known {
            let after = known.latest.iter().flat_map(|app| app.after.iter().enumerate());
            for (i, other) in
                after.map(|(i, after)| (i, &after.app)).filter(|(_, other)| !self.known.contains_key(*other))
            {
                let help = self.meant(name, other);
                self.tell(name, |locator| {
                    locator.problem(&format!("after[{i}]"), format!("no app is called `{other}`")).help(help)
                });
            }
        }
    }

    fn meant(&self, name: &str, other: &str) -> String {
        let names: Vec<&str> = self.known.keys().map(String::as_str).filter(|known| *known != name).collect();
        match closest(other, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "there is no other app".into(),
            None => format!("there are {}", names.join(", ")),
        }
    }

    fn clashes(&mut self, view: &View<'a>) {
        for circle in circles(view) {
            let newcomer = circle.iter().find(|name| self.is_new(view, name, |app| app.after.as_slice()));
            let Some(newcomer) = newcomer else { continue };
            let message = format!("these wait for each other: {} -> {}", circle.join(" -> "), circle[0]);
            self.tell(newcomer, |locator| locator.problem("after", message).help("take one of them out of the circle"));
        }
        for (name, i, other) in never_succeeding(view) {
            let message =
                || format!("`{name}` waits for the success of `{other}`, which is restarted after every exit");
            if self.is_new(view, name, |app| app.after.as_slice()) {
                let help = format!("write `restart: OnFailure` in {other}.ron");
                self.tell(name, |locator| locator.problem(&format!("after[{i}].until"), message()).help(help));
            } else if self.is_new(view, other, |app| app.policy.restart) {
                self.tell(other, |locator| locator.problem("restart", message()).help("write `OnFailure` or `Never`"));
            }
        }
        for [first, second] in same_patterns(view) {
            let newcomer = [second, first].into_iter().find(|name| self.is_new(view, name, pattern));
            let Some(newcomer) = newcomer else { continue };
            let other = if newcomer == second { first } else { second };
            self.tell(newcomer, |locator| {
                locator
                    .problem("matches.cmdline", format!("`{other}` has the same pattern"))
                    .help("one process cannot be two apps: make one pattern narrower")
            });
        }
    }

    /// Whether this part differs from the app's last good version.
    fn is_new<'b, T: PartialEq>(&'b self, view: &'b View<'a>, name: &str, part: fn(&'b App) -> T) -> bool {
        self.known[name].good.as_deref().is_none_or(|good| part(good) != part(view[name]))
    }
}

/// The part of a matcher that must be different for each app.
fn pattern(app: &App) -> (&str, Option<&FolderFlag>) {
    app.matcher.as_ref().map_or(("", None), |matcher| (matcher.cmdline.as_str(), matcher.same_folder.as_ref()))
}

/// Pairs of apps with the same pattern, the earlier one first.
fn same_patterns<'a>(view: &View<'a>) -> Vec<[&'a str; 2]> {
    let mut first = BTreeMap::new();
    let mut pairs = Vec::new();
    for (name, app) in view.iter().filter(|(_, app)| app.matcher.is_some()) {
        match first.get(&pattern(app)) {
            Some(earlier) => pairs.push([*earlier, *name]),
            None => {
                first.insert(pattern(app), name);
            }
        }
    }
    pairs
}

/// Apps that wait for the success of one that never stays down: the name, the place in `after`, and the other's name.
fn never_succeeding<'a>(view: &View<'a>) -> Vec<(&'a str, usize, &'a str)> {
    let mut found = Vec::new();
    for (name, app) in view {
        for (i, after) in app.after.iter().enumerate().filter(|(_, after)| after.until == Until::Succeeded) {
            let other = view.get(after.app.as_str()).filter(|other| other.policy.restart == Restart::Always);
            found.extend(other.map(|other| (*name, i, other.name.as_str())));
        }
    }
    found
}

/// The circles through `after`, each reported once, beginning with the first of its names.
fn circles<'a>(view: &View<'a>) -> Vec<Vec<&'a str>> {
    let tangled = tangled(view);
    let mut told = BTreeSet::new();
    let mut circles = Vec::new();
    for start in &tangled {
        if told.contains(start) {
            continue;
        }
        if let Some(circle) = way_back(view, &tangled, start) {
            told.extend(circle.iter().copied());
            circles.push(circle);
        }
    }
    circles
}

/// The apps that have no valid start order, and those that wait for them. In nearly every session there are none.
fn tangled<'a>(view: &View<'a>) -> BTreeSet<&'a str> {
    let mut waits: BTreeMap<&str, usize> = BTreeMap::new();
    let mut waiters: BTreeMap<&str, Vec<&'a str>> = BTreeMap::new();
    for (name, app) in view {
        let others = app.after.iter().map(|after| &after.app).filter(|other| view.contains_key(other.as_str()));
        for other in others {
            waiters.entry(other).or_default().push(name);
            *waits.entry(name).or_default() += 1;
        }
    }
    let mut tangled: BTreeSet<&str> = view.keys().copied().collect();
    let mut free: Vec<&str> = view.keys().copied().filter(|name| !waits.contains_key(name)).collect();
    while let Some(name) = free.pop() {
        tangled.remove(name);
        for waiter in waiters.remove(name).unwrap_or_default() {
            let left = waits.get_mut(waiter).expect("every waiting app is counted");
            *left -= 1;
            if *left == 0 {
                free.push(waiter);
            }
        }
    }
    tangled
}

/// The shortest way through `after` from an app back to itself.
fn way_back<'a>(view: &View<'a>, tangled: &BTreeSet<&'a str>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut came_from: BTreeMap<&str, &'a str> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(at) = next.pop_front() {
        for other in view[at].after.iter().filter_map(|after| tangled.get(after.app.as_str())) {
            if *other == start {
                let mut way = vec![at];
                while let Some(before) = came_from.get(way[way.len() - 1]) {
                    way.push(before);
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(other) {
                came_from.insert(other, at);
                next.push_back(other);
            }
        }
    }
    None
}
