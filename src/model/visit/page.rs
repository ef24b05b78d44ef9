//! The page of a visit and its navigations: every request is checked before it leaves the machine. Documents that
//! bypass this check are checked when they are shown.

use core::net::IpAddr;

use super::held::{HeldRequest, Subject};
use super::{
    Also, Command, EMPTY, Fault, Note, Outcome, PageEvent, REMEMBERED, REPLACING, Reply, SessionId, Stage, Time, Visit,
    VisitEffect,
};
use crate::model::url::{JudgedUrl, Reason, Refused};

impl Visit {
    /// The browser answered the navigation, with a response that is about to be shown or with an error.
    pub(super) fn navigated(&mut self, now: Time, reply: Reply) {
        let frame = reply.frame.or_else(|| self.tab.main_frame.clone()).unwrap_or_else(|| self.tab.id.clone());
        self.navigation.download |= reply.download;
        match (reply.error.as_deref(), reply.loader) {
            (Some("net::ERR_ABORTED"), _) if self.navigation.download => {
                self.settle(now, Outcome::Download { frame });
            }
            (Some("net::ERR_ABORTED"), _) => {
                let refused = self.navigation.refused.take();
                self.settle(now, refused.map_or(Outcome::Aborted, Outcome::Refused));
            }
            (Some("net::ERR_INVALID_AUTH_CREDENTIALS"), _) => self.settle(now, Outcome::SignIn { frame }),
            (Some(text), _) if text.starts_with("net::ERR_BLOCKED_BY") => {
                self.settle(now, Outcome::BlockedByBrowser(text.into()));
            }
            (Some(text), _) => self.settle(now, Outcome::Failed(text.into())),
            (None, None) => self.settle(now, Outcome::SameDocument { frame }),
            (None, Some(loader)) => {
                self.navigation.loader = Some(loader);
                self.commit_when_shown(now);
                if self.stage == Stage::Loading && self.also.contains(&Also::CrashedTabRecovered) {
                    self.ask_what_is_shown();
                }
            }
        }
    }

    pub(super) fn happened(&mut self, now: Time, session: SessionId, event: PageEvent) {
        let page = self.tab.session.as_ref() == Some(&session);
        if !page && !self.tab.frames.contains(&session) {
            return;
        }
        match event {
            PageEvent::RequestPaused { request, frame, url } => {
                let main = page && self.tab.main_frame.as_ref().is_none_or(|main| *main == frame);
                self.judge_request(HeldRequest { session, id: request }, main, &url);
            }
            PageEvent::FrameAttached { session } => self.guard_frame(session),
            PageEvent::Detached { session } if self.tab.session.as_ref() == Some(&session) => {
                self.lost(Fault::Broken("the tab was closed".into()));
            }
            PageEvent::Detached { session } => {
                self.held.forget(&session);
                self.tab.frames.remove(&session);
            }
            PageEvent::Responded { url, address, port } => self.judge_response(now, &url, address, port),
            PageEvent::DialogOpened { leaving } => {
                self.note(if leaving { Also::DialogAccepted } else { Also::DialogDismissed });
                self.send(Some(session), Command::AnswerDialog { accept: leaving });
            }
            PageEvent::FrameNavigated { frame, main: true, loader, url } if page => {
                self.shows(now, frame, loader, &url)
            }
            PageEvent::DownloadBegan => self.navigation.download = true,
            PageEvent::ReloadedAfterCrash if page => {
                self.tab.crashed = false;
                self.ask_what_is_shown();
            }
            PageEvent::Crashed if page => self.crashed(now),
            PageEvent::FrameNavigated { .. } | PageEvent::ReloadedAfterCrash | PageEvent::Crashed => {}
        }
    }

    /// A tab that recovers from a crash does not report the new document it shows.
    pub(super) fn ask_what_is_shown(&mut self) {
        self.tell_page(Command::NameMainFrame);
        self.calls.recovered = Some(self.calls.last);
    }

    pub(super) fn crashed(&mut self, now: Time) {
        match self.stage {
            Stage::Waking => {
                self.tab.crashed = true;
                self.note(Also::CrashedTabRecovered);
                self.hold_documents(now);
            }
            Stage::Loading | Stage::Late if !self.tab.crashed => self.settle(now, Outcome::Crashed),
            _ => {}
        }
    }

    /// A cross-site frame gets the same guard as the page before it does anything.
    pub(super) fn guard_frame(&mut self, session: SessionId) {
        self.tab.frames.insert(session.clone());
        for command in [Command::HoldDocuments, Command::WatchResponses, Command::AttachFrames, Command::ResumeFrame] {
            self.send(Some(session.clone()), command);
        }
    }

    pub(super) fn judge_request(&mut self, request: HeldRequest, main: bool, url: &str) {
        if !self.held.hold(request.clone()) {
            return;
        }
        if matches!(self.stage, Stage::Stopping(_)) {
            return self.drop_request(&request, false);
        }
        if main {
            let (lookups, requests) = self.held.supersede_main();
            self.effects.extend(lookups.into_iter().map(|lookup| VisitEffect::CancelLookUp { lookup }));
            requests.iter().for_each(|older| self.drop_request(older, false));
        }
        let judged = if main { self.policy.judge(url) } else { self.policy.judge_frame(url) };
        match judged {
            Err(refused) => self.refuse_request(&request, main, refused),
            Ok(target) if target.name().is_none() => self.let_go(request),
            Ok(target) => {
                if !self.held.plan(Subject::Request { request: request.clone(), target, main }) {
                    self.effects.push(VisitEffect::Log(Note::HopsDropped));
                    self.drop_request(&request, false);
                }
            }
        }
    }

