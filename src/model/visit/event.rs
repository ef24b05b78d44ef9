//! The inputs and effects of a visit: the browser's replies and events, and the commands and other effects that follow.
//! `launcher::wire` translates them to and from the DevTools protocol.

use core::net::IpAddr;
use core::time::Duration;

use super::{Fault, Verdict};
use crate::model::url::Refused;

/// The id of a session with one target of the browser.
pub type SessionId = String;

/// An input of a visit.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the text of each variant names its fields")]
pub enum VisitInput {
    /// The browser answered the command that was sent with this number.
    Replied { call: u64, reply: Result<Reply, String> },
    /// An event in a session.
    Happened { session: SessionId, event: PageEvent },
    /// The look-up with this number ended, with all addresses of the name or with the reason why there are none.
    LookedUp { lookup: u64, addresses: Result<Vec<IpAddr>, String> },
    /// The time of [`Visit::wakes_at`](super::Visit::wakes_at) has come.
    TimePassed,
    /// A newer request needs the browser, or the launcher is stopping.
    Superseded,
    /// The connection to the browser is lost, or the browser sent something invalid.
    Lost(Fault),
}

/// The browser's answer to a command. Each command sets only its own fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// All tabs, the last used first.
    pub tabs: Vec<Tab>,
    /// A tab that was created.
    pub tab: Option<String>,
    /// A session that was opened.
    pub session: Option<SessionId>,
    /// The main frame of a page.
    pub frame: Option<String>,
    /// Of a navigation: the document it leads to, or none if the document stays the same. Of a main frame: the document
    /// it shows.
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
    /// Its id, which is also that of its first main frame.
    pub id: String,
    /// The page it shows.
    pub url: String,
}

/// An event in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "frames, requests and loaders are ids of the DevTools protocol")]
pub enum PageEvent {
    /// A document is about to be requested. The browser holds the request until it is continued or failed.
    RequestPaused { request: String, frame: String, url: String },
    /// A cross-site frame was opened. It waits for [`Command::ResumeFrame`].
    FrameAttached { session: SessionId },
    /// A session ended.
    Detached { session: SessionId },
    /// A document is shown in a frame.
    FrameNavigated { frame: String, main: bool, loader: String, url: String },
    /// A server answered the request for a document.
    Responded { url: String, address: IpAddr, port: u16 },
    /// A page shows a dialog. If `leaving`, it asks whether to leave the page.
    DialogOpened { leaving: bool },
    /// The browser saves a file.
    DownloadBegan,
    /// The page's process has crashed.
    Crashed,
    /// The page works again after a crash.
    ReloadedAfterCrash,
}

/// A task for the launcher.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the text of each variant names its fields")]
pub enum VisitEffect {
    /// Send a command, in a session or to the browser itself. Its reply comes as [`VisitInput::Replied`].
    Send { call: u64, session: Option<SessionId>, command: Command },
    /// Look up all addresses of a name. The result comes as [`VisitInput::LookedUp`].
    LookUp { lookup: u64, name: String, port: u16 },
    /// Cancel this look-up.
    CancelLookUp { lookup: u64 },
    /// Send the answer to the caller. This happens exactly once in a visit.
    Reply(Verdict),
    /// Close the connection of the previous visit. The requests it holds are no longer needed.
    ReleaseOlder,
    /// Log what was refused.
    Log(Note),
    /// The visit is over. Always the last effect.
    End(End),
}

/// An entry for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A request for a document was refused.
    HopRefused(Refused),
    /// A forbidden page was shown and then replaced by an empty one.
    PageReplaced(Refused),
    /// Requests of a page were dropped because too many of them waited for a look-up.
    HopsDropped,
}

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The connection may be closed.
    Done,
    /// The connection must stay open until the next visit guards the tab, so that held requests stay held.
    HandOver,
    /// The guard was lost while a page could act: the tab must be cleared before anything else is opened.
    Lost,
}

/// A command to the browser.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "tabs and requests are ids of the DevTools protocol")]
pub enum Command {
    /// Answer after all earlier messages, and do nothing else.
    Answer,
    /// Return all tabs.
    ListTabs,
    /// Open an empty tab and return it.
    CreateTab,
    /// Close a tab.
    CloseTab { tab: String },
    /// Show a tab in front of the others.
    ActivateTab { tab: String },
    /// Open a session with a tab and return it.
    Attach { tab: String },
    /// Report crashes.
    WatchCrashes,
    /// Report navigations and dialogs.
    WatchPage,
    /// Report which server answers each request.
    WatchResponses,
    /// Return the main frame and the document it shows. Only a responsive page answers.
    NameMainFrame,
    /// Hold every request for a document.
    HoldDocuments,
    /// Attach to cross-site frames before they do anything.
    AttachFrames,
    /// Let a cross-site frame begin.
    ResumeFrame,
    /// Send a request that was held.
    Continue { request: String },
    /// Drop a request. If `unresolved`, the browser shows its own error page for a name without an address.
    Fail { request: String, unresolved: bool },
    /// Open a URL and return the document that it leads to.
    Navigate { url: String },
    /// Stop the page's load.
    StopLoading,
    /// Show the tab in front of the others, in its window.
    BringToFront,
    /// Close a dialog with OK (`accept`) or Cancel.
    AnswerDialog { accept: bool },
}

/// A point in time, as the time since an origin that the caller chose.
pub type Time = Duration;
