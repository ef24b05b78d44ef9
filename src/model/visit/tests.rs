//! Tests the visit from outside: single cases, and the invariants with random browsers and pages.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::model::url::Reason;

const MS: Duration = Duration::from_millis(1);
const REPLY_BY: Time = Duration::from_millis(7500);
const WATCHED: Duration = Duration::from_secs(10);
const PAGE: &str = "PAGE";
const TARGET: &str = "http://good.com/";

/// A visit with a browser that obeys every command, unless a test says otherwise.
struct Browser {
    visit: Visit,
    now: Time,
    /// Commands without a reply.
    open: BTreeMap<u64, (Option<SessionId>, Command)>,
    /// The held requests, and whether the policy allows them.
    held: BTreeMap<HeldRequest, bool>,
    /// Sessions in which documents are held.
    holding: BTreeSet<SessionId>,
    lookups: BTreeMap<u64, String>,
    verdicts: Vec<Verdict>,
    sent: Vec<Command>,
    ended: Option<End>,
}

impl Browser {
    fn new(older: bool) -> Self {
        Self::with(PageRequest {
            target: target(),
            tab: Some("TAB".into()),
            older,
            reply_by: REPLY_BY,
            waits: Waits::default(),
        })
    }

    fn with(wanted: PageRequest) -> Self {
        let (visit, effects) = Visit::begin(Duration::ZERO, Policy::default(), wanted);
        let mut browser = Browser {
            visit,
            now: Duration::ZERO,
            open: BTreeMap::new(),
            held: BTreeMap::new(),
            holding: BTreeSet::new(),
            lookups: BTreeMap::new(),
            verdicts: Vec::new(),
            sent: Vec::new(),
            ended: None,
        };
        browser.perform(effects);
        browser
    }

    /// Advances until the page is requested.
    fn loading() -> Self {
        let mut browser = Self::new(false);
        while browser.visit.is_preparing() {
            browser.answer_awaited();
        }
        browser
    }

    /// Advances until the page is shown.
    fn watching() -> Self {
        let mut browser = Self::loading();
        browser.answer_awaited();
        browser.shows("L", TARGET);
        assert!(matches!(browser.verdicts[..], [Verdict { outcome: Outcome::Committed { .. }, .. }]));
        browser
    }

    fn handle(&mut self, input: VisitInput) {
        let effects = self.visit.handle(self.now, input);
        self.perform(effects);
    }

    fn happens(&mut self, session: &str, event: PageEvent) {
        self.handle(VisitInput::Happened { session: session.into(), event });
    }

    fn pauses(&mut self, session: &str, id: &str, frame: &str, url: &str) {
        let request = HeldRequest { session: session.into(), id: id.into() };
        let is_ours = self.visit.tab.session.as_deref() == Some(session) || self.visit.tab.frames.contains(session);
        if !self.holding.contains(session) {
            return; // without the guard, the browser holds nothing
        }
        if self.ended.is_none() && is_ours {
            self.held.entry(request).or_insert(is_good(url));
        }
        self.happens(session, PageEvent::RequestPaused { request: id.into(), frame: frame.into(), url: url.into() });
    }

    fn shows(&mut self, loader: &str, url: &str) {
        let (loader, url) = (loader.into(), url.into());
        self.happens(PAGE, PageEvent::FrameNavigated { frame: "MAIN".into(), main: true, loader, url });
    }

    fn answer_awaited(&mut self) {
        let call = self.visit.calls.expected;
        let command = self.open.get(&call).map(|(_, command)| command.clone());
        let reply = command.as_ref().map_or_else(Reply::default, reply_to);
        self.handle(VisitInput::Replied { call, reply: Ok(reply) });
    }

    fn look_up(&mut self, lookup: u64, answered: bool) {
        let Some(name) = self.lookups.remove(&lookup) else { return };
        let address = if name.contains("good") { [93, 184, 215, 14] } else { [10, 0, 0, 1] };
        let addresses = if answered { Ok(vec![address.into()]) } else { Err("nobody answered".into()) };
        self.handle(VisitInput::LookedUp { lookup, addresses });
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.handle(VisitInput::TimePassed);
    }

    /// Waits until the visit is over, and returns how long that took.
    fn wait_for_the_end(&mut self) -> Time {
        let mut turns = 0;
        while self.ended.is_none() {
            self.now = self.now.max(self.visit.wakes_at());
            self.handle(VisitInput::TimePassed);
            turns += 1;
            assert!(turns < 100, "a visit that never ends: {:?}", self.visit.stage);
        }
        self.now
    }