    pub(super) fn looked_up(&mut self, now: Time, lookup: u64, addresses: Result<Vec<IpAddr>, String>) {
        let Some(subject) = self.held.ended(lookup) else { return };
        let target = match &subject {
            Subject::Request { target, .. } | Subject::Page { target, .. } => target.clone(),
        };
        let judged = match addresses {
            Ok(addresses) => self.policy.judge_addresses(&target, &addresses),
            Err(why) => Err(Refused::unresolved(&target, &why)),
        };
        match (subject, judged) {
            (Subject::Request { request, main, .. }, Ok(())) => {
                if main {
                    self.remember_host(&target);
                }
                self.let_go(request);
            }
            (Subject::Request { request, main, .. }, Err(refused)) => self.refuse_request(&request, main, refused),
            (Subject::Page { loader, .. }, Ok(())) => {
                self.remember_host(&target);
                self.shown(now, loader);
            }
            (Subject::Page { .. }, Err(refused)) => self.replace_page(now, refused),
        }
    }

    pub(super) fn begin_lookups(&mut self) {
        while self.stage != Stage::Ended
            && let Some((lookup, target)) = self.held.next()
        {
            let (name, port) = (target.name().unwrap_or_default().into(), target.port());
            self.effects.push(VisitEffect::LookUp { lookup, name, port });
        }
    }

    /// A document is shown in the main frame. It is checked again, because it may come from a prefetch or a service
    /// worker, which the guard does not see.
    pub(super) fn shows(&mut self, now: Time, frame: String, loader: String, url: &str) {
        self.tab.main_frame = Some(frame);
        if self.is_preparing() {
            return; // it is about to be replaced
        }
        if self.stage == Stage::Replacing && url == EMPTY {
            self.enter(now, Stage::Watched, self.wanted.waits.watched);
        }
        if !url.starts_with("http") {
            return self.shown(now, loader);
        }
        match self.policy.judge(url) {
            Err(refused) => self.replace_page(now, refused),
            Ok(target) if target.name().is_none_or(|name| self.navigation.hosts.contains(name)) => {
                self.shown(now, loader);
            }
            Ok(target) => {
                // This cannot fail: only requests of frames have a budget.
                self.held.plan(Subject::Page { target, loader });
            }
        }
    }

    pub(super) fn shown(&mut self, now: Time, loader: String) {
        if self.navigation.shown.len() >= REMEMBERED {
            self.navigation.shown.remove(0);
        }
        self.navigation.shown.push(loader);
        self.commit_when_shown(now);
    }

    pub(super) fn commit_when_shown(&mut self, now: Time) {
        let Some(loader) = &self.navigation.loader else { return };
        if self.navigation.shown.contains(loader) && matches!(self.stage, Stage::Loading | Stage::Late) {
            let frame = self.tab.main_frame.clone().unwrap_or_else(|| self.tab.id.clone());
            self.settle(now, Outcome::Committed { frame });
        }
    }

    /// A server answered. If its address is private, the name resolved differently than when it was checked.
    pub(super) fn judge_response(&mut self, now: Time, url: &str, address: IpAddr, port: u16) {
        match self.policy.judge_remote(url, address, port) {
            Err(refused) if !self.is_preparing() => self.replace_page(now, refused),
            _ => {}
        }
    }

    pub(super) fn replace_page(&mut self, now: Time, refused: Refused) {
        self.effects.push(VisitEffect::Log(Note::PageReplaced(refused.clone())));
        self.tell_page(Command::Navigate { url: EMPTY.into() });
        self.reply(refused.into());
        if matches!(self.stage, Stage::Loading | Stage::Late | Stage::Watched | Stage::Draining) {
            self.enter(now, Stage::Replacing, REPLACING);
        }
    }

    pub(super) fn remember_host(&mut self, target: &JudgedUrl) {
        if self.navigation.hosts.len() < REMEMBERED {
            self.navigation.hosts.insert(target.host().into());
        }
    }

    pub(super) fn let_go(&mut self, request: HeldRequest) {
        if self.held.let_go(&request) {
            self.send(Some(request.session), Command::Continue { request: request.id });
        }
    }

    pub(super) fn refuse_request(&mut self, request: &HeldRequest, main: bool, refused: Refused) {
        // A name without an address is no secret. The browser shows its own error page, so the user sees the reason.
        let unresolved = refused.reason == Reason::Unresolved;
        self.effects.push(VisitEffect::Log(Note::HopRefused(refused.clone())));
        if main {
            self.navigation.refused = Some(refused);
        }
        self.drop_request(request, unresolved);
    }

    /// Aborts a request. This leaves the tab unchanged, without an error page.
    pub(super) fn drop_request(&mut self, request: &HeldRequest, unresolved: bool) {
        if self.held.let_go(request) {
            let fail = Command::Fail { request: request.id.clone(), unresolved };
            self.send(Some(request.session.clone()), fail);
        }
    }
}
