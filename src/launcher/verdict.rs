//! Turns a verdict into a reply: its status, and a body short enough that callers do not cut it. Pure.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::model::url::Reason;
pub use crate::model::visit::{Also, Fault, Outcome, Verdict};

/// Callers read no more bytes of a body than this.
const BODY_BYTES: usize = 511;

impl Outcome {
    /// The HTTP status of the reply.
    pub fn status(&self) -> StatusCode {
        match self {
            Outcome::Committed { .. }
            | Outcome::SameDocument { .. }
            | Outcome::Download { .. }
            | Outcome::SignIn { .. } => StatusCode::OK,
            Outcome::Refused(refused) if refused.reason == Reason::Unresolved => StatusCode::BAD_GATEWAY,
            Outcome::Refused(_) => StatusCode::BAD_REQUEST,
            Outcome::Superseded => StatusCode::CONFLICT,
            Outcome::Pending => StatusCode::GATEWAY_TIMEOUT,
            Outcome::Browser(Fault::Absent) => StatusCode::SERVICE_UNAVAILABLE,
            Outcome::Aborted
            | Outcome::BlockedByBrowser(_)
            | Outcome::Failed(_)
            | Outcome::Crashed
            | Outcome::Browser(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// The frame that shows the page, or an error text.
    fn told(&self) -> Result<&str, String> {
        Err(match self {
            Outcome::Committed { frame }
            | Outcome::SameDocument { frame }
            | Outcome::Download { frame }
            | Outcome::SignIn { frame } => return Ok(frame),
            Outcome::Aborted => "net::ERR_ABORTED".into(),
            Outcome::BlockedByBrowser(text) | Outcome::Failed(text) => text.clone(),
            Outcome::Pending => "still loading".into(),
            Outcome::Refused(refused) if refused.reason == Reason::Unresolved => "net::ERR_NAME_NOT_RESOLVED".into(),
            Outcome::Refused(_) => "url rejected by policy".into(),
            Outcome::Superseded => "a newer request took its place".into(),
            Outcome::Crashed => "the page crashed".into(),
            Outcome::Browser(fault) => fault.to_string(),
        })
    }
}

impl Verdict {
    /// The reply's body. `ms`: how long the request took.
    pub fn body(&self, ms: u64) -> String {
        let (key, text) = match self.outcome.told() {
            Ok(frame) => ("frameId", frame.to_owned()),
            Err(error) => ("error", error),
        };
        let mut body = if key == "frameId" { json!({ "ok": true, key: "" }) } else { json!({ key: "" }) };
        body["outcome"] = self.outcome.word().into();
        if !self.also.is_empty() {
            body["also"] = self.also.iter().map(|also| also.word()).collect();
        }
        body["ms"] = ms.into();
        fit(&mut body, key, &cut(&text, 160));
        if let Outcome::Refused(refused) = &self.outcome {
            body["code"] = json!(refused.reason);
            fit(&mut body, "reason", &refused.text);
        }
        body.to_string()
    }
}

/// Adds as much of the text as fits into the body.
fn fit(body: &mut Value, key: &str, text: &str) {
    let mut room = BODY_BYTES;
    loop {
        body[key] = cut(text, room).into();
        let length = body.to_string().len();
        if length <= BODY_BYTES || room == 0 {
            return;
        }
        // An escaped character takes up to six bytes (`\u0001`).
        room = room.min(text.len()).saturating_sub((length - BODY_BYTES).div_ceil(6).max(1));
    }
}

/// Cuts `text` to `most` bytes, and marks the cut with an ellipsis.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.into();
    }
    let mut end = most.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::url::Refused;

    fn refused(reason: Reason, text: &str) -> Outcome {
        Outcome::Refused(Refused { reason, text: text.into() })
    }

    fn read(outcome: Outcome) -> Value {
        serde_json::from_str(&Verdict::from(outcome).body(7)).unwrap()
    }

    #[test]
    fn the_statuses_are_the_contracts() {
        let refusal = |text: &str| Fault::Refused { method: "Page.navigate".into(), text: text.into() };
        for (outcome, status, error) in [
            (refused(Reason::Scheme, "no"), 400, "url rejected by policy"),
            (refused(Reason::Unresolved, "no"), 502, "net::ERR_NAME_NOT_RESOLVED"),
            (Outcome::Browser(Fault::Absent), 503, "cdp unreachable"),
            (Outcome::Browser(Fault::Mute), 502, "the browser does not answer"),
            (Outcome::Browser(refusal("no")), 502, "the browser refused Page.navigate: no"),
            (Outcome::Failed("net::ERR_CONNECTION_REFUSED".into()), 502, "net::ERR_CONNECTION_REFUSED"),
            (Outcome::Aborted, 502, "net::ERR_ABORTED"),
            (Outcome::Pending, 504, "still loading"),
            (Outcome::Superseded, 409, "a newer request took its place"),
        ] {
            assert_eq!(outcome.status().as_u16(), status, "{outcome:?}");
            assert_eq!(read(outcome)["error"], error);
        }
        assert_eq!(
            Verdict { outcome: Outcome::Committed { frame: "F".into() }, also: vec![Also::NewTab] }.body(7),
            r#"{"ok":true,"frameId":"F","outcome":"committed","also":["new_tab"],"ms":7}"#
        );
    }

    #[test]
    fn a_refusal_names_its_rule_and_its_reason() {
        let body = read(refused(Reason::PrivateAddress, "10.0.0.1 is private"));
        assert_eq!((&body["code"], &body["reason"]), (&"private-address".into(), &"10.0.0.1 is private".into()));
    }

    #[test]
    fn every_body_fits_where_callers_cut_it() {
        for text in ["x", "é", "\"", "\u{1}", "漢"] {
            let long = text.repeat(5000);
            let frame = long.clone();
            for outcome in
                [refused(Reason::ResolvesPrivate, &long), Outcome::Failed(long), Outcome::Committed { frame }]
            {
                let also = vec![Also::NewTab, Also::HungTabReplaced, Also::DialogAccepted, Also::DialogDismissed];
                let body = Verdict { outcome, also }.body(u64::MAX);
                assert!(body.len() <= BODY_BYTES, "{}: {body}", body.len());
                assert!(serde_json::from_str::<Value>(&body).is_ok());
            }
        }
    }
}
