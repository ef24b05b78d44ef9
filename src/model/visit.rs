//! One visit: the browser goes to a page, and nothing that the page leads to is asked for before the policy has
//! judged it. Owns which tab is used, each request that the browser holds meanwhile, and what the caller is told.
//! Pure: it is told the time and what the browser said, and answers with effects.
//!
//! What always holds, and is tested over random inputs:
//! - A held request is continued or failed exactly once, and continued only after the policy allowed it.
//! - When a visit ends, it holds nothing, unless it is handed over while still connected.
//! - The caller gets exactly one answer, and a visit ends by a time that no page can move.
//! - When the guard is lost, the visit ends as [`End::Lost`]: the tab must be cleared.

mod event;
mod held;
mod outcome;
mod page;
mod prepare;

use core::time::Duration;
use std::collections::BTreeSet;

pub use event::{Command, Effect, End, Event, Input, Note, Reply, SessionId, Tab, Time};
use held::{Held, HeldRequest};
pub use outcome::{Also, Fault, Outcome, Verdict};

use crate::model::url::{Policy, Refused, Target};

/// For the browser to answer a command.
pub const ANSWER: Duration = Duration::from_secs(3);
/// How long a page that missed the caller's deadline may still come; it is stopped then.
const LATE: Duration = Duration::from_secs(60);
/// For a page that may not be shown to go.
const REPLACING: Duration = Duration::from_secs(2);
/// For everything to be read that the browser has said when the guard ends.
const DRAINING: Duration = Duration::from_secs(10);
/// For a tab to stop loading at the end.
pub const STOPPING: Duration = Duration::from_millis(500);
/// Documents and hosts that are remembered. An honest page has a handful.
const REMEMBERED: usize = 256;

/// The page that shows nothing.
const EMPTY: &str = "about:blank";

/// What a visit starts from.
#[derive(Debug, Clone)]
pub struct PageRequest {
    pub target: Target,
    /// The tab of the visit before this one.
    pub tab: Option<String>,
    /// Whether the visit before this one is still connected ([`End::HandOver`]).
    pub older: bool,
    /// When the caller must have an answer.
    pub reply_by: Time,
    pub waits: Waits,
}

/// The waits that decide what becomes of a tab.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// How long a tab may take to show a sign of life before it is replaced.
    pub waking: Duration,
    /// How long a page that has come is still guarded: pages lead on after a while.
    pub watched: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits { waking: Duration::from_millis(1500), watched: Duration::from_secs(10) }
    }
}

/// How far a visit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Finding a tab and opening a session with it.
    Listing,
    Creating,
    Attaching,
    /// Waiting for a sign of life of the tab.
    Waking,
    /// Putting the guard up.
    Holding,
    AttachingFrames,
    /// Stopping what the visit before this one still holds.
    TakingOver,
    /// The page was asked for.
    Loading,
    /// The caller has been told that it is late.
    Late,
    /// The caller knows how it ended, and the page is still guarded.
    Watched,
    /// A page that may not be shown is being replaced by an empty one.
    Replacing,
    /// The guard is about to end. What the browser said until now is still being read: it may hold a request that
    /// nobody has seen, and would let it go.
    Draining,
    /// The tab is told to stop; the visit ends with its answer.
    Stopping(End),
    Ended,
}

/// One visit, from finding a tab to the end of the guard.
#[derive(Debug, Clone)]
pub struct Visit {
    policy: Policy,
    wanted: PageRequest,
    stage: Stage,
    /// When the stage ends.
    until: Time,
    calls: Calls,
    tab: OpenTab,
    navigation: Navigation,
    held: Held,
    replied: bool,
    also: Vec<Also>,
    effects: Vec<Effect>,
}

/// Commands that were sent.
#[derive(Debug, Clone, Default)]
struct Calls {
    last: u64,
    /// The one whose reply leads on.
    expected: u64,
    /// The question what a tab shows that has come back after a crash.
    recovered: Option<u64>,
}

/// The tab, as far as it is known.
#[derive(Debug, Clone, Default)]
struct OpenTab {
    id: String,
    session: Option<SessionId>,
    /// Sessions of frames of other sites, which the browser runs apart from the page.
    frames: BTreeSet<SessionId>,
    /// The id of the main frame. It differs from the tab's once a prerendered page was shown.
    main_frame: Option<String>,
    /// A tab that showed no sign of life, and is to be closed.
    hung: Option<String>,
    /// It has crashed and is not back yet; the browser may say so more than once.
    crashed: bool,
}

/// What became of the navigation.
#[derive(Debug, Clone, Default)]
struct Navigation {
    /// The document it leads to, once its response is there.
    loader: Option<String>,
    /// Documents that were shown since it began, and may be.
    shown: Vec<String>,
    /// Hosts whose addresses were judged since it began.
    hosts: BTreeSet<String>,
    /// Why the page may not go where it led.
    refused: Option<Refused>,
    download: bool,
}

