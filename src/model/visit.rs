//! One visit: the browser opens a page, and no request that follows is sent before the policy has checked it. Owns the
//! choice of the tab, the requests that the browser holds, and the answer to the caller. Pure: it takes inputs with the
//! current time and returns effects.
//!
//! These invariants are tested with random inputs:
//! - A held request is continued or failed exactly once, and continued only after the policy allowed it.
//! - When a visit ends, no request is held, unless the visit is handed over while still connected.
//! - The caller gets exactly one answer. A visit ends by a deadline that no page can extend.
//! - When the guard is lost, the visit ends as [`End::Lost`]: the tab must be cleared.

mod event;
mod held;
mod outcome;
mod page;
mod prepare;

use core::time::Duration;
use std::collections::BTreeSet;

pub use event::{Command, End, Note, PageEvent, Reply, SessionId, Tab, Time, VisitEffect, VisitInput};
use held::{Held, HeldRequest};
pub use outcome::{Also, Fault, Outcome, Verdict};

use crate::model::url::{JudgedUrl, Policy, Refused};

/// How long the browser may take to answer a command.
pub const ANSWER: Duration = Duration::from_secs(3);
/// How long a page that missed the caller's deadline may keep loading before it is stopped.
const LATE: Duration = Duration::from_secs(60);
/// How long it may take to replace a page that must not be shown.
const REPLACING: Duration = Duration::from_secs(2);
/// How long it may take to read the browser's remaining messages before the guard ends.
const DRAINING: Duration = Duration::from_secs(10);
/// How long a tab may take to stop loading at the end.
pub const STOPPING: Duration = Duration::from_millis(500);
/// The most documents and hosts to remember. A normal page has only a few.
const REMEMBERED: usize = 256;

/// The empty page.
const EMPTY: &str = "about:blank";

/// The parameters of a visit.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// The page to open.
    pub target: JudgedUrl,
    /// The tab of the previous visit.
    pub tab: Option<String>,
    /// Whether the previous visit is still connected ([`End::HandOver`]).
    pub older: bool,
    /// When the caller must have an answer.
    pub reply_by: Time,
    /// How patient the visit is.
    pub waits: Waits,
}

/// The waits that decide what happens to a tab.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// How long a tab may take to respond before it is replaced.
    pub waking: Duration,
    /// How long a page is guarded after it has loaded, because a page may navigate later.
    pub watched: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits { waking: Duration::from_millis(1500), watched: Duration::from_secs(10) }
    }
}

/// The stage of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Finding a tab and opening a session with it.
    Listing,
    Creating,
    Attaching,
    /// Waiting for the tab to respond.
    Waking,
    /// Setting up the guard.
    Holding,
    AttachingFrames,
    /// Stopping the page of the previous visit, whose requests are still held.
    TakingOver,
    /// The page is loading.
    Loading,
    /// The page is still loading, and the caller has been told so.
    Late,
    /// The caller has the result, and the page is still guarded.
    Watched,
    /// A page that must not be shown is being replaced by an empty one.
    Replacing,
    /// The guard is about to end. The browser's remaining messages are read first: it may hold a request that we have
    /// not seen, and would release it.
    Draining,
    /// The tab was told to stop loading. Its answer ends the visit.
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
    effects: Vec<VisitEffect>,
}

/// Commands that were sent.
#[derive(Debug, Clone, Default)]
struct Calls {
    last: u64,
    /// The command whose reply advances the stage.
    expected: u64,
    /// The command that asks which page a tab shows after it recovered from a crash.
    recovered: Option<u64>,
}

/// The state of the tab, as far as it is known.
#[derive(Debug, Clone, Default)]
struct OpenTab {
    id: String,
    session: Option<SessionId>,
    /// Sessions of cross-site frames, which the browser runs in separate processes.
    frames: BTreeSet<SessionId>,
    /// The id of the main frame. It differs from the tab's id after a prerendered page was shown.
    main_frame: Option<String>,
    /// A tab that did not respond and will be closed.
    hung: Option<String>,
    /// The tab has crashed and has not recovered yet. The browser may report a crash more than once.
    crashed: bool,
}

/// The progress of the navigation.
#[derive(Debug, Clone, Default)]
struct Navigation {
    /// The document it leads to, once the response has arrived.
    loader: Option<String>,
    /// Allowed documents that were shown since it began.
    shown: Vec<String>,
    /// Hosts whose addresses were checked since it began.
    hosts: BTreeSet<String>,
    /// Why a document that the navigation led to was refused.
    refused: Option<Refused>,
    download: bool,
}

impl Visit {
    /// Begins a visit. Returns it with its first effects.
    pub fn begin(now: Time, policy: Policy, wanted: PageRequest) -> (Visit, Vec<VisitEffect>) {
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

    /// The id of the current tab; empty while there is none.
    pub fn tab(&self) -> &str {
        &self.tab.id
    }

    /// When to send [`VisitInput::TimePassed`].
    pub fn wakes_at(&self) -> Time {
        self.until
    }

    /// Handles one input and returns the effects.
    pub fn handle(&mut self, now: Time, input: VisitInput) -> Vec<VisitEffect> {
        if self.stage == Stage::Ended {
            return Vec::new();
        }
        match input {
            VisitInput::Replied { call, reply } => self.replied_to(now, call, reply),
            VisitInput::Happened { session, event } => self.happened(now, session, event),
            VisitInput::LookedUp { lookup, addresses } => self.looked_up(now, lookup, addresses),
            VisitInput::TimePassed if now >= self.until => self.time_passed(now),
            VisitInput::TimePassed => {}
            VisitInput::Superseded => self.superseded(now),
            VisitInput::Lost(fault) => self.lost(fault),
        }
        self.begin_lookups();
        std::mem::take(&mut self.effects)
    }
}

/// Advancing, answering and ending.
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
            Stage::Listing => self.create(now), // no answer is treated like a list without tabs
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

    /// The result is known. From here on the page is only guarded.
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

    /// Sends the answer to the caller. Only the first one counts.
    fn reply(&mut self, outcome: Outcome) {
        if !self.replied {
            self.replied = true;
            self.effects.push(VisitEffect::Reply(Verdict { outcome, also: self.also.clone() }));
        }
    }

    fn note(&mut self, also: Also) {
        if !self.also.contains(&also) {
            self.also.push(also);
        }
    }

    /// The browser cannot be used. A page that was requested earlier stays guarded until it is cleared.
    fn fail(&mut self, fault: Fault) {
        self.reply(Outcome::Browser(fault));
        self.drop_all();
        self.end(End::Done);
    }

    /// Ends the visit so that nothing unchecked can continue.
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
        self.effects.push(VisitEffect::End(end));
    }

    /// Whether no page was requested yet.
    fn is_preparing(&self) -> bool {
        use Stage::{Draining, Late, Loading, Replacing, Stopping, Watched};
        !matches!(self.stage, Loading | Late | Watched | Replacing | Draining | Stopping(_))
    }

    /// Whether the guard is active or being set up, so that requests may be held.
    fn is_guarding(&self) -> bool {
        !matches!(self.stage, Stage::Listing | Stage::Creating | Stage::Attaching | Stage::Waking | Stage::Ended)
    }

    fn enter(&mut self, now: Time, stage: Stage, lasts: Duration) {
        self.stage = stage;
        self.until = now.saturating_add(lasts);
    }

    /// Sends a command whose reply advances the stage.
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
        self.effects.push(VisitEffect::Send { call: self.calls.last, session, command });
    }
}

impl Stage {
    /// The DevTools name of the command that the stage waits for, for the caller's error message.
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
