//! Opens pages in the browser, one visit at a time: performs the effects that a [`Visit`] returns. Owns the connection
//! to the browser, and clears a tab whose guard was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::wire;
use crate::cdp::{self, Browser, Incoming};
use crate::model::url::{JudgedUrl, Policy, Refused};
use crate::model::visit::{
    Command, End, Fault, Note, Outcome, PageRequest, STOPPING, Time, Verdict, Visit, VisitEffect, VisitInput, Waits,
};
use crate::resolver::Resolver;

/// Extra time for a verdict that comes at the deadline.
const GRACE: Duration = Duration::from_millis(200);
/// Time limit for one attempt to clear a tab.
const CLEARING: Duration = Duration::from_secs(2);
/// The pause between two attempts.
const AGAIN: Duration = Duration::from_millis(200);
/// Time limit for the browser to return its tabs in order of use.
const ORDERING: Duration = Duration::from_millis(500);

/// Opens pages in one browser.
pub struct Navigator {
    port: u16,
    policy: Policy,
    waits: Waits,
    resolver: Arc<Resolver>,
    /// The origin of the visits' clocks.
    origin: Instant,
    newest: watch::Sender<u64>,
    /// Locked for the duration of one visit, and until its tab is cleared if the guard was lost.
    last: Mutex<Last>,
}

/// State that one visit passes to the next.
#[derive(Default)]
struct Last {
    tab: Option<String>,
    /// The connection of a superseded visit. While it is open, the browser holds the tab's requests.
    guard: Option<Guard>,
}

/// A connection that guards a tab.
struct Guard {
    /// Never read; it only has to stay open.
    _browser: Browser,
    tab: String,
}

impl Navigator {
    /// Opens pages in the browser whose DevTools listen on this port of 127.0.0.1.
    pub fn new(port: u16, policy: Policy) -> Arc<Self> {
        Self::with_waits(port, policy, Waits::default())
    }

    /// Like [`Navigator::new`], with other time limits.
    pub fn with_waits(port: u16, policy: Policy, waits: Waits) -> Arc<Self> {
        Arc::new(Navigator {
            port,
            policy,
            waits,
            resolver: Arc::default(),
            origin: Instant::now(),
            newest: watch::Sender::new(0),
            last: Mutex::default(),
        })
    }

    /// Checks a URL and all addresses of its host with the policy.
    pub async fn judge(&self, raw: &str) -> Result<JudgedUrl, Refused> {
        let target = self.policy.judge(raw)?;
        self.resolver.judge(&self.policy, &target).await?;
        Ok(target)
    }