    fn perform(&mut self, effects: Vec<VisitEffect>) {
        for effect in effects {
            assert_eq!(self.ended, None, "an effect after the end: {effect:?}");
            match effect {
                VisitEffect::Send { call, session, command } => self.sent(call, session, command),
                VisitEffect::LookUp { lookup, name, .. } => drop(self.lookups.insert(lookup, name)),
                VisitEffect::CancelLookUp { lookup } => drop(self.lookups.remove(&lookup)),
                VisitEffect::Reply(verdict) => self.verdicts.push(verdict),
                VisitEffect::End(end) => self.ended = Some(end),
                VisitEffect::ReleaseOlder | VisitEffect::Log(_) => {}
            }
        }
        self.lookups_stay_within_the_budget();
    }

    fn sent(&mut self, call: u64, session: Option<SessionId>, command: Command) {
        if let Command::Continue { request } | Command::Fail { request, .. } = &command {
            let request = HeldRequest { session: session.clone().expect("a session"), id: request.clone() };
            let good = self.held.remove(&request);
            assert!(good.is_some(), "answered twice, or never held: {request:?}");
            let continued = matches!(command, Command::Continue { .. });
            assert!(good == Some(true) || !continued, "continued without a good verdict: {request:?}");
        }
        if command == Command::HoldDocuments {
            self.holding.extend(session.clone());
        }
        self.open.insert(call, (session, command.clone()));
        self.sent.push(command);
    }

    fn lookups_stay_within_the_budget(&self) {
        // Plus one for the page's own next document.
        assert!(self.lookups.len() <= held::LOOKUPS + 1, "{} look-ups", self.lookups.len());
    }

    fn outcome(&self) -> &Outcome {
        assert_eq!(self.verdicts.len(), 1, "{:?}", self.verdicts);
        &self.verdicts[0].outcome
    }
}

fn target() -> JudgedUrl {
    Policy::default().judge(TARGET).unwrap()
}

/// Whether the policy allows a URL whose name can be resolved.
fn is_good(url: &str) -> bool {
    url.starts_with("http://good")
}

fn reply_to(command: &Command) -> Reply {
    let text = |text: &str| Some(text.to_owned());
    match command {
        Command::CreateTab => Reply { tab: text("NEW"), ..Reply::default() },
        Command::Attach { .. } => Reply { session: text(PAGE), ..Reply::default() },
        Command::NameMainFrame => Reply { frame: text("MAIN"), ..Reply::default() },
        Command::Navigate { .. } => Reply { frame: text("MAIN"), loader: text("L"), ..Reply::default() },
        Command::ListTabs => {
            Reply { tabs: vec![Tab { id: "TAB".into(), url: "https://old.com/".into() }], ..Reply::default() }
        }
        _ => Reply::default(),
    }
}

#[test]
fn a_page_is_committed_when_it_is_shown_and_not_before() {
    let mut browser = Browser::loading();
    browser.answer_awaited(); // the response has arrived, and the old page still runs its unload handlers
    browser.wait(5000 * MS);
    assert_eq!(browser.verdicts, []);
    browser.shows("L", TARGET);
    assert!(matches!(browser.outcome(), Outcome::Committed { .. }));

    let mut browser = Browser::loading();
    browser.answer_awaited();
    browser.wait(REPLY_BY);
    assert_eq!(browser.outcome(), &Outcome::Pending, "the old page is still shown");
}

#[test]
fn a_page_that_leads_on_at_once_was_committed_all_the_same() {
    let mut browser = Browser::loading();
    browser.shows("L", TARGET);
    browser.shows("NEXT", "http://good.com/next");
    browser.answer_awaited();
    assert!(matches!(browser.outcome(), Outcome::Committed { .. }));
}

#[test]
fn a_guard_that_is_lost_leaves_the_tab_to_be_cleared() {
    for lose in [VisitInput::Lost(Fault::Broken("gone".into())), detached()] {
        for mut browser in [Browser::loading(), Browser::watching()] {
            browser.handle(lose.clone());
            assert_eq!(browser.ended, Some(End::Lost), "{lose:?}");
        }
    }
    let mut browser = Browser::new(false);
    browser.handle(VisitInput::Lost(Fault::Mute));
    assert_eq!(browser.ended, Some(End::Done), "nothing was asked for yet");
}

