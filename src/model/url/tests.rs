//! Tests of the policy's public functions: vectors, configuration words, and properties over all addresses.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::address::{self, Reach};
use super::*;

const VECTORS: &str = include_str!("vectors.txt");

fn words(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(String::from).collect()
}

/// `policy ports=… refuse=… allow=… public=… private=… own=…`
fn policy(line: &str) -> Policy {
    let of = |key: &str| {
        words(line.split(' ').filter_map(|part| part.strip_prefix(key)?.strip_prefix('=')).next().unwrap_or_default())
    };
    let policy = Policy::new(&of("ports"), &of("refuse"), &of("allow"));
    let policy = policy.and_then(|policy| policy.with_public(&of("public"))?.with_private(&of("private")));
    let own: Vec<u16> = of("own").iter().map(|port| port.parse().expect(line)).collect();
    policy.unwrap_or_else(|why| panic!("{line}: {why}")).with_own_ports(&own)
}

fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((head, tail)) = rest.split_once('\\') {
        out.push_str(head);
        let (c, used) = match tail.chars().next().expect(text) {
            't' => ('\t', 1),
            'n' => ('\n', 1),
            'r' => ('\r', 1),
            's' => (' ', 1),
            '0' => ('\0', 1),
            'u' => {
                let (digits, _) = tail["u{".len()..].split_once('}').expect(text);
                (u32::from_str_radix(digits, 16).ok().and_then(char::from_u32).expect(text), digits.len() + 3)
            }
            other => (other, 1),
        };
        out.push(c);
        rest = &tail[used..];
    }
    out + rest
}

fn word(reason: Reason) -> String {
    serde_json::to_value(reason).unwrap().as_str().unwrap().to_owned()
}

fn verdict(judged: &Result<JudgedUrl, Refused>) -> String {
    match judged {
        Ok(_) => "allowed -".into(),
        Err(refused) => format!("refused {}", word(refused.reason)),
    }
}

/// Every vector with its policy.
fn vectors() -> Vec<(Policy, String, String)> {
    let mut policy_now = Policy::default();
    let mut found = Vec::new();
    for line in VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with("policy ") {
            policy_now = policy(&unescaped(line));
            continue;
        }
        let (expected, rest) = line.split_once(' ').expect(line);
        let (reason, url) = rest.split_once(' ').expect(line);
        found.push((policy_now.clone(), format!("{expected} {reason}"), unescaped(url.trim_start())));
    }
    found
}

