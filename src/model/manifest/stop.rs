//! `stop`: how an app is stopped. Form, defaults and check.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::Fields;
use crate::model::signal::signal_number;

/// A longer grace would hold up the end of the session.
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60 * 60);

/// `Stop(…)` as written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename = "Stop", deny_unknown_fields, default)]
pub struct StopForm {
    /// The signal to send: a name with or without `SIG`, or a number. `TERM` by default.
    pub signal: Option<String>,
    /// Time until the rest of the tree is killed. 5 s by default.
    pub grace: Option<String>,
    /// The DevTools port of a Chromium, used to ask it to close. The signal is sent only if that fails.
    pub devtools: Option<String>,
}

/// How an app is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The number of the signal to send.
    pub signal: i32,
    /// Time until the rest of the tree is killed.
    pub grace: Duration,
    /// The DevTools port of a Chromium, used to ask it to close. The signal is sent only if that fails.
    pub devtools: Option<u16>,
}

impl Default for Stop {
    fn default() -> Self {
        Stop { signal: 15, grace: Duration::from_secs(5), devtools: None }
    }
}

impl StopForm {
    /// Fills in defaults and reports unknown signals, bad ports and values that are out of range.
    pub fn check(self, fields: &mut Fields<'_>) -> Stop {
        let StopForm { signal, grace, devtools } = self;
        let default = Stop::default();
        let signal =
            signal.map(|text| fields.text("signal", text)).map_or(Ok(default.signal), |name| signal_number(&name));
        Stop {
            signal: signal.unwrap_or_else(|message| {
                fields.error("signal", message, "");
                default.signal
            }),
            grace: fields.duration("grace", grace, default.grace, GRACE),
            devtools: devtools.and_then(|text| port(text, fields)),
        }
    }
}

fn port(text: String, fields: &mut Fields<'_>) -> Option<u16> {
    let text = fields.text("devtools", text);
    let port = text.parse().ok().filter(|port| *port > 0);
    if port.is_none() {
        fields.error("devtools", format!("`{text}` is not a port"), "use 1 to 65535, as in --remote-debugging-port");
    }
    port
}
