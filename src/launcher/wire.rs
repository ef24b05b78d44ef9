//! Translates between a visit and the DevTools protocol: commands to JSON, replies and events from JSON. Each message
//! is parsed once, here. Only `navigate` also names methods, to clear a tab.

use serde_json::{Value, json};

use crate::cdp::{self, Browser, Fault};
use crate::model::visit::{Command, PageEvent, Reply, Tab, VisitInput};

impl Browser {
    /// All tabs that show pages, in no particular order.
    pub async fn tabs(&mut self) -> Result<Vec<Tab>, Fault> {
        let (method, params) = spelled(&Command::ListTabs);
        self.call(None, method, params).await.map(|result| tabs(&result))
    }

    /// Opens a session with a tab, and returns its id.
    pub async fn attach(&mut self, tab: &str) -> Result<String, Fault> {
        let (method, params) = spelled(&Command::Attach { tab: tab.into() });
        let session = reply(&self.call(None, method, params).await?).session;
        session.ok_or_else(|| Fault::Broken("its reply names no session".into()))
    }
}

/// A command's method and parameters.
pub fn spelled(command: &Command) -> (&'static str, Value) {
    match command {
        Command::Answer => ("Browser.getVersion", json!({})),
        Command::ListTabs => ("Target.getTargets", json!({ "filter": [{ "type": "page" }] })),
        Command::CreateTab => ("Target.createTarget", json!({ "url": "about:blank" })),
        Command::CloseTab { tab } => ("Target.closeTarget", json!({ "targetId": tab })),
        Command::ActivateTab { tab } => ("Target.activateTarget", json!({ "targetId": tab })),
        Command::Attach { tab } => ("Target.attachToTarget", json!({ "targetId": tab, "flatten": true })),
        Command::WatchCrashes => ("Inspector.enable", json!({})),
        Command::WatchPage => ("Page.enable", json!({})),
        // The browser does not need to keep bodies: none is read.
        Command::WatchResponses => {
            ("Network.enable", json!({ "maxTotalBufferSize": 0, "maxResourceBufferSize": 0, "maxPostDataSize": 0 }))
        }
        Command::NameMainFrame => ("Page.getFrameTree", json!({})),
        Command::HoldDocuments => ("Fetch.enable", json!({ "patterns": [{ "resourceType": "Document" }] })),
        Command::AttachFrames => (
            "Target.setAutoAttach",
            json!({
                "autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true, "filter": [{ "type": "iframe" }],
            }),
        ),
        Command::ResumeFrame => ("Runtime.runIfWaitingForDebugger", json!({})),
        Command::Continue { request } => ("Fetch.continueRequest", json!({ "requestId": request })),
        Command::Fail { request, unresolved } => {
            let reason = if *unresolved { "NameNotResolved" } else { "Aborted" };
            ("Fetch.failRequest", json!({ "requestId": request, "errorReason": reason }))
        }
        Command::Navigate { url } => ("Page.navigate", json!({ "url": url })),
        Command::StopLoading => ("Page.stopLoading", json!({})),
        Command::BringToFront => ("Page.bringToFront", json!({})),
        Command::AnswerDialog { accept } => ("Page.handleJavaScriptDialog", json!({ "accept": accept })),
    }
}

/// Parses a reply, with the fields of all commands.
pub fn reply(result: &Value) -> Reply {
    let frame = &result["frameTree"]["frame"];
    Reply {
        tabs: tabs(result),
        tab: text(&result["targetId"]),
        session: text(&result["sessionId"]),
        frame: text(&frame["id"]).or_else(|| text(&result["frameId"])),
        loader: text(&frame["loaderId"]).or_else(|| text(&result["loaderId"])),
        url: text(&frame["url"]),
        error: text(&result["errorText"]),
        download: result["isDownload"] == true,
    }
}