fn detached() -> VisitInput {
    VisitInput::Happened { session: PAGE.into(), event: PageEvent::Detached { session: PAGE.into() } }
}

#[test]
fn a_main_frame_that_changed_is_still_the_main_frame() {
    let mut browser = Browser::new(false);
    while browser.visit.is_preparing() {
        let call = browser.visit.calls.expected;
        let mut reply = reply_to(&browser.open[&call].1);
        reply.frame = reply.frame.map(|_| "PRERENDERED".into());
        browser.handle(VisitInput::Replied { call, reply: Ok(reply) });
    }
    browser.pauses(PAGE, "1", "PRERENDERED", "http://10.0.0.1/");
    let reply = Reply { error: Some("net::ERR_ABORTED".into()), loader: Some("L".into()), ..Reply::default() };
    let call = browser.visit.calls.expected;
    browser.handle(VisitInput::Replied { call, reply: Ok(reply) });
    assert!(matches!(browser.outcome(), Outcome::Refused(_)), "{:?}", browser.outcome());
}

#[test]
fn a_page_from_a_prefetch_is_judged_with_its_addresses() {
    let mut browser = Browser::watching();
    browser.shows("PREFETCHED", "http://bad.com/"); // no request was held
    let lookup = *browser.lookups.keys().next().expect("a look-up");
    browser.look_up(lookup, true);
    assert_eq!(browser.sent.last(), Some(&Command::Navigate { url: EMPTY.into() }));
}

#[test]
fn a_server_at_a_private_address_is_not_shown() {
    let responded = |address: [u8; 4], port| PageEvent::Responded { url: TARGET.into(), address: address.into(), port };
    let mut browser = Browser::loading();
    browser.happens(PAGE, responded([127, 0, 0, 1], 3128)); // a proxy
    browser.happens(PAGE, responded([93, 184, 215, 14], 80));
    assert_eq!(browser.verdicts, []);
    browser.happens(PAGE, responded([10, 0, 0, 1], 80));
    assert!(matches!(browser.outcome(), Outcome::Refused(refused) if refused.reason == Reason::ResolvesPrivate));
    assert_eq!(browser.sent.last(), Some(&Command::Navigate { url: EMPTY.into() }));
}

#[test]
fn a_private_page_that_does_not_go_is_a_lost_guard() {
    let mut browser = Browser::watching();
    browser.shows("WORKER", "http://10.0.0.1/");
    browser.wait(REPLACING);
    assert_eq!(browser.ended, Some(End::Lost));

    let mut browser = Browser::watching();
    browser.shows("WORKER", "http://10.0.0.1/");
    browser.shows("EMPTY", EMPTY);
    browser.wait(REPLACING);
    assert_eq!(browser.ended, None);
}

#[test]
fn mute_name_servers_hold_up_neither_the_page_nor_the_end() {
    let mut browser = Browser::watching();
    for frame in 0..1000 {
        browser.pauses(PAGE, &format!("frame-{frame}"), "CHILD", &format!("http://good{frame}.com/"));
    }
    assert_eq!(browser.lookups.len(), held::LOOKUPS);
    assert_eq!(browser.held.len(), held::LOOKUPS + held::WAITING, "what is over the budget is dropped");
    browser.pauses(PAGE, "main", "MAIN", "http://good-next.com/");
    assert_eq!(browser.lookups.len(), held::LOOKUPS + 1, "the page's own document does not wait for its frames");
    browser.wait(WATCHED);
    browser.answer_awaited();
    assert_eq!((browser.ended, browser.held.len()), (Some(End::Done), 0));
}

#[test]
fn the_guard_does_not_end_before_all_that_the_browser_said_was_read() {
    let mut browser = Browser::watching();
    browser.wait(WATCHED);
    assert_eq!((browser.sent.last(), browser.ended), (Some(&Command::Answer), None));
    browser.pauses(PAGE, "1", "MAIN", "http://10.0.0.1/"); // it was held behind a long message
    browser.answer_awaited();
    assert_eq!((browser.ended, browser.held.len()), (Some(End::Done), 0));

    for (mut browser, lasts) in [(Browser::watching(), DRAINING), (Browser::loading(), STOPPING)] {
        browser.wait(REPLY_BY + WATCHED);
        browser.wait(LATE);
        browser.wait(lasts);
        assert_eq!(browser.ended, Some(End::Lost), "nobody knows what it holds");
    }
}