    /// Opens a page. The verdict comes by `deadline`; a page that is still loading then continues under guard.
    pub async fn open(self: &Arc<Self>, target: JudgedUrl, deadline: Instant) -> Verdict {
        let (reply, verdict) = oneshot::channel();
        let turn = self.take_turn();
        tokio::spawn(self.clone().run(target, turn, deadline, Reply(Some(reply))));
        match timeout_at(deadline + GRACE, verdict).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Outcome::Browser(Fault::Broken("the visit ended without a verdict".into())).into(),
            Err(_) => Outcome::Browser(Fault::Mute).into(),
        }
    }

    /// Stops a page that is loading, because no request is judged after the launcher has exited.
    pub async fn close(&self) {
        self.take_turn();
        let _ = timeout(2 * STOPPING, self.last.lock()).await;
    }

    fn take_turn(&self) -> Turn {
        self.newest.send_modify(|number| *number += 1);
        let mut newest = self.newest.subscribe();
        let mine = *newest.borrow_and_update();
        Turn { mine, newest }
    }

    async fn run(self: Arc<Self>, target: JudgedUrl, mut turn: Turn, deadline: Instant, mut reply: Reply) {
        let locked = tokio::select! {
            biased;
            () = turn.over() => return reply.send(Outcome::Superseded.into()),
            locked = timeout_at(deadline, self.last.lock()) => locked,
        };
        let Ok(mut last) = locked else { return reply.send(Outcome::Browser(Fault::Unguarded).into()) };
        let connected = tokio::select! {
            () = turn.over() => return reply.send(Outcome::Superseded.into()),
            connected = timeout_at(deadline, Browser::connect(self.port)) => connected,
        };
        match connected.unwrap_or(Err(Fault::Mute)) {
            Ok(browser) => self.visit(browser, target, &mut turn, deadline, &mut reply, &mut last).await,
            Err(fault) => reply.send(Outcome::Browser(fault).into()),
        }
        // A newer visit takes over the guard of an older one. If it could not, the older page is cleared.
        if let Some(guard) = last.guard.take_if(|_| !turn.is_over()) {
            self.clear(&guard.tab).await;
        }
    }

    async fn visit(
        &self,
        browser: Browser,
        target: JudgedUrl,
        turn: &mut Turn,
        deadline: Instant,
        reply: &mut Reply,
        last: &mut MutexGuard<'_, Last>,
    ) {
        let (tab, older) = (last.tab.clone(), last.guard.is_some());
        let wanted = PageRequest {
            target,
            tab,
            older,
            reply_by: deadline.saturating_duration_since(self.origin),
            waits: self.waits,
        };
        let (visit, effects) = Visit::begin(self.now(), self.policy.clone(), wanted);
        let mut shell = Shell { navigator: self, browser, visit, asked: HashMap::new(), lookups: Lookups::default() };
        let end = shell.run(effects, turn, reply, &mut last.guard).await;
        let Shell { browser, visit, .. } = shell;
        let tab = visit.tab().to_owned();
        match end {
            End::Done => {}
            End::HandOver => {
                last.guard.get_or_insert(Guard { _browser: browser, tab: tab.clone() });
            }
            End::Lost => self.clear(&tab).await,
        }
        last.tab = Some(tab).filter(|tab| !tab.is_empty());
    }

    fn now(&self) -> Time {
        self.origin.elapsed()
    }

    /// Empties a tab whose guard was lost, because its page may not have been judged. Returns when the tab is empty or
    /// closed, or the browser has exited. No other page is opened until then.
    async fn clear(&self, tab: &str) {
        let mut warned = false;
        loop {
            let cleared = timeout(CLEARING, self.try_clear(tab)).await.unwrap_or(Err(Fault::Mute));
            if let Ok(Cleared::Gone) = cleared {
                return;
            }
            if !std::mem::replace(&mut warned, true) {
                let (event, help) = ("launcher.guard_lost", "no page is opened until the tab is empty");
                tracing::warn!(event, help, "the guard of a page was lost: the page is being removed from the screen");
            }
            match cleared {
                Ok(_) => return tracing::info!(event = "launcher.guard_cleared", "the unguarded page was removed"),
                Err(fault) => {
                    tracing::debug!(event = "launcher.clear_failed", "cannot empty the tab yet: {fault}");
                    let _ = timeout(CLEARING, self.close_tab(tab)).await; // the next attempt checks whether it worked
                    sleep(AGAIN).await;
                }
            }
        }
    }

    async fn try_clear(&self, tab: &str) -> Result<Cleared, Fault> {
        let mut browser = match Browser::connect(self.port).await {
            Err(Fault::Absent) => return Ok(Cleared::Gone),
            browser => browser?,
        };
        if !browser.tabs().await?.iter().any(|other| other.id == tab) {
            return Ok(Cleared::Gone);
        }
        let session = browser.attach(tab).await?;
        browser.call(Some(&session), "Page.navigate", json!({ "url": "about:blank" })).await?;
        loop {
            let tree = browser.call(Some(&session), "Page.getFrameTree", json!({})).await?;
            if tree["frameTree"]["frame"]["url"] == "about:blank" {
                return Ok(Cleared::Empty);
            }
            sleep(AGAIN / 10).await;
        }
    }

    /// Closes a tab, because a page whose script never returns cannot be emptied. A browser exits with its last tab, so
    /// an empty one is opened first.
    async fn close_tab(&self, tab: &str) -> Result<(), Fault> {
        let mut browser = Browser::connect(self.port).await?;
        if browser.tabs().await?.len() < 2 {
            browser.call(None, "Target.createTarget", json!({ "url": "about:blank" })).await?;
        }
        browser.call(None, "Target.closeTarget", json!({ "targetId": tab })).await.map(|_| ())
    }
}

/// How a tab was cleared.
enum Cleared {
    Empty,
    /// The tab was closed, or the browser has exited.
    Gone,
}

/// The channel for the caller's verdict, which is sent once.
struct Reply(Option<oneshot::Sender<Verdict>>);

impl Reply {
    fn send(&mut self, verdict: Verdict) {
        if let Some(reply) = self.0.take() {
            let _ = reply.send(verdict); // the caller may have disconnected
        }
    }
}

/// The number of a request. The highest number is the newest request.
struct Turn {
    mine: u64,
    newest: watch::Receiver<u64>,
}

impl Turn {
    fn is_over(&self) -> bool {
        *self.newest.borrow() != self.mine
    }