impl Visit {
    /// Begins a visit. The effects are the first to perform.
    pub fn begin(now: Time, policy: Policy, wanted: PageRequest) -> (Visit, Vec<Effect>) {
        let mut visit = Visit {
            policy,
            wanted,
            stage: Stage::Listing,
            until: now,
            calls: Calls::default(),
            tab: OpenTab::default(),
            navigation: Navigation::default(),
            held: Held::default(),
            replied: false,
            also: Vec::new(),
            effects: Vec::new(),
        };
        match visit.wanted.tab.clone() {
            Some(tab) => visit.attach(now, tab),
            None => visit.list(now),
        }
        let effects = std::mem::take(&mut visit.effects);
        (visit, effects)
    }

    /// The tab that is used; empty while there is none.
    pub fn tab(&self) -> &str {
        &self.tab.id
    }

    /// When the visit wants to be told that time has passed.
    pub fn wakes_at(&self) -> Time {
        self.until
    }

    /// Takes in what happened, and says what to do about it.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Effect> {
        if self.stage == Stage::Ended {
            return Vec::new();
        }
        match input {
            Input::Replied { call, reply } => self.replied_to(now, call, reply),
            Input::Happened { session, event } => self.happened(now, session, event),
            Input::LookedUp { lookup, addresses } => self.looked_up(now, lookup, addresses),
            Input::TimePassed if now >= self.until => self.time_passed(now),
            Input::TimePassed => {}
            Input::Superseded => self.superseded(now),
            Input::Lost(fault) => self.lost(fault),
        }
        self.begin_lookups();
        std::mem::take(&mut self.effects)
    }
}

/// Going on, answering, and ending.
impl Visit {
    fn replied_to(&mut self, now: Time, call: u64, reply: Result<Reply, String>) {
        if self.calls.recovered == Some(call)
            && let Ok(Reply { frame: Some(frame), loader: Some(loader), url: Some(url), .. }) = &reply
        {
            self.shows(now, frame.clone(), loader.clone(), url);
        }
        if call != self.calls.expected {
            return;
        }
        match (self.stage, reply) {
            (Stage::Listing, Ok(reply)) => self.choose(now, &reply.tabs),
            (Stage::Listing, Err(_)) => self.create(now),
            (Stage::Creating, Ok(Reply { tab: Some(tab), .. })) => {
                self.note(if self.tab.hung.is_some() { Also::HungTabReplaced } else { Also::NewTab });
                self.attach(now, tab);
            }
            (Stage::Attaching, Ok(Reply { session: Some(session), .. })) => {
                if let Some(tab) = self.tab.hung.clone() {
                    self.send(None, Command::CloseTab { tab });
                }
                self.wake(now, session);
            }
            (Stage::Attaching, Err(_)) if self.wanted.tab.as_ref() == Some(&self.tab.id) => self.list(now),
            (Stage::Waking, reply) => {
                self.tab.main_frame = reply.ok().and_then(|reply| reply.frame);
                self.hold_documents(now);
            }
            (Stage::Holding, Ok(_)) => self.ask_page(now, Stage::AttachingFrames, ANSWER, Command::AttachFrames),
            (Stage::AttachingFrames, Ok(_)) if self.wanted.older => {
                self.ask_page(now, Stage::TakingOver, ANSWER, Command::StopLoading);
            }
            (Stage::AttachingFrames | Stage::TakingOver, Ok(_)) => self.navigate(now),
            (Stage::Loading | Stage::Late, Ok(reply)) => self.navigated(now, reply),
            (Stage::Stopping(end), _) => self.end(end),
            (Stage::Draining, _) => {
                self.drop_all();
                self.end(End::Done);
            }
            (Stage::Watched | Stage::Replacing | Stage::Ended, _) => {}
            (stage, Err(text)) => self.fail(Fault::Refused { method: stage.command().into(), text }),
            (stage, Ok(_)) => self.fail(Fault::Broken(format!("the reply to {} is incomplete", stage.command()))),
        }
    }

    fn time_passed(&mut self, now: Time) {
        match self.stage {
            Stage::Listing => self.create(now), // a list that does not come is a list without a tab
            Stage::Waking => self.replace_tab(now),
            Stage::Loading => {
                self.raise();
                self.reply(Outcome::Pending);
                self.enter(now, Stage::Late, LATE);
            }
            Stage::Late => self.stop(now, End::Done),
            Stage::Watched => self.ask(now, Stage::Draining, DRAINING, None, Command::Answer),
            Stage::Replacing | Stage::Draining | Stage::Stopping(End::Done) => self.end(End::Lost),
            Stage::Stopping(end) => self.end(end),
            _ => self.fail(Fault::Mute),
        }
    }