#[test]
fn each_vector_is_judged_as_it_says() {
    let mut wrong = Vec::new();
    for (policy, expected, url) in vectors() {
        let judged = policy.judge(&url);
        if verdict(&judged) != expected {
            wrong.push(format!("{url:?}: expected {expected}, and it is {judged:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} vectors:\n{}", wrong.len(), wrong.join("\n"));
}

fn judged(url: &str) -> String {
    verdict(&Policy::default().judge(url))
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect(text)).collect()
}

#[test]
fn each_reason_that_needs_no_name_server_has_vectors() {
    let told: BTreeSet<String> = vectors().into_iter().map(|(_, expected, _)| expected).collect();
    for (reason, ..) in docs::RULES {
        let resolves = matches!(reason, Reason::Unresolved | Reason::ResolvesPrivate | Reason::TooLong);
        assert!(resolves || told.contains(&format!("refused {reason}")), "{reason} has no vector");
    }
}

#[test]
fn what_is_navigated_to_is_what_the_parser_read() {
    for (raw, url, host, port) in [
        ("HTTPS://Example.COM", "https://example.com/", "example.com", 443),
        (" http:\\\\example.com:80\\a b\n", "http://example.com/a%20b", "example.com", 80),
        ("https://example.com\\@10.0.0.1/", "https://example.com/@10.0.0.1/", "example.com", 443),
        ("https://bücher.de:8443/ä", "https://xn--bcher-kva.de:8443/%C3%A4", "xn--bcher-kva.de", 8443),
        ("https://example.com.", "https://example.com./", "example.com.", 443),
        ("http://0x08.010.2056", "http://8.8.8.8/", "8.8.8.8", 80),
        ("http://[2606:4700:0::1]", "http://[2606:4700::1]/", "[2606:4700::1]", 80),
    ] {
        let target = Policy::default().judge(raw).expect(raw);
        assert_eq!((target.url(), target.host(), target.port()), (url, host, port), "{raw}");
        assert_eq!(target.name().is_some(), host.parse::<Ipv4Addr>().is_err() && !host.starts_with('['), "{raw}");
    }
}

#[test]
fn the_longest_url_is_measured_as_given_and_as_opened() {
    let long = |length: usize| format!("https://example.com/{}", "a".repeat(length - 20));
    assert_eq!(judged(&long(LONGEST)), "allowed -");
    assert_eq!(judged(&long(LONGEST + 1)), "refused too-long");
    assert_eq!(judged(&format!("{}{}", " ".repeat(LONGEST), long(20))), "refused too-long");
    // 700 characters, each of which takes nine bytes when it is percent-encoded.
    assert_eq!(judged(&format!("https://example.com/{}", "€".repeat(680))), "refused too-long");
    assert_eq!(judged(&format!("https://example.com/#{}", "€".repeat(200))), "allowed -");
    let name = ["a".repeat(60).as_str(); 4].join(".") + ".example"; // 251
    assert_eq!(judged(&format!("https://{name}com.org/")), "refused bad-name");
    assert_eq!(judged(&format!("https://{}.org./", &name[8..])), "allowed -");
}

#[test]
fn one_bad_address_among_good_ones_refuses_a_name() {
    let policy = Policy::default();
    let target = policy.judge("https://example.com/").expect("a page");
    let reason = |texts: &[&str]| policy.judge_addresses(&target, &addresses(texts)).err().map(|why| why.reason);
    assert_eq!(reason(&["93.184.216.34", "2606:2800:21f:cb07::1"]), None);
    assert_eq!(reason(&["93.184.216.34", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"]), None);
    assert_eq!(reason(&[]), Some(Reason::Unresolved));
    for bad in
        ["127.0.0.1", "10.96.0.1", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "::"]
    {
        assert_eq!(reason(&["93.184.216.34", bad]), Some(Reason::ResolvesPrivate), "{bad}");
        assert_eq!(reason(&[bad, "93.184.216.34"]), Some(Reason::ResolvesPrivate), "{bad}");
    }
}

#[test]
fn a_name_with_a_private_address_is_told_in_one_sentence() {
    let policy = Policy::default();
    let target = policy.judge("https://example.com/").expect("a page");
    for (address, said) in [
        ("10.0.0.1", "`example.com` resolves to 10.0.0.1, which is not on the public internet: 10.0.0.0/8 is"),
        ("64:ff9b::a00:1", "`example.com` resolves to 64:ff9b::a00:1, which leads to 10.0.0.1, which is not on"),
    ] {
        let refused = policy.judge_addresses(&target, &addresses(&[address])).expect_err(address);
        assert!(refused.text.starts_with(said), "{refused}");
    }
}

#[test]
fn an_address_needs_no_name_server() {
    let policy = Policy::default();
    let target = policy.judge("http://1.1.1.1/").expect("an address");
    assert_eq!(target.name(), None);
    assert_eq!(policy.judge_addresses(&target, &[]), Ok(()));
}

#[test]
fn a_test_may_open_pages_of_this_machine_at_its_port_alone() {
    let policy = Policy::default().also_loopback(4711).also_loopback(4712);
    for url in ["http://127.0.0.1:4711/", "http://127.0.0.2:4712/", "http://[::1]:4711/", "http://localhost:4712/a"] {
        let target = policy.judge(url).expect(url);
        assert_eq!(target.name(), None, "{url}");
    }
    for (url, expected) in [
        ("http://127.0.0.1:4713/", "refused port"),
        ("http://127.0.0.1/", "refused private-address"),
        ("http://169.254.169.254:4711/", "refused port"),
        ("http://a:b@127.0.0.1:4711/", "refused credentials"),
        ("ftp://127.0.0.1:4711/", "refused scheme"),
        ("https://example.com:4711/", "refused port"),
        ("https://example.com/", "allowed -"),
    ] {
        assert_eq!(verdict(&policy.judge(url)), expected, "{url}");
    }
}

#[test]
fn a_port_of_our_own_is_not_dialled_by_any_name() {
    let policy = Policy::default().with_private(&words("*.corp.example:9222")).expect("a host").with_own_ports(&[9222]);
    let target = policy.judge("http://a.corp.example:9222/").expect("private on purpose");
    let dial = |address: &str, ours| policy.judge_dial(&target, address.parse().expect(address), || ours);
    for (address, ours, allowed) in [
        ("10.0.0.5", false, true),
        ("10.0.0.5", true, false),
        ("127.0.0.1", false, false),
        ("127.9.9.9", false, false),
        ("::1", false, false),
        ("::ffff:127.0.0.1", false, false),
        ("0.0.0.0", false, false),
        ("::", false, false),
    ] {
        assert_eq!(dial(address, ours).is_ok(), allowed, "{address} {ours}");
    }
}

#[test]
fn bad_words_of_the_list_of_private_hosts_are_named() {
    let why = |word: &str| Policy::default().with_private(&words(word)).err().unwrap_or_default();
    for (said, expected) in [
        (why("10.0.0.5:http"), "`http` is not a port: use a number from 1 to 65535"),
        (why("a..b:80"), "`a..b` is not a host: it has two dots in a row, or one at its start"),
        (why("http://grafana"), "`//grafana` is not a port: use a number from 1 to 65535"),
    ] {
        assert_eq!(said, expected);
    }
}

#[test]
fn bad_words_of_the_configuration_are_named() {
    let why = |ports: &str, refuse: &str, allow: &str| {
        Policy::new(&words(ports), &words(refuse), &words(allow)).err().unwrap_or_default()
    };
    for (said, expected) in [
        (why("80,http", "", ""), "`http` is not a port: use a number from 1 to 65535"),
        (why("0", "", ""), "`0` is not a port: use a number from 1 to 65535"),
        (why("65536", "", ""), "`65536` is not a port: use a number from 1 to 65535"),
        (why("", "10.0.0.1", ""), "`10.0.0.1` is an address, and a name is needed here"),
        (why("", "*.[::1]", ""), "`[::1]` is an address, and a name is needed here"),
        (why("", "", "*.1"), "`1` is an address, and a name is needed here"),
        (why("", "a..b", ""), "`a..b` is not a host: it has two dots in a row, or one at its start"),
        (why("", "", "*"), "`*` is not a host: it has a character that names cannot have ('*')"),
        (why("", "", "a.*.com"), "`a.*.com` is not a host: it has a character that names cannot have ('*')"),
        (
            why("", "", "https://example.com/"),
            "`https://example.com/` is not a host: leave out the scheme and the path, as in `example.com`",
        ),
        (
            why("", "", "example.com:8080"),
            "`example.com:8080` is not a host: it has characters that hosts cannot have, perhaps a port or a path",
        ),
        (
            why("", "", "10.0.0.1"),
            "`10.0.0.1` would never be opened: 10.0.0.1 is not on the public internet: 10.0.0.0/8 is \"Private-Use\" (RFC 1918)",
        ),
        (
            why("", "", "*.svc"),
            "`*.svc` would never be opened: it is below .svc, which is for the services of the cluster (Kubernetes)",
        ),
        (
            why("", "", "router"),
            "`router` would never be opened: `router` is a name of the local network: a public name has a dot",
        ),
    ] {
        assert_eq!(said, expected);
    }
}

#[test]
fn no_sentence_repeats_what_may_be_secret() {
    for url in [
        "https://s3cr3t:s3cr3t@example.com/s3cr3t?s3cr3t#s3cr3t",
        "s3cr3t:s3cr3t@example.com/s3cr3t",
        "http://127.0.0.1/s3cr3t?token=s3cr3t#s3cr3t",
        "http://localhost/s3cr3t",
        "http://example.com:22/s3cr3t",
        "http://kubernetes/?s3cr3t",
        "http://exam*ple.com/s3cr3t",
        "http://exam ple.com/s3cr3t",
        "javascript:s3cr3t",
        "/s3cr3t",
    ] {
        let refused = Policy::default().judge(url).expect_err(url);
        assert!(!refused.text.contains("s3cr3t"), "{url}: {refused}");
        assert!(host(url).is_none_or(|host| !host.contains("s3cr3t")), "{url}");
    }
    assert_eq!(host("https://u:p@example.com:22/a").as_deref(), Some("example.com"));
    assert_eq!(host("example.com"), None);
}

#[test]
fn a_reason_is_the_same_word_in_json_and_in_print() {
    let refused = Policy::default().judge("http://127.1/").expect_err("loopback");
    let json = serde_json::to_value(&refused).expect("JSON");
    assert_eq!(json["reason"], "private-address");
    assert_eq!(json["text"], refused.to_string());
    assert_eq!(refused.reason.to_string(), "private-address");
}

#[test]
fn the_rows_of_the_registries_are_sound() {
    let mut seen = BTreeSet::new();
    for block in address::blocks() {
        let first = block.address(0);
        assert!(block.to_string().starts_with(&first.to_string()), "{block} does not begin where it says");
        assert_eq!(block.address(u128::MAX).is_ipv4(), first.is_ipv4());
        assert!(seen.insert(block.to_string()), "{block} is there twice");
        assert!(!block.name.is_empty() && !block.source.is_empty(), "{block}");
    }
}

mod docs;
mod properties;
