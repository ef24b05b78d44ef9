//! Puts a page into the tab that is shown. Owns which tab that is, one navigation at a time, and the guard that
//! judges every hop of it before it leaves the machine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::cdp::{self, Browser, Event, Fault, Incoming};
use super::resolve;
use super::verdict::{Also, Outcome, Verdict};
use crate::model::url::{Policy, Refused, Target};

/// Tabs that show nothing anybody could miss.
const EMPTY: [&str; 3] = ["about:blank", "chrome://newtab/", "chrome-error:"];

/// The waits that decide what becomes of a tab.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// How long a tab may take to show a sign of life before it is replaced.
    pub waking: Duration,
    /// How long a page that has come is still watched: pages send people on after a while.
    pub watched: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits { waking: Duration::from_millis(1500), watched: Duration::from_secs(10) }
    }
}

/// For a page to appear when its answer has come.
const APPEARING: Duration = Duration::from_secs(2);
/// How long a page that did not come in time may still come; it is stopped then.
const LATE: Duration = Duration::from_secs(60);
/// For a verdict that comes at the last moment.
const GRACE: Duration = Duration::from_millis(200);
/// How long clearing a tab whose guard was lost is tried. The next navigation waits for it, and what the tab shows
/// until then was judged by nobody, so a slow machine is given time.
const CLEARING: Duration = Duration::from_secs(20);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);
/// For an older navigation to be stopped.
const YIELDING: Duration = Duration::from_millis(500);

/// Opens pages in one browser.
pub struct Navigator {
    port: u16,
    policy: Policy,
    waits: Waits,
    newest: watch::Sender<u64>,
    /// Who holds it navigates.
    held: Mutex<Held>,
}

/// What one navigation leaves to the next.
#[derive(Default)]
struct Held {
    tab: Option<String>,
    /// The guard of the one that was stopped: as long as it is there, the browser holds back what the tab asks for.
    guard: Option<Browser>,
}

impl Navigator {
    /// For the browser whose DevTools are at this port of 127.0.0.1.
    pub fn new(port: u16, policy: Policy) -> Arc<Self> {
        Self::with_waits(port, policy, Waits::default())
    }

    /// As [`Navigator::new`], for a machine on which other waits are right.
    pub fn with_waits(port: u16, policy: Policy, waits: Waits) -> Arc<Self> {
        Arc::new(Navigator { port, policy, waits, newest: watch::Sender::new(0), held: Mutex::default() })
    }

    /// What the policy says of a URL and of all addresses of its host.
    pub async fn judge(&self, raw: &str) -> Result<Target, Refused> {
        judge(&self.policy, raw).await
    }

    /// Opens a page; the answer comes by `deadline`, and what is still loading then goes on under guard.
    pub async fn open(self: &Arc<Self>, target: Target, deadline: Instant) -> Verdict {
        let (reply, answer) = oneshot::channel();
        let turn = self.take_turn();
        tokio::spawn(self.clone().run(target, turn, deadline, reply));
        match timeout_at(deadline + GRACE, answer).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Outcome::Browser(Fault::Broken("the navigation ended without a word".into())).into(),
            Err(_) => Outcome::Browser(Fault::Mute).into(),
        }
    }

    /// Stops what is loading, for without us nobody judges where it goes.
    pub async fn close(&self) {
        self.take_turn();
        let _ = timeout(2 * YIELDING, self.held.lock()).await;
    }

    fn take_turn(&self) -> Turn {
        self.newest.send_modify(|number| *number += 1);
        let mut newest = self.newest.subscribe();
        let mine = *newest.borrow_and_update();
        Turn { mine, newest }
    }

    async fn run(self: Arc<Self>, target: Target, mut turn: Turn, deadline: Instant, reply: oneshot::Sender<Verdict>) {
        let mut held = tokio::select! {
            biased;
            () = turn.over() => return answer(reply, Outcome::Superseded),
            held = self.held.lock() => held,
        };
        let arrived = tokio::select! {
            () = turn.over() => return answer(reply, Outcome::Superseded),
            arrived = timeout_at(deadline, Visit::begin(self.port, held.tab.as_deref(), self.waits)) => arrived,
        };
        let mut visit = match arrived.unwrap_or(Err(Fault::Mute)) {
            Ok(visit) => visit,
            Err(fault) => {
                held.guard = None; // or the tab would wait for us for ever
                return answer(reply, Outcome::Browser(fault));
            }
        };
        held.tab = Some(visit.tab.clone());
        visit.reply = Some(reply);
        let ended = tokio::select! {
            ended = visit.guide((&self.policy, &target), deadline, &mut held.guard) => ended,
            () = turn.over() => {
                visit.tell(Outcome::Superseded);
                let _ = timeout(YIELDING, visit.stop()).await; // what could not be stopped is held back
                held.guard.get_or_insert(visit.browser);
                return;
            }
        };
        held.guard = None;
        if let Err(fault) = ended {
            let broken = matches!(fault, Fault::Broken(_));
            visit.tell(Outcome::Browser(fault));
            if broken {
                self.clear(visit.tab).await;
            }
        }
    }

    /// A page can make the browser say more than we listen to. What went on since then, nobody has judged.
    async fn clear(&self, tab: String) {
        // A busy browser may miss one attempt. One that has ended, or has closed the tab, shows nothing.
        let cleared = timeout(CLEARING, async {
            loop {
                match self.show_nothing(&tab).await {
                    Err(Fault::Mute | Fault::Broken(_)) => sleep(BETWEEN_ATTEMPTS).await,
                    ended => return ended,
                }
            }
        });
        if let Ok(Ok(())) = cleared.await {
            tracing::warn!(
                event = "launcher.guard_lost",
                "the browser broke off while a page was watched: the page was replaced"
            );
        }
    }

    async fn show_nothing(&self, tab: &str) -> Result<(), Fault> {
        let mut browser = Browser::connect(self.port).await?;
        let session = attach(&mut browser, tab).await?;
        browser.call(Some(&session), "Page.navigate", json!({ "url": "about:blank" })).await.map(|_| ())
    }
}

