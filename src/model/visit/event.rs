//! What a visit is told and what it asks for: the browser's replies and events, and the commands and other effects
//! that answer them. The DevTools spelling of each lives in `launcher::wire`.

use core::net::IpAddr;
use core::time::Duration;

use super::{Fault, Verdict};
use crate::model::url::Refused;

/// A session with one target of the browser, by the name the browser gave it.
pub type SessionId = String;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The browser answered the command that was sent with this number.
    Replied { call: u64, reply: Result<Reply, String> },
    /// Something happened in a session.
    Happened { session: SessionId, event: Event },
    /// The look-up with this number ended: with all addresses of the name, or with why there are none.
    LookedUp { lookup: u64, addresses: Result<Vec<IpAddr>, String> },
    /// The time that [`Visit::wakes_at`](super::Visit::wakes_at) named has come.
    TimePassed,
    /// A newer request wants the browser, or the launcher is ending.
    Superseded,
    /// The connection to the browser is gone, or what it sent cannot be understood.
    Lost(Fault),
}

/// What the browser answers to a command; each command fills in what it has to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    pub tabs: Vec<Tab>,
    /// A tab that was created.
    pub tab: Option<String>,
    /// A session that was opened.
    pub session: Option<SessionId>,
    /// The main frame of a page.
    pub frame: Option<String>,
    /// The document that a navigation leads to; none when the page stays the same document. Of a main frame: the
    /// document it shows.
    pub loader: Option<String>,
    /// The URL of a main frame.
    pub url: Option<String>,
    /// Why a navigation failed, such as `net::ERR_ABORTED`.
    pub error: Option<String>,
    /// Whether a navigation became a download.
    pub download: bool,
}

/// A tab that shows a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tab {
    pub id: String,
    pub url: String,
}

/// What happened in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A document is about to be asked for; the browser holds the request until it is continued or failed.
    RequestPaused {
        request: String,
        frame: String,
        url: String,
    },
    /// A frame of another site was opened. It waits until [`Command::ResumeFrame`].
    FrameAttached {
        session: SessionId,
    },
    /// A session ended.
    Detached {
        session: SessionId,
    },
    /// A document is shown in a frame.
    FrameNavigated {
        frame: String,
        main: bool,
        loader: String,
        url: String,
    },
    /// A server answered the request for a document.
    Responded {
        url: String,
        address: IpAddr,
        port: u16,
    },
    /// A page shows a dialog; `leaving` is the question whether to leave it.
    DialogOpened {
        leaving: bool,
    },
    DownloadBegan,
    Crashed,
    ReloadedAfterCrash,
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a command, in a session or to the browser itself. Its reply comes as [`Input::Replied`].
    Send { call: u64, session: Option<SessionId>, command: Command },
    /// Look up all addresses of a name. They come as [`Input::LookedUp`].
    LookUp { lookup: u64, name: String, port: u16 },
    /// Nobody waits for this look-up any more.
    CancelLookUp { lookup: u64 },
    /// Give the caller the answer. This happens exactly once in a visit.
    Reply(Verdict),
    /// Close the connection of the visit before this one. Nothing that it holds is needed any more.
    ReleaseOlder,
    /// Tell the log what was refused.
    Log(Note),
    /// The visit is over; nothing follows.
    End(End),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A request for a document was refused.
    HopRefused(Refused),
    /// A page was shown that may not be, and was replaced by an empty one.
    PageReplaced(Refused),
    /// Requests of a page were dropped because too many of them waited for a name server.
    HopsDropped,
}

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It may be disconnected.
    Done,
    /// It must stay connected until the next visit guards the tab, so that what it holds stays held.
    HandOver,
    /// The guard was lost while a page could act: the tab must be cleared before anything else is opened.
    Lost,
}

/// A command to the browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Nothing but answer, after everything that was said before.
    Answer,
    ListTabs,
    CreateTab,
    CloseTab {
        tab: String,
    },
    ActivateTab {
        tab: String,
    },
    Attach {
        tab: String,
    },
    /// Report crashes.
    WatchCrashes,
    /// Report navigations and dialogs.
    WatchPage,
    /// Report who answers requests.
    WatchResponses,
    /// Name the main frame and the document it shows. Only a page that is alive answers.
    NameMainFrame,
    /// Hold every request for a document.
    HoldDocuments,
    /// Attach to frames of other sites, before they do anything.
    AttachFrames,
    ResumeFrame,
    Continue {
        request: String,
    },
    /// Drop a request. `unresolved`: show the browser's own page about a name that has no address.
    Fail {
        request: String,
        unresolved: bool,
    },
    Navigate {
        url: String,
    },
    StopLoading,
    BringToFront,
    AnswerDialog {
        accept: bool,
    },
}

/// A point in time, as the time since an origin that the caller chose.
pub type Time = Duration;