    fn superseded(&mut self, now: Time) {
        self.reply(Outcome::Superseded);
        match self.stage {
            Stage::Stopping(_) => self.stage = Stage::Stopping(End::HandOver),
            _ if self.is_guarding() => self.stop(now, End::HandOver),
            _ => self.end(End::HandOver),
        }
    }

    fn lost(&mut self, fault: Fault) {
        self.reply(Outcome::Browser(fault));
        self.end(if self.is_guarding() { End::Lost } else { End::Done });
    }

    /// It is decided how the visit ends; from here on the page is only guarded.
    fn settle(&mut self, now: Time, outcome: Outcome) {
        let is_shown = |outcome: &Outcome| {
            matches!(outcome, Outcome::Committed { .. } | Outcome::SameDocument { .. } | Outcome::SignIn { .. })
        };
        if is_shown(&outcome) {
            self.raise();
        }
        self.reply(outcome);
        if matches!(self.stage, Stage::Loading | Stage::Late) {
            self.enter(now, Stage::Watched, self.wanted.waits.watched);
        }
    }

    fn raise(&mut self) {
        self.send(None, Command::ActivateTab { tab: self.tab.id.clone() });
        self.tell_page(Command::BringToFront);
    }

    /// The first answer counts.
    fn reply(&mut self, outcome: Outcome) {
        if !self.replied {
            self.replied = true;
            self.effects.push(Effect::Reply(Verdict { outcome, also: self.also.clone() }));
        }
    }

    fn note(&mut self, also: Also) {
        if !self.also.contains(&also) {
            self.also.push(also);
        }
    }

    /// The browser cannot be used. A page that was asked for before stays guarded until it is cleared.
    fn fail(&mut self, fault: Fault) {
        self.reply(Outcome::Browser(fault));
        self.drop_all();
        self.end(End::Done);
    }

    /// Leaves nothing behind that could go on without having been judged.
    fn stop(&mut self, now: Time, end: End) {
        self.drop_all();
        self.ask_page(now, Stage::Stopping(end), STOPPING, Command::StopLoading);
    }

    fn drop_all(&mut self) {
        for HeldRequest { session, id } in self.held.take() {
            self.send(Some(session), Command::Fail { request: id, unresolved: false });
        }
    }

    fn end(&mut self, end: End) {
        self.reply(Outcome::Browser(Fault::Broken("the visit ended early".into())));
        self.stage = Stage::Ended;
        self.effects.push(Effect::End(end));
    }

    /// Whether no page was asked for yet.
    fn is_preparing(&self) -> bool {
        use Stage::{Draining, Late, Loading, Replacing, Stopping, Watched};
        !matches!(self.stage, Loading | Late | Watched | Replacing | Draining | Stopping(_))
    }

    /// Whether the guard is up, or going up: requests may be held.
    fn is_guarding(&self) -> bool {
        !matches!(self.stage, Stage::Listing | Stage::Creating | Stage::Attaching | Stage::Waking | Stage::Ended)
    }

    fn enter(&mut self, now: Time, stage: Stage, lasts: Duration) {
        self.stage = stage;
        self.until = now.saturating_add(lasts);
    }

    /// Sends a command whose reply leads on.
    fn ask(&mut self, now: Time, stage: Stage, within: Duration, session: Option<SessionId>, command: Command) {
        self.send(session, command);
        self.calls.expected = self.calls.last;
        self.enter(now, stage, within);
        if self.is_preparing() {
            self.until = self.until.min(self.wanted.reply_by);
        }
    }

    fn ask_page(&mut self, now: Time, stage: Stage, within: Duration, command: Command) {
        self.ask(now, stage, within, self.tab.session.clone(), command);
    }

    fn tell_page(&mut self, command: Command) {
        self.send(self.tab.session.clone(), command);
    }

    fn send(&mut self, session: Option<SessionId>, command: Command) {
        self.calls.last += 1;
        self.effects.push(Effect::Send { call: self.calls.last, session, command });
    }
}

impl Stage {
    /// The command that the stage waits for, in the protocol's spelling, for the caller's error message.
    fn command(self) -> &'static str {
        match self {
            Stage::Listing => "Target.getTargets",
            Stage::Creating => "Target.createTarget",
            Stage::Attaching => "Target.attachToTarget",
            Stage::Waking => "Page.getFrameTree",
            Stage::Holding => "Fetch.enable",
            Stage::AttachingFrames => "Target.setAutoAttach",
            Stage::TakingOver | Stage::Stopping(_) => "Page.stopLoading",
            _ => "Page.navigate",
        }
    }
}

#[cfg(test)]
mod tests;
