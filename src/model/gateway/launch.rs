//! One request to open a page in a workspace: what is forwarded, and what the caller is told. The rules are the
//! dashboard's: 200 with the launcher's answer, 400 as it was, and 502 with `nav shim STATUS: BODY` for everything else.

use serde_json::{Value, json};

use super::{NAME_RULE, is_workspace_name};
use crate::model::plain;
use crate::model::url::{JudgedUrl, Policy, Refused, host};

/// The most bytes of a launcher's answer that are read and passed on.
pub const UPSTREAM_BYTES: usize = 512;

/// A request that is not forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchFault {
    /// No workspace can have this name.
    BadName,
    /// There is no workspace with this name.
    NoSuchWorkspace(String),
    /// The body is not JSON.
    NotJson,
    /// The body has no text `url`.
    NoUrl,
    /// The policy refuses the URL.
    Refused(Refused),
}

/// The outcome of a request that was to be forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarded {
    /// The launcher's status and the beginning of its answer.
    Answered {
        /// The HTTP status.
        status: u16,
        /// At most [`UPSTREAM_BYTES`].
        body: Vec<u8>,
    },
    /// The workspace is known to be down; nothing was sent.
    Down,
    /// Nothing was sent: why there is no token, or no address.
    NotSent(String),
    /// The launcher could not be reached, or has broken off.
    Broken(String),
    /// It has not answered in time, in seconds.
    Late(u64),
}

/// The answer to the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchReply {
    /// The HTTP status.
    pub status: u16,
    /// JSON for the caller.
    pub body: Value,
    /// One word for audit lines.
    pub verdict: &'static str,
}

/// The URL in a request's body, judged. The second value is its host, for the audit line.
pub fn wanted(policy: &Policy, body: &[u8]) -> (Result<JudgedUrl, LaunchFault>, Option<String>) {
    let Ok(wanted) = serde_json::from_slice::<Value>(body) else { return (Err(LaunchFault::NotJson), None) };
    let Some(raw) = wanted["url"].as_str() else { return (Err(LaunchFault::NoUrl), None) };
    (policy.judge(raw).map_err(LaunchFault::Refused), host(raw))
}

/// Refuses a name that no workspace can have.
pub fn named(name: &str) -> Result<&str, LaunchFault> {
    if is_workspace_name(name) { Ok(name) } else { Err(LaunchFault::BadName) }
}

impl LaunchFault {
    /// The answer to the caller.
    pub fn reply(&self) -> LaunchReply {
        let (status, error, reason, verdict) = match self {
            LaunchFault::BadName => (400, "invalid workspace name".into(), NAME_RULE.into(), "invalid_name"),
            LaunchFault::NoSuchWorkspace(name) => {
                (404, format!("there is no workspace `{name}`"), String::new(), "no_workspace")
            }
            LaunchFault::NotJson => (400, "invalid json".into(), String::new(), "invalid_json"),
            LaunchFault::NoUrl => {
                (400, "url rejected by policy".into(), "the body has no text called `url`".into(), "refused")
            }
            LaunchFault::Refused(refused) => (400, "url rejected by policy".into(), refused.text.clone(), "refused"),
        };
        let mut body = json!({ "success": false, "error": error });
        if !reason.is_empty() {
            body["reason"] = reason.into();
        }
        if let LaunchFault::Refused(refused) = self {
            body["code"] = json!(refused.reason);
        }
        LaunchReply { status, body, verdict }
    }
}

impl Forwarded {
    /// Whether another token may help.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Forwarded::Answered { status: 401, .. })
    }

    /// The answer to the caller.
    pub fn reply(&self, workspace: &str) -> LaunchReply {
        match self {
            Forwarded::Answered { status: 200..=299, body } => {
                let body = json!({ "success": true, "workspace": workspace, "upstream": upstream(body) });
                LaunchReply { status: 200, body, verdict: "opened" }
            }
            Forwarded::Answered { status: 400, body } => {
                let upstream = upstream(body);
                let mut body = json!({ "success": false, "error": "nav shim 400", "workspace": workspace });
                for field in ["error", "reason", "code"] {
                    if let Some(text) = upstream[field].as_str() {
                        body[field] = text.into();
                    }
                }
                body["upstream"] = upstream;
                LaunchReply { status: 400, body, verdict: "refused_upstream" }
            }
            Forwarded::Answered { status, body } => {
                failed(workspace, &status.to_string(), &text(body), "failed_upstream")
            }
            Forwarded::Down => failed(workspace, "unreachable", "the workspace is stopped", "down"),
            Forwarded::NotSent(why) => failed(workspace, "unreachable", why, "not_sent"),
            Forwarded::Broken(why) => failed(workspace, "unreachable", why, "unreachable"),
            Forwarded::Late(seconds) => {
                failed(workspace, "timeout", &format!("no answer within {seconds} seconds"), "late")
            }
        }
    }
}

