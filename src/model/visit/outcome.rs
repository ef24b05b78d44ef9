//! How a request to open a page can end. Owns the names that callers and the audit log see.

use crate::model::url::{Reason, Refused};

/// The answer to one request: how it ended, and what else was done on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// Notes about what was done besides, in this order.
    pub also: Vec<Also>,
}

/// How a request to open a page ended.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "`frame` is the id of the main frame")]
pub enum Outcome {
    /// The page is shown.
    Committed { frame: String },
    /// The page was already shown; only the part after `#` changed.
    SameDocument { frame: String },
    /// The browser saves a file and still shows the previous page.
    Download { frame: String },
    /// The site asks for a user name and password, and the browser shows its sign-in dialog.
    SignIn { frame: String },
    /// The previous page is still shown: the response was empty, or the user stopped the load.
    Aborted,
    /// The browser, an extension or an administrator blocked the page.
    BlockedByBrowser(String),
    /// The network or the server failed. Holds Chromium's error text.
    Failed(String),
    /// The page is still loading.
    Pending,
    /// The policy refuses the URL, or a page it led to.
    Refused(Refused),
    /// A newer request took over.
    Superseded,
    /// The page's process crashed while it was loading.
    Crashed,
    /// The browser could not carry out the request.
    Browser(Fault),
}

/// Why the browser could not carry out the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the text of each variant names its fields")]
pub enum Fault {
    /// Nothing listens on the DevTools port.
    #[error("cdp unreachable")]
    Absent,
    /// The browser accepts connections but does not answer.
    #[error("the browser does not answer")]
    Mute,
    /// The browser closed the connection, or sent something that violates the protocol.
    #[error("the connection to the browser broke: {0}")]
    Broken(String),
    /// The browser answered a command with an error.
    #[error("the browser refused {method}: {text}")]
    Refused { method: String, text: String },
    /// An earlier page escaped the guard and is still shown.
    #[error("an earlier page escaped the guard and is still being cleared")]
    Unguarded,
}

/// Something that was done on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Also {
    /// No open tab could be used.
    NewTab,
    /// The tab had crashed, and works again.
    CrashedTabRecovered,
    /// The tab did not respond, so another one was used.
    HungTabReplaced,
    /// The previous page asked whether to leave it, and we accepted.
    DialogAccepted,
    /// An alert, confirmation or prompt of a page was dismissed.
    DialogDismissed,
}

impl Also {
    /// The name that callers and the audit log see.
    pub fn word(self) -> &'static str {
        match self {
            Also::NewTab => "new_tab",
            Also::CrashedTabRecovered => "crashed_tab_recovered",
            Also::HungTabReplaced => "hung_tab_replaced",
            Also::DialogAccepted => "dialog_accepted",
            Also::DialogDismissed => "dialog_dismissed",
        }
    }
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        Verdict { outcome, also: Vec::new() }
    }
}

impl From<Refused> for Outcome {
    fn from(refused: Refused) -> Self {
        Outcome::Refused(refused)
    }
}

impl Outcome {
    /// The name that callers and the audit log see.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Committed { .. } => "committed",
            Outcome::SameDocument { .. } => "same_document",
            Outcome::Download { .. } => "download",
            Outcome::SignIn { .. } => "sign_in",
            Outcome::Aborted => "aborted",
            Outcome::BlockedByBrowser(_) => "blocked_by_browser",
            Outcome::Failed(_) => "failed",
            Outcome::Pending => "pending",
            Outcome::Refused(refused) if refused.reason == Reason::Unresolved => "failed",
            Outcome::Refused(_) => "refused",
            Outcome::Superseded => "superseded",
            Outcome::Crashed => "crashed",
            Outcome::Browser(Fault::Absent) => "no_browser",
            Outcome::Browser(Fault::Mute) => "mute_browser",
            Outcome::Browser(_) => "browser_fault",
        }
    }
}