#[test]
fn sixty_frames_of_slow_names_all_come() {
    let mut browser = Browser::watching();
    for frame in 0..60 {
        browser.pauses(PAGE, &format!("frame-{frame}"), "CHILD", &format!("http://good{frame}.com/"));
    }
    while let Some((lookup, _)) = browser.lookups.first_key_value() {
        browser.look_up(*lookup, true);
    }
    let continued = browser.sent.iter().filter(|command| matches!(command, Command::Continue { .. })).count();
    assert_eq!(continued, 60);
}

#[test]
fn a_click_on_a_name_that_does_not_resolve_shows_why() {
    let mut browser = Browser::watching();
    browser.pauses(PAGE, "click", "MAIN", "http://good-but-slow.com/");
    browser.look_up(1, false);
    assert_eq!(browser.sent.last(), Some(&Command::Fail { request: "click".into(), unresolved: true }));
}

#[test]
fn an_allow_list_is_about_what_is_opened_and_not_about_what_a_page_embeds() {
    let allow = ["good.com".to_owned()];
    let (mut visit, _) = Visit::begin(
        Duration::ZERO,
        Policy::new(&[], &[], &allow).unwrap(),
        PageRequest { target: target(), tab: None, older: false, reply_by: REPLY_BY, waits: Waits::default() },
    );
    visit.tab.session = Some(PAGE.into());
    visit.tab.main_frame = Some("MAIN".into());
    let mut pause = |id: &str, frame: &str| {
        let (request, frame, url) = (id.into(), frame.into(), "http://1.1.1.1/".into());
        visit.handle(
            Duration::ZERO,
            VisitInput::Happened { session: PAGE.into(), event: PageEvent::RequestPaused { request, frame, url } },
        )
    };
    let continued = |effects: &[VisitEffect]| {
        effects.iter().any(|effect| matches!(effect, VisitEffect::Send { command: Command::Continue { .. }, .. }))
    };
    assert!(continued(&pause("1", "CHILD")) && !continued(&pause("2", "MAIN")));
}

#[test]
fn a_sign_in_box_is_told_as_one_and_raised() {
    let mut browser = Browser::loading();
    let (call, error) = (browser.visit.calls.expected, Some("net::ERR_INVALID_AUTH_CREDENTIALS".into()));
    browser
        .handle(VisitInput::Replied { call, reply: Ok(Reply { error, loader: Some("L".into()), ..Reply::default() }) });
    assert!(matches!(browser.outcome(), Outcome::SignIn { .. }));
    assert!(browser.sent.contains(&Command::BringToFront));
}

#[test]
fn a_list_of_tabs_that_does_not_come_costs_a_new_tab_and_no_error() {
    let mut browser = Browser::with(PageRequest {
        target: target(),
        tab: None,
        older: false,
        reply_by: REPLY_BY,
        waits: Waits::default(),
    });
    assert_eq!(browser.sent, [Command::ListTabs]);
    browser.wait(ANSWER);
    while browser.visit.is_preparing() {
        browser.answer_awaited();
    }
    browser.answer_awaited();
    browser.shows("L", TARGET);
    assert_eq!(browser.verdicts[0].also, [Also::NewTab]);
}