    /// Returns when a newer request has arrived.
    async fn over(&mut self) {
        let mine = self.mine;
        if self.newest.wait_for(|newest| *newest != mine).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Performs the effects of one visit.
struct Shell<'a> {
    navigator: &'a Navigator,
    browser: Browser,
    visit: Visit,
    /// The visit's number of each sent command, by the connection's number.
    asked: HashMap<u64, u64>,
    lookups: Lookups,
}

/// The running look-ups. Dropping them cancels them.
#[derive(Default)]
struct Lookups {
    running: JoinSet<VisitInput>,
    by_number: HashMap<u64, AbortHandle>,
}

impl Shell<'_> {
    /// Performs the effects of one input, all of them, then takes the next input.
    async fn run(
        &mut self,
        mut effects: Vec<VisitEffect>,
        turn: &mut Turn,
        reply: &mut Reply,
        older: &mut Option<Guard>,
    ) -> End {
        let mut superseded = false;
        loop {
            let mut broken = None;
            for effect in std::mem::take(&mut effects) {
                match effect {
                    VisitEffect::Send { call, session, command } if broken.is_none() => {
                        broken = self.send(call, session.as_deref(), &command).await.err();
                    }
                    VisitEffect::Send { .. } => {}
                    VisitEffect::LookUp { lookup, name, .. } => {
                        self.lookups.begin(&self.navigator.resolver, lookup, name)
                    }
                    VisitEffect::CancelLookUp { lookup } => self.lookups.cancel(lookup),
                    VisitEffect::Reply(verdict) => reply.send(verdict),
                    VisitEffect::ReleaseOlder => *older = None,
                    VisitEffect::Log(note) => log(note),
                    VisitEffect::End(_) if broken.is_some() => return End::Lost,
                    VisitEffect::End(end) => return end,
                }
            }
            let mut input = match broken {
                Some(fault) => VisitInput::Lost(fault),
                None => tokio::select! {
                    input = hear(&mut self.browser, &mut self.asked) => input,
                    Some(looked_up) = self.lookups.running.join_next() => match looked_up {
                        Ok(input) => input,
                        Err(_) => continue, // it was cancelled
                    },
                    () = sleep_until(self.navigator.origin + self.visit.wakes_at()) => VisitInput::TimePassed,
                    () = turn.over(), if !superseded => {
                        superseded = true;
                        VisitInput::Superseded
                    }
                },
            };
            order_tabs(&mut input, self.navigator.port).await;
            effects = self.visit.handle(self.navigator.now(), input);
        }
    }

    async fn send(&mut self, call: u64, session: Option<&str>, command: &Command) -> Result<(), Fault> {
        let (method, params) = wire::spelled(command);
        let id = self.browser.send(session, method, params).await?;
        self.asked.insert(id, call);
        Ok(())
    }
}

/// Sorts the tabs by their last use, because the browser lists them in no order. If the order cannot be read, they stay
/// as they are.
async fn order_tabs(input: &mut VisitInput, port: u16) {
    if let VisitInput::Replied { reply: Ok(reply), .. } = input
        && reply.tabs.len() > 1
    {
        let recent = timeout(ORDERING, cdp::recent(port)).await.unwrap_or_default();
        reply.tabs.sort_by_key(|tab| recent.iter().position(|id| *id == tab.id).unwrap_or(usize::MAX));
    }
}

/// The next message from the browser that the visit handles. Cancel safe: dropping this loses no message.
async fn hear(browser: &mut Browser, asked: &mut HashMap<u64, u64>) -> VisitInput {
    loop {
        match browser.next().await {
            Err(fault) => return VisitInput::Lost(fault),
            Ok(Incoming::Event(event)) => {
                if let Some(input) = wire::event(&event) {
                    return input;
                }
            }
            Ok(Incoming::Reply { id, result }) => {
                if let Some(call) = asked.remove(&id) {
                    return VisitInput::Replied { call, reply: result.map(|result| wire::reply(&result)) };
                }
            }
        }
    }
}

impl Lookups {
    fn begin(&mut self, resolver: &Arc<Resolver>, lookup: u64, name: String) {
        let resolver = resolver.clone();
        let running = self
            .running
            .spawn(async move { VisitInput::LookedUp { lookup, addresses: resolver.addresses(&name).await } });
        self.by_number.retain(|_, running| !running.is_finished());
        self.by_number.insert(lookup, running);
    }

    fn cancel(&mut self, lookup: u64) {
        if let Some(running) = self.by_number.remove(&lookup) {
            running.abort();
        }
    }
}

fn log(note: Note) {
    match note {
        Note::HopRefused(refused) => {
            tracing::warn!(event = "launcher.hop_refused", rule = %refused.reason, "a page led to a URL that is not allowed: {refused}");
        }
        Note::PageReplaced(refused) => {
            tracing::warn!(event = "launcher.page_replaced", rule = %refused.reason, "a page that is not allowed was replaced: {refused}");
        }
        Note::HopsDropped => {
            tracing::warn!(
                event = "launcher.hops_dropped",
                "a page asked for too many names at once: some of its frames stay empty"
            );
        }
    }
}
