//! Generates the tables of `docs/security.md` from the policy.

use std::fmt::Write;

use super::name::RESERVED;
use super::*;

/// Each rule in the order of checking, with a URL that it refuses. The last two need a name server.
pub const RULES: &[(Reason, &str, &str)] = &[
    (Reason::TooLong, "2048 characters at most, as it was given and as it is opened", "https://example.com/aaaa…"),
    (Reason::NotAUrl, "whole, and readable by the WHATWG parser, as a browser reads it", "example.com"),
    (Reason::Scheme, "http or https", "file:///etc/passwd"),
    (Reason::Credentials, "no user name and no password", "https://example.com@evil.net/"),
    (
        Reason::OwnPort,
        "on this machine, no port of the workspace itself: the launcher's, the proxy's, the DevTools'",
        "http://localhost:9222/",
    ),
    (Reason::Port, "a port that may be opened: 80, 443, 8080, 8443, or those of `--ports`", "http://example.com:22/"),
    (Reason::PrivateAddress, "an address, in any notation, only when it is global (below)", "http://0x7f.1/"),
    (
        Reason::BadName,
        "a name of at most 253 characters, its labels of 1 to 63 letters, digits, `-` and `_`",
        "http://a..example.com/",
    ),
    (Reason::ReservedName, "no name that public name servers do not answer for (below)", "http://printer.local/"),
    (Reason::SingleLabel, "a name with a dot: others are found in the network's search domains", "https://kubernetes/"),
    (
        Reason::UnknownSuffix,
        "a name that ends in a [public suffix](https://publicsuffix.org), or in one of `--public`",
        "https://kubernetes.default/",
    ),
    (Reason::Suffix, "no name of `--refuse`, and none below one", "https://admin.kbve.com/"),
    (Reason::NotAllowed, "when there is an allow list: a host on it", "https://example.org/"),
    (Reason::Unresolved, "a name that has an address, told within a second", "https://no-such-name.com/"),
    (Reason::ResolvesPrivate, "a name with global addresses alone", "https://10.0.0.1.nip.io/"),
];

const BEGIN: &str = "<!-- the policy's tables: written by a test, BLESS=1 cargo test the_tables_in_the_docs -->\n";
const END: &str = "<!-- end of the policy's tables -->\n";

fn tables() -> String {
    let mut out = String::from("| a URL is | otherwise | for example |\n|---|---|---|\n");
    for (reason, rule, example) in RULES {
        writeln!(out, "| {rule} | `{reason}` | `{example}` |").unwrap();
    }
    out += "\nNames that are refused, with all that is below them:\n\n| name | it is for | source |\n|---|---|---|\n";
    for row in RESERVED {
        writeln!(out, "| `{}` | {} | {} |", row.suffix, row.what, row.source).unwrap();
    }
    out += "\nAddresses; of several rows that hold an address, the one with the longest prefix decides:\n\n";
    out += "| block | name | source | verdict |\n|---|---|---|---|\n";
    for block in address::blocks() {
        let verdict = match block.reach {
            Reach::Global => "allowed",
            Reach::Local => "refused",
            Reach::Nearest => "refused: the nearest network answers",
            Reach::Embeds => "as the IPv4 address in its last 32 bits",
        };
        writeln!(out, "| {block} | {} | {} | {verdict} |", block.name, block.source).unwrap();
    }
    out
}

#[test]
fn the_tables_in_the_docs_are_the_policy() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md");
    let written = std::fs::read_to_string(file).expect("docs/security.md");
    let (before, rest) = written.split_once(BEGIN).expect("the tables begin");
    let (_, after) = rest.split_once(END).expect("the tables end");
    let document = format!("{before}{BEGIN}\n{}\n{END}{after}", tables());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(file, &document).unwrap();
        return;
    }
    assert!(written == document, "docs/security.md is not the policy: BLESS=1 cargo test writes its tables anew");
}

#[test]
fn each_rule_refuses_its_example() {
    let policy = Policy::new(&[], &words("admin.kbve.com"), &words("*.com,*.nip.io")).expect("a policy");
    let policy = policy.with_own_ports(&[9222]);
    for (reason, _, example) in RULES {
        let url = example.replace('…', &"a".repeat(LONGEST));
        let judged = policy.judge(&url).and_then(|target| match reason {
            Reason::Unresolved => policy.judge_addresses(&target, &[]),
            Reason::ResolvesPrivate => policy.judge_addresses(&target, &addresses(&["10.0.0.1"])),
            _ => Ok(()),
        });
        assert_eq!(judged.err().map(|refused| refused.reason), Some(*reason), "{example}");
    }
}

/// Does not compile if a reason is missing in the table above.
#[test]
fn each_reason_has_a_rule_in_order() {
    let place = |reason: &Reason| match reason {
        Reason::TooLong => 0,
        Reason::NotAUrl => 1,
        Reason::Scheme => 2,
        Reason::Credentials => 3,
        Reason::OwnPort => 4,
        Reason::Port => 5,
        Reason::PrivateAddress => 6,
        Reason::BadName => 7,
        Reason::ReservedName => 8,
        Reason::SingleLabel => 9,
        Reason::UnknownSuffix => 10,
        Reason::Suffix => 11,
        Reason::NotAllowed => 12,
        Reason::Unresolved => 13,
        Reason::ResolvesPrivate => 14,
    };
    for (at, (reason, ..)) in RULES.iter().enumerate() {
        assert_eq!(place(reason), at, "{reason}");
    }
    assert_eq!(RULES.len(), 15);
}