/// An action of a browser or its page.
#[derive(Debug, Clone)]
enum Act {
    AnswerAwaited,
    AnswerAny(usize),
    Refuse(usize),
    Pause { frame: usize, request: usize, main: bool, url: &'static str },
    LookedUp { at: usize, answered: bool },
    Attach(usize),
    Detach(usize),
    DetachPage,
    Show { loader: usize, url: &'static str },
    Respond { private: bool },
    Dialog,
    Crash,
    Wait(u64),
    Supersede,
    Lose,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let urls = select(vec![
        "http://good.com/",
        "http://good-too.com/",
        "http://bad.com/",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "about:blank",
        "",
    ]);
    let act = prop_oneof![
        8 => Just(Act::AnswerAwaited),
        1 => (0..20usize).prop_map(Act::AnswerAny),
        1 => (0..20usize).prop_map(Act::Refuse),
        8 => (0..3usize, 0..6usize, any::<bool>(), urls.clone())
            .prop_map(|(frame, request, main, url)| Act::Pause { frame, request, main, url }),
        4 => (0..4usize, any::<bool>()).prop_map(|(at, answered)| Act::LookedUp { at, answered }),
        2 => (1..3usize).prop_map(Act::Attach),
        1 => (1..3usize).prop_map(Act::Detach),
        2 => (0..3usize, urls).prop_map(|(loader, url)| Act::Show { loader, url }),
        1 => any::<bool>().prop_map(|private| Act::Respond { private }),
        1 => Just(Act::Dialog),
        1 => Just(Act::Crash),
        3 => select(vec![1u64, 500, 1500, 3000, 10_000]).prop_map(Act::Wait),
    ];
    let last = prop_oneof![
        3 => Just(Act::Wait(1)),
        1 => Just(Act::Supersede),
        1 => Just(Act::Lose),
        1 => Just(Act::DetachPage),
    ];
    (vec(act, 0..60), last).prop_map(|(mut acts, last)| {
        acts.push(last);
        acts
    })
}

fn session(frame: usize) -> String {
    if frame == 0 { PAGE.into() } else { format!("FRAME{frame}") }
}

impl Browser {
    fn act(&mut self, act: &Act) {
        match act {
            Act::AnswerAwaited => self.answer_awaited(),
            Act::AnswerAny(at) | Act::Refuse(at) => {
                let Some((call, (_, command))) = self.open.iter().nth(*at) else { return };
                let reply = if matches!(act, Act::Refuse(_)) { Err("no".into()) } else { Ok(reply_to(command)) };
                self.handle(VisitInput::Replied { call: *call, reply });
            }
            Act::Pause { frame, request, main, url } => {
                let frame_id = if *main { "MAIN" } else { "CHILD" };
                self.pauses(&session(*frame), &request.to_string(), frame_id, url);
            }
            Act::LookedUp { at, answered } => {
                let lookup = self.lookups.keys().nth(*at).copied();
                lookup.into_iter().for_each(|lookup| self.look_up(lookup, *answered));
            }
            Act::Attach(frame) if self.sent.contains(&Command::AttachFrames) => {
                self.happens(PAGE, PageEvent::FrameAttached { session: session(*frame) })
            }
            Act::Attach(_) => {} // the browser only attaches on command
            Act::Detach(frame) => {
                self.held.retain(|request, _| request.session != session(*frame));
                self.happens(PAGE, PageEvent::Detached { session: session(*frame) });
            }
            Act::DetachPage => self.handle(detached()),
            Act::Show { loader, url } => self.shows(["L", "M", "N"][*loader], url),
            Act::Respond { private } => {
                let address = if *private { [10, 0, 0, 1] } else { [93, 184, 215, 14] };
                self.happens(PAGE, PageEvent::Responded { url: TARGET.into(), address: address.into(), port: 80 });
            }
            Act::Dialog => self.happens(PAGE, PageEvent::DialogOpened { leaving: true }),
            Act::Crash => self.happens(PAGE, PageEvent::Crashed),
            Act::Wait(ms) => self.wait(Duration::from_millis(*ms)),
            Act::Supersede => self.handle(VisitInput::Superseded),
            Act::Lose => self.handle(VisitInput::Lost(Fault::Mute)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// [`Browser::sent`] checks that each request is answered once, and continued only if it is allowed.
    #[test]
    fn whatever_happens_a_visit_keeps_its_promises(acts in acts(), older in any::<bool>(), known in any::<bool>()) {
        let tab = known.then(|| "TAB".to_owned());
        let mut browser = Browser::with(PageRequest { target: target(), tab, older, reply_by: REPLY_BY, waits: Waits::default() });
        for act in &acts {
            browser.act(act);
        }
        let took = browser.wait_for_the_end();
        let acted: Duration = acts.iter().map(|act| match act { Act::Wait(ms) => Duration::from_millis(*ms), _ => Duration::ZERO }).sum();
        prop_assert!(took <= REPLY_BY + LATE + WATCHED + DRAINING + REPLACING + STOPPING + acted.min(10_000 * MS), "{took:?}");
        prop_assert_eq!(browser.verdicts.len(), 1);
        if browser.ended == Some(End::Done) {
            let left: BTreeSet<_> = browser.held.keys().collect();
            prop_assert!(left.is_empty(), "held for ever: {left:?}");
        }
    }
}
