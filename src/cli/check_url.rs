//! `check-url`: checks URLs with the launcher's policy, without a launcher. All decisions are the policy's.

use std::io::{self, BufRead};
use std::net::IpAddr;

use serde_json::json;

use super::VerbEnd;
use super::print::{BAD, DIM, GOOD, plain, say, say_json};
use crate::model::url::{JudgedUrl, Policy, Refused};
use crate::resolver::Resolver;

/// The URL to open with the addresses of its host, or the reason for the refusal.
type Verdict = Result<(JudgedUrl, Vec<IpAddr>), Refused>;

/// Prints the verdict on each URL as soon as it is known. The result is `Refused` if any URL is refused.
pub async fn check(policy: &Policy, urls: &[String], resolving: bool, json: bool) -> anyhow::Result<VerbEnd> {
    let (mut ended, resolver) = (VerbEnd::Done, Resolver::default());
    for url in urls.iter().flat_map(|word| given(word)) {
        let url = url?;
        let verdict = judge(policy, &url, resolving.then_some(&resolver)).await;
        if verdict.is_err() {
            ended = VerbEnd::Refused;
        }
        if json { tell_json(&url, &verdict)? } else { tell(&url, &verdict)? }
    }
    Ok(ended)
}

/// The URL itself, or the URLs from stdin for `-`.
fn given(word: &str) -> Box<dyn Iterator<Item = io::Result<String>>> {
    if word != "-" {
        return Box::new(std::iter::once(Ok(word.to_owned())));
    }
    let lines = io::stdin().lock().split(b'\n').map(|line| Ok(String::from_utf8_lossy(&line?).into_owned()));
    Box::new(lines.filter(|line| !line.as_ref().is_ok_and(|line| line.trim().is_empty())))
}

async fn judge(policy: &Policy, url: &str, resolver: Option<&Resolver>) -> Verdict {
    let target = policy.judge(url)?;
    let addresses = match resolver {
        Some(resolver) => resolver.judge(policy, &target).await?,
        None => Vec::new(),
    };
    Ok((target, addresses))
}

fn tell_json(given: &str, verdict: &Verdict) -> anyhow::Result<()> {
    match verdict {
        Ok((target, addresses)) => say_json(&json!({
            "given": given,
            "allowed": true,
            "url": target.url(),
            "host": target.host(),
            "addresses": addresses,
        })),
        Err(Refused { reason, text }) => {
            say_json(&json!({ "given": given, "allowed": false, "reason": reason, "text": text }))
        }
    }
}

fn tell(given: &str, verdict: &Verdict) -> anyhow::Result<()> {
    match verdict {
        Ok((target, addresses)) => {
            let found: String = addresses.iter().map(|address| format!(" {address}")).collect();
            say(&format!("{GOOD}allowed{GOOD:#} {}{DIM}{found}{DIM:#}", target.url()))
        }
        Err(Refused { reason, text }) => {
            say(&format!("{BAD}refused{BAD:#} {}: {reason}: {}", plain(given), plain(text)))
        }
    }
}