fn failed(workspace: &str, status: &str, why: &str, verdict: &'static str) -> LaunchReply {
    let error = format!("nav shim {status}: {why}");
    LaunchReply { status: 502, body: json!({ "success": false, "error": error, "workspace": workspace }), verdict }
}

/// A launcher's answer as JSON; as text if it is something else.
fn upstream(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| text(body).into())
}

/// The beginning of an answer as text, without what a terminal would obey.
fn text(body: &[u8]) -> String {
    let cut = &body[..body.len().min(UPSTREAM_BYTES)];
    let whole = match std::str::from_utf8(cut) {
        Err(error) if error.error_len().is_none() => &cut[..error.valid_up_to()], // a character was cut in two
        _ => cut,
    };
    plain::text(String::from_utf8_lossy(whole).trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answered(status: u16, body: &str) -> LaunchReply {
        Forwarded::Answered { status, body: body.into() }.reply("desk")
    }

    #[test]
    fn statuses_and_bodies_are_mapped_to_the_letter() {
        for (status, body, wanted, reply) in [
            (200, r#"{"ok":true}"#, 200, json!({"success": true, "workspace": "desk", "upstream": {"ok": true}})),
            (204, "", 200, json!({"success": true, "workspace": "desk", "upstream": ""})),
            (
                400,
                r#"{"error":"url rejected by policy","reason":"why"}"#,
                400,
                json!({
                    "success": false, "error": "url rejected by policy", "workspace": "desk", "reason": "why",
                    "upstream": {"error": "url rejected by policy", "reason": "why"},
                }),
            ),
            (
                503,
                "cdp unreachable\n",
                502,
                json!({"success": false, "error": "nav shim 503: cdp unreachable", "workspace": "desk"}),
            ),
            (401, "{}", 502, json!({"success": false, "error": "nav shim 401: {}", "workspace": "desk"})),
            (301, "", 502, json!({"success": false, "error": "nav shim 301: ", "workspace": "desk"})),
        ] {
            let told = answered(status, body);
            assert_eq!((told.status, told.body), (wanted, reply), "{status}");
        }
    }

    proptest! {
        #[test]
        fn every_answer_has_one_of_three_statuses_and_is_short(status in 0..1000u16, body in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let told = Forwarded::Answered { status, body: body.into_iter().take(UPSTREAM_BYTES).collect() }.reply("desk");
            let wanted = match status { 200..=299 => 200, 400 => 400, _ => 502 };
            prop_assert_eq!(told.status, wanted);
            prop_assert_eq!(told.body["success"].as_bool(), Some(wanted == 200));
            prop_assert!(told.body.to_string().len() < 16 * UPSTREAM_BYTES);
        }

        #[test]
        fn no_body_breaks_it(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (judged, _) = wanted(&Policy::default(), &body);
            if let Err(fault) = judged {
                prop_assert_eq!(fault.reply().status, 400);
            }
        }
    }

    #[test]
    fn what_is_not_forwarded_says_why() {
        let told = |body: &str| match wanted(&Policy::default(), body.as_bytes()).0 {
            Ok(target) => panic!("{target:?}"),
            Err(fault) => fault.reply(),
        };
        assert_eq!(told("{").body, json!({"success": false, "error": "invalid json"}));
        assert_eq!(told("{\"url\": 1}").body["error"], "url rejected by policy");
        let private = told(r#"{"url":"http://10.0.0.1/s3cr3t?s3cr3t"}"#);
        assert_eq!((private.status, &private.body["code"]), (400, &json!("private-address")));
        assert!(private.body["reason"].as_str().unwrap().contains("not on the public internet"));
        assert!(!private.body.to_string().contains("s3cr3t"));
        assert_eq!(LaunchFault::NoSuchWorkspace("x".into()).reply().status, 404);
        assert_eq!(named("a/b").unwrap_err().reply().status, 400);
    }

    #[test]
    fn silence_has_its_words() {
        let error = |forwarded: Forwarded| forwarded.reply("desk").body["error"].as_str().unwrap().to_owned();
        assert_eq!(error(Forwarded::Late(10)), "nav shim timeout: no answer within 10 seconds");
        assert_eq!(error(Forwarded::Down), "nav shim unreachable: the workspace is stopped");
        assert_eq!(error(Forwarded::Broken("refused".into())), "nav shim unreachable: refused");
    }
}