/// One request's place among all.
struct Turn {
    mine: u64,
    newest: watch::Receiver<u64>,
}

impl Turn {
    /// Returns when a newer one came.
    async fn over(&mut self) {
        let mine = self.mine;
        if self.newest.wait_for(|newest| *newest != mine).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Where the caller has left, nobody waits for the answer.
fn answer(reply: oneshot::Sender<Verdict>, outcome: Outcome) {
    let _ = reply.send(outcome.into());
}

async fn judge(policy: &Policy, raw: &str) -> Result<Target, Refused> {
    let target = policy.judge(raw)?;
    resolve::judge(policy, &target).await?;
    Ok(target)
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Loading,
    /// The server's answer is there and the page not yet.
    Appearing,
    /// The caller knows that it is late.
    Late,
    /// The page is there.
    Watched,
}

/// One navigation in one tab.
struct Visit {
    browser: Browser,
    session: String,
    tab: String,
    also: Vec<Also>,
    reply: Option<oneshot::Sender<Verdict>>,
    waits: Waits,
    stage: Stage,
    /// When this stage ends.
    until: Instant,
    /// Sessions of frames of other sites, which Chromium runs apart from the page.
    frames: BTreeSet<String>,
    /// Requests that the browser holds back until we say what becomes of them, behind their sessions.
    paused: BTreeSet<(String, String)>,
    /// What is being said, of each of them on its own: mute name servers hold up nothing else.
    judging: JoinSet<Hop>,
    /// What was there has crashed and is not back yet; the browser may say so more than once.
    crashed: bool,
    /// Why the page may not go where it led.
    refused: Option<Refused>,
    download: bool,
    loader: Option<String>,
    shown: Option<String>,
}

/// A document that the browser is about to ask for.
struct Hop {
    session: String,
    request: String,
    /// Of the page itself, and not of a frame in it.
    main: bool,
    judged: Result<Target, Refused>,
}

/// What a tab did when it was touched.
enum Woke {
    Alive,
    Crashed,
    Hung,
}

impl Visit {
    /// Finds the tab and makes sure that it can be used.
    async fn begin(port: u16, last: Option<&str>, waits: Waits) -> Result<Visit, Fault> {
        let mut browser = Browser::connect(port).await?;
        let tabs = cdp::tabs(port).await?;
        let with = |starts: &[&str]| tabs.iter().find(|tab| starts.iter().any(|start| tab.url.starts_with(start)));
        let used = tabs.iter().find(|tab| Some(tab.id.as_str()) == last);
        let chosen = used.or_else(|| with(&["http:", "https:"])).or_else(|| with(&EMPTY));
        let (tab, also) = match chosen {
            Some(tab) => (tab.id.clone(), Vec::new()),
            None => (new_tab(&mut browser).await?, vec![Also::NewTab]),
        };
        let session = attach(&mut browser, &tab).await?;
        let mut visit = Visit {
            browser,
            session,
            tab,
            also,
            reply: None,
            waits,
            stage: Stage::Loading,
            until: Instant::now(),
            frames: BTreeSet::new(),
            paused: BTreeSet::new(),
            judging: JoinSet::new(),
            crashed: false,
            refused: None,
            download: false,
            loader: None,
            shown: None,
        };
        match visit.wake().await? {
            Woke::Alive => {}
            Woke::Crashed => {
                visit.crashed = true;
                visit.also(Also::CrashedTabRecovered);
            }
            Woke::Hung => visit.replace_tab().await?,
        }
        Ok(visit)
    }

    /// A page that computes for ever, or waits behind a dialog from before our time, answers nothing.
    async fn wake(&mut self) -> Result<Woke, Fault> {
        self.send("Inspector.enable", json!({})).await?;
        let asked = self.send("Page.enable", json!({})).await?;
        let waking = self.waits.waking;
        let answer = async {
            loop {
                match self.browser.next().await? {
                    Incoming::Reply { id, .. } if id == asked => return Ok(Woke::Alive),
                    Incoming::Event(event) if self.is_ours(&event) => match event.method.as_str() {
                        "Inspector.targetCrashed" => return Ok(Woke::Crashed),
                        "Page.javascriptDialogOpening" => self.close_dialog(&event.params).await?,
                        _ => {}
                    },
                    _ => {}
                }
            }
        };
        timeout(waking, answer).await.unwrap_or(Ok(Woke::Hung))
    }

    /// The new one first: a browser that loses its last tab ends.
    async fn replace_tab(&mut self) -> Result<(), Fault> {
        let hung = std::mem::replace(&mut self.tab, new_tab(&mut self.browser).await?);
        self.session = attach(&mut self.browser, &self.tab).await?;
        self.browser.send(None, "Target.closeTarget", json!({ "targetId": hung })).await?;
        self.also(Also::HungTabReplaced);
        match self.wake().await? {
            Woke::Alive => Ok(()),
            Woke::Crashed | Woke::Hung => Err(Fault::Mute),
        }
    }

    /// Navigates, and watches over it to the end.
    async fn guide(
        &mut self,
        (policy, target): (&Policy, &Target),
        deadline: Instant,
        older: &mut Option<Browser>,
    ) -> Result<(), Fault> {
        self.until = deadline;
        self.browser.call(Some(&self.session), "Fetch.enable", documents()).await?;
        self.send("Target.setAutoAttach", frames()).await?;
        if older.is_some() {
            // What the older guard holds back would go on with its end.
            self.browser.call(Some(&self.session), "Page.stopLoading", json!({})).await?;
            *older = None;
        }
        let asked = self.send("Page.navigate", json!({ "url": target.url() })).await?;
        loop {
            let incoming = tokio::select! {
                incoming = self.browser.next() => incoming?,
                Some(Ok(hop)) = self.judging.join_next() => {
                    self.let_go_or_drop(hop).await?;
                    continue;
                }
                () = sleep_until(self.until) => match self.end_stage().await? {
                    true => continue,
                    false => return Ok(()),
                },
            };
            let goes_on = match incoming {
                Incoming::Reply { id, result } if id == asked => self.navigated(result).await?,
                Incoming::Reply { .. } => true,
                Incoming::Event(event) if event.method == "Target.detachedFromTarget" => {
                    let session = event.params["sessionId"].as_str().unwrap_or_default();
                    self.frames.remove(session);
                    session != self.session
                }
                Incoming::Event(event) if self.is_ours(&event) => self.happened(event, policy).await?,
                Incoming::Event(event) => {
                    self.happened_in_a_frame(event, policy).await?;
                    true
                }
            };
            if !goes_on {
                self.tell(Outcome::Browser(Fault::Broken("the tab was closed".into())));
                return Ok(());
            }
        }
    }

    /// Its time is over; false when that was the last stage.
    async fn end_stage(&mut self) -> Result<bool, Fault> {
        match self.stage {
            Stage::Loading => {
                self.raise().await?;
                self.tell(Outcome::Pending);
                self.enter(Stage::Late, LATE);
                Ok(true)
            }
            Stage::Appearing => {
                self.committed().await?;
                Ok(true)
            }
            Stage::Late => {
                self.stop().await?;
                Ok(false)
            }
            Stage::Watched if self.judging.is_empty() => Ok(false),
            Stage::Watched => {
                self.enter(Stage::Watched, APPEARING); // without us it would be let go
                Ok(true)
            }
        }
    }

    /// What `Page.navigate` led to; false when there is nothing more to see.
    async fn navigated(&mut self, result: Result<Value, String>) -> Result<bool, Fault> {
        let result = match result {
            Ok(result) => result,
            Err(text) => {
                self.tell(Outcome::Browser(Fault::Refused { method: "Page.navigate".into(), text }));
                return Ok(false);
            }
        };
        let frame = self.tab.clone();
        let failed = result["errorText"].as_str().filter(|text| !text.is_empty());
        self.download |= result["isDownload"] == true;
        match (failed, result["loaderId"].as_str()) {
            (Some("net::ERR_ABORTED"), _) if self.download => self.settle(Outcome::Download { frame }).await?,
            (Some("net::ERR_ABORTED"), _) => match self.refused.take() {
                Some(refused) => self.settle(refused.into()).await?,
                None => self.settle(Outcome::Aborted).await?,
            },
            (Some(text), _) if text.starts_with("net::ERR_BLOCKED_BY") => {
                self.settle(Outcome::BlockedByBrowser(text.into())).await?;
            }
            (Some(text), _) => self.settle(Outcome::Failed(text.into())).await?,
            (None, None) => self.settle(Outcome::SameDocument { frame }).await?,
            (None, Some(loader)) if self.shown.as_deref() == Some(loader) => self.committed().await?,
            (None, Some(loader)) => {
                self.loader = Some(loader.into());
                if self.stage == Stage::Loading {
                    let left = self.until.saturating_duration_since(Instant::now());
                    self.enter(Stage::Appearing, APPEARING.min(left));
                }
            }
        }
        Ok(true)
    }

    /// Something in the tab; false when the tab is lost.
    async fn happened(&mut self, event: Event, policy: &Policy) -> Result<bool, Fault> {
        let Event { method, params, .. } = event;
        match method.as_str() {
            "Fetch.requestPaused" => self.judge_request(&self.session.clone(), &params, policy),
            "Target.attachedToTarget" => self.guard_frame(&params).await?,
            "Page.javascriptDialogOpening" => self.close_dialog(&params).await?,
            "Page.frameNavigated" => self.shows(&params["frame"], policy).await?,
            "Page.downloadWillBegin" => self.download = true,
            "Inspector.targetReloadedAfterCrash" => self.crashed = false,
            "Inspector.targetCrashed" if self.stage != Stage::Watched && !self.crashed => {
                self.settle(Outcome::Crashed).await?
            }
            "Inspector.detached" => return Ok(false),
            _ => {}
        }
        Ok(true)
    }

    /// Something in a frame that runs apart, or in none of ours.
    async fn happened_in_a_frame(&mut self, event: Event, policy: &Policy) -> Result<(), Fault> {
        let Some(session) = event.session.filter(|session| self.frames.contains(session)) else { return Ok(()) };
        match event.method.as_str() {
            "Fetch.requestPaused" => self.judge_request(&session, &event.params, policy),
            "Target.attachedToTarget" => self.guard_frame(&event.params).await?,
            _ => {}
        }
        Ok(())
    }

    /// A frame that runs apart has just begun, and waits until it is guarded as the page is.
    async fn guard_frame(&mut self, params: &Value) -> Result<(), Fault> {
        let Some(session) = params["sessionId"].as_str() else { return Ok(()) };
        self.frames.insert(session.into());
        self.browser.send(Some(session), "Fetch.enable", documents()).await?;
        self.browser.send(Some(session), "Target.setAutoAttach", frames()).await?;
        self.browser.send(Some(session), "Runtime.runIfWaitingForDebugger", json!({})).await.map(|_| ())
    }

    /// A document is about to be asked for: the page itself, where it redirects to, or a frame in it.
    fn judge_request(&mut self, session: &str, params: &Value, policy: &Policy) {
        let Some(request) = params["requestId"].as_str().map(str::to_owned) else { return };
        let session = session.to_owned();
        self.paused.insert((session.clone(), request.clone()));
        let main = params["frameId"] == self.tab.as_str();
        let url = params["request"]["url"].as_str().unwrap_or_default().to_owned();
        let policy = policy.clone();
        self.judging.spawn(async move { Hop { session, request, main, judged: judge(&policy, &url).await } });
    }

    async fn let_go_or_drop(&mut self, hop: Hop) -> Result<(), Fault> {
        let Hop { session, request, main, judged } = hop;
        match judged {
            Ok(_) => {
                let go_on = json!({ "requestId": request });
                self.browser.send(Some(&session), "Fetch.continueRequest", go_on).await?;
            }
            Err(refused) => {
                tracing::warn!(event = "launcher.hop_refused", rule = %refused.reason, "a page led to what may not be opened: {refused}");
                if main {
                    self.refused = Some(refused);
                }
                self.drop_request(&session, &request).await?;
            }
        }
        self.paused.remove(&(session, request));
        Ok(())
    }

    /// Aborted, so that the tab goes on to show what it showed, and no error page.
    async fn drop_request(&mut self, session: &str, request: &str) -> Result<(), Fault> {
        let aborted = json!({ "requestId": request, "errorReason": "Aborted" });
        self.browser.send(Some(session), "Fetch.failRequest", aborted).await.map(|_| ())
    }

    /// Asked whether to leave a page: yes. All else that pages ask people: no.
    async fn close_dialog(&mut self, params: &Value) -> Result<(), Fault> {
        let leaving = params["type"] == "beforeunload";
        self.also(if leaving { Also::DialogAccepted } else { Also::DialogDismissed });
        self.send("Page.handleJavaScriptDialog", json!({ "accept": leaving })).await.map(|_| ())
    }

    /// A page is there. Requests that a page's own worker answers meet no guard, so look where it is.
    async fn shows(&mut self, frame: &Value, policy: &Policy) -> Result<(), Fault> {
        if frame["parentId"].is_string() {
            return Ok(());
        }
        let url = frame["url"].as_str().unwrap_or_default();
        if let Some(refused) = policy.judge(url).err().filter(|_| url.starts_with("http")) {
            tracing::warn!(event = "launcher.page_replaced", rule = %refused.reason, "a page that may not be shown was replaced: {refused}");
            self.send("Page.navigate", json!({ "url": "about:blank" })).await?;
            return self.settle(refused.into()).await;
        }
        self.shown = frame["loaderId"].as_str().map(str::to_owned);
        if self.loader.is_some() && self.loader == self.shown {
            self.committed().await?;
        }
        Ok(())
    }

    async fn committed(&mut self) -> Result<(), Fault> {
        self.settle(Outcome::Committed { frame: self.tab.clone() }).await
    }

    /// It is decided; from here on it is only watched.
    async fn settle(&mut self, outcome: Outcome) -> Result<(), Fault> {
        if matches!(outcome, Outcome::Committed { .. } | Outcome::SameDocument { .. }) {
            self.raise().await?;
        }
        self.tell(outcome);
        self.enter(Stage::Watched, self.waits.watched);
        Ok(())
    }

    async fn raise(&mut self) -> Result<(), Fault> {
        self.browser.send(None, "Target.activateTarget", json!({ "targetId": self.tab })).await?;
        self.send("Page.bringToFront", json!({})).await.map(|_| ())
    }

    /// Leaves nothing behind that could go on unjudged.
    async fn stop(&mut self) -> Result<(), Fault> {
        for (session, request) in std::mem::take(&mut self.paused) {
            self.drop_request(&session, &request).await?;
        }
        self.browser.call(Some(&self.session), "Page.stopLoading", json!({})).await.map(|_| ())
    }

    fn enter(&mut self, stage: Stage, lasts: Duration) {
        self.stage = stage;
        self.until = Instant::now() + lasts;
    }

    /// The first word counts.
    fn tell(&mut self, outcome: Outcome) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Verdict { outcome, also: self.also.clone() }); // the caller may have left
        }
    }

    fn also(&mut self, also: Also) {
        if !self.also.contains(&also) {
            self.also.push(also);
        }
    }

    fn is_ours(&self, event: &Event) -> bool {
        event.session.as_deref() == Some(&self.session)
    }

    async fn send(&mut self, method: &str, params: Value) -> Result<u64, Fault> {
        self.browser.send(Some(&self.session), method, params).await
    }
}

/// What is held back.
fn documents() -> Value {
    json!({ "patterns": [{ "resourceType": "Document" }] })
}

/// Frames that run apart are ours as well, from their first moment.
fn frames() -> Value {
    json!({ "autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true, "filter": [{ "type": "iframe" }] })
}

async fn new_tab(browser: &mut Browser) -> Result<String, Fault> {
    named(browser.call(None, "Target.createTarget", json!({ "url": "about:blank" })).await?, "targetId")
}

async fn attach(browser: &mut Browser, tab: &str) -> Result<String, Fault> {
    let wanted = json!({ "targetId": tab, "flatten": true });
    named(browser.call(None, "Target.attachToTarget", wanted).await?, "sessionId")
}

fn named(result: Value, field: &str) -> Result<String, Fault> {
    let name = result[field].as_str().map(str::to_owned);
    name.ok_or_else(|| Fault::Broken(format!("its reply has no {field}")))
}