/// The visible tabs in a list of targets.
pub fn tabs(result: &Value) -> Vec<Tab> {
    let targets = result["targetInfos"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pages = targets.iter().filter(|target| target["type"] == "page");
    let tabs = pages.filter_map(|target| {
        Some(Tab { id: text(&target["targetId"])?, url: text(&target["url"]).unwrap_or_default() })
    });
    tabs.filter(|tab| !tab.url.starts_with("devtools:")).collect()
}

/// Parses an event, or returns `None` if the visit does not handle it.
pub fn event(event: &cdp::CdpEvent) -> Option<VisitInput> {
    let params = &event.params;
    let happened = match event.method.as_str() {
        "Fetch.requestPaused" => PageEvent::RequestPaused {
            request: text(&params["requestId"])?,
            frame: text(&params["frameId"]).unwrap_or_default(),
            url: text(&params["request"]["url"]).unwrap_or_default(),
        },
        "Target.attachedToTarget" => PageEvent::FrameAttached { session: text(&params["sessionId"])? },
        "Target.detachedFromTarget" => PageEvent::Detached { session: text(&params["sessionId"])? },
        "Inspector.detached" => PageEvent::Detached { session: event.session.clone()? },
        "Page.frameNavigated" => PageEvent::FrameNavigated {
            frame: text(&params["frame"]["id"])?,
            main: text(&params["frame"]["parentId"]).is_none(),
            loader: text(&params["frame"]["loaderId"]).unwrap_or_default(),
            url: text(&params["frame"]["url"]).unwrap_or_default(),
        },
        "Network.responseReceived" if params["type"] == "Document" => {
            let response = &params["response"];
            let address = response["remoteIPAddress"].as_str()?.trim_matches(['[', ']']).parse().ok()?;
            let port = u16::try_from(response["remotePort"].as_u64()?).ok()?;
            PageEvent::Responded { url: text(&response["url"])?, address, port }
        }
        "Page.javascriptDialogOpening" => PageEvent::DialogOpened { leaving: params["type"] == "beforeunload" },
        "Page.downloadWillBegin" => PageEvent::DownloadBegan,
        "Inspector.targetCrashed" => PageEvent::Crashed,
        "Inspector.targetReloadedAfterCrash" => PageEvent::ReloadedAfterCrash,
        _ => return None,
    };
    // The end of a tab's session is reported in the browser's own session.
    let session = match (&event.session, &happened) {
        (Some(session), _) => session.clone(),
        (None, PageEvent::Detached { session }) => session.clone(),
        (None, _) => return None,
    };
    Some(VisitInput::Happened { session, event: happened })
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(session: Option<&str>, method: &str, params: Value) -> Option<VisitInput> {
        event(&cdp::CdpEvent { session: session.map(str::to_owned), method: method.into(), params })
    }

    #[test]
    fn only_pages_that_people_see_are_tabs() {
        let list = json!({ "targetInfos": [
            { "targetId": "1", "type": "browser_ui", "url": "chrome://omnibox-popup/" },
            { "targetId": "2", "type": "page", "url": "devtools://devtools/x" },
            { "targetId": "3", "type": "page", "url": "https://example.com/", "new": {} },
            { "targetId": "4", "type": "iframe", "url": "https://example.com/" },
            { "targetId": "5", "type": "page" },
            7,
        ] });
        assert_eq!(tabs(&list).iter().map(|tab| tab.id.as_str()).collect::<Vec<_>>(), ["3", "5"]);
        assert_eq!(tabs(&json!({})), []);
    }

    #[test]
    fn what_a_later_browser_says_differently_is_no_event_and_no_crash() {
        for (method, params) in [
            ("Fetch.requestPaused", json!({ "requestId": 7 })),
            ("Page.frameNavigated", json!([])),
            ("Network.responseReceived", json!({ "type": "Document", "response": { "remoteIPAddress": "x" } })),
            ("Some.newEvent", json!({})),
        ] {
            assert_eq!(said(Some("S"), method, params.clone()), None, "{method} {params}");
        }
    }

    #[test]
    fn an_address_is_read_in_the_browsers_spelling() {
        for (told, expected) in [("[2001:db8::1]", "2001:db8::1"), ("192.0.2.1", "192.0.2.1")] {
            let response = json!({ "url": "http://a.com/", "remoteIPAddress": told, "remotePort": 80 });
            let input =
                said(Some("S"), "Network.responseReceived", json!({ "type": "Document", "response": response }));
            let address = expected.parse().unwrap();
            let event = PageEvent::Responded { url: "http://a.com/".into(), address, port: 80 };
            assert_eq!(input, Some(VisitInput::Happened { session: "S".into(), event }));
        }
    }

    #[test]
    fn the_end_of_a_tab_is_told_by_the_browser_itself() {
        let input = said(None, "Target.detachedFromTarget", json!({ "sessionId": "S" }));
        let event = PageEvent::Detached { session: "S".into() };
        assert_eq!(input, Some(VisitInput::Happened { session: "S".into(), event }));
    }
}
