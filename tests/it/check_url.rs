//! `check-url`: verdicts about URLs for people, scripts and pipes, without a supervisor or a network.

use std::fs::File;
use std::io::{Seek, Write};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Output, binary, finish};

/// `kasm-void check-url ARGS…` with these variables and lines on stdin.
fn check(args: &[&str], variables: &[(&str, &str)], lines: &[u8]) -> Output {
    let mut stdin: File = tempfile::tempfile().expect("a file");
    stdin.write_all(lines).and_then(|()| stdin.rewind()).expect("stdin");
    let mut command = Command::new(binary());
    command.arg("check-url").args(args).env_clear().envs(variables.iter().copied()).stdin(stdin);
    finish(command)
}

fn offline(args: &[&str]) -> Output {
    check(&[&["--no-resolve"], args].concat(), &[], b"")
}

fn objects(output: &Output) -> Vec<Value> {
    output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn a_url_that_may_be_opened_is_told_as_it_would_be_opened() {
    let output = offline(&["HTTPS:\\\\Example.com", "https://bücher.de/ä?q"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stdout, "allowed https://example.com/\nallowed https://xn--bcher-kva.de/%C3%A4?q\n");
}

#[test]
fn one_refused_url_among_good_ones_is_told_with_its_reason_and_fails() {
    let output = offline(&["https://example.com", "http://0x7f.1/", "https://example.org"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    let refused = "refused http://0x7f.1/: private-address: 127.0.0.1 is not on the public internet: \
                   127.0.0.0/8 is \"Loopback\" (RFC 1122)";
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines, ["allowed https://example.com/", refused, "allowed https://example.org/"]);
}

#[test]
fn a_script_gets_one_object_a_line_for_the_lines_it_gave() {
    let given = b"https://example.com\r\n\n  \nhttp://kubernetes/\nhttps://a.\xff.com/\nhttp://10.1";
    let output = check(&["--json", "--no-resolve", "-"], &[], given);
    assert_eq!(output.code, Some(1), "{output:?}");
    let found: Vec<(Value, Value)> =
        objects(&output).into_iter().map(|object| (object["allowed"].clone(), object["reason"].clone())).collect();
    let refused = |reason: &str| (Value::Bool(false), Value::from(reason));
    let allowed = (Value::Bool(true), Value::Null);
    assert_eq!(found, [allowed, refused("single-label"), refused("not-a-url"), refused("private-address")]);
    assert_eq!(objects(&output)[0]["url"], "https://example.com/");
    assert_eq!(objects(&output)[0]["given"], "https://example.com\r");
}

#[test]
fn a_terminal_is_not_obeyed_by_a_refused_url() {
    let output = offline(&["https://\u{1b}[2Jexample.com/\u{1b}]0;x\u{7}"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(!output.stdout.contains('\u{1b}') && !output.stdout.contains('\u{7}'), "{output:?}");
}

#[test]
fn a_name_that_nobody_knows_is_refused_unless_nobody_is_asked() {
    let url = "https://no-such-name.example.com/";
    let output = check(&["--json", url], &[], b"");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(objects(&output)[0]["reason"], "unresolved", "{output:?}");
    assert_eq!(offline(&[url]).code, Some(0));
}

#[test]
fn variables_set_the_policy_and_options_replace_them() {
    let variables = [
        ("URL_POLICY_PORTS", "443,  8888"),
        ("URL_POLICY_REFUSE", "admin.example.com"),
        ("URL_POLICY_ALLOW", "*.example.com example.com,"),
    ];
    let code = |args: &[&str]| check(&[&["--no-resolve"], args].concat(), &variables, b"").code;
    assert_eq!(code(&["https://example.com:8888/", "https://www.example.com/"]), Some(0));
    assert_eq!(code(&["http://example.com/"]), Some(1));
    assert_eq!(code(&["--ports", "80 443", "http://example.com/"]), Some(0));
    assert_eq!(code(&["https://x.admin.example.com/"]), Some(1));
    assert_eq!(code(&["--refuse", "", "https://x.admin.example.com/"]), Some(0));
    assert_eq!(code(&["https://example.org/"]), Some(1));
    assert_eq!(code(&["--allow", "example.net", "--allow", "example.org", "https://example.org/"]), Some(0));
    assert_eq!(check(&["--no-resolve", "https://example.org"], &[("URL_POLICY_ALLOW", " ")], b"").code, Some(0));
}

#[test]
fn bad_words_are_wrong_usage_and_name_their_option() {
    for (option, variable, words, said) in [
        ("--ports", "URL_POLICY_PORTS", "80 http", "`http` is not a port"),
        ("--refuse", "URL_POLICY_REFUSE", "10.0.0.0", "a name is needed"),
        ("--allow", "URL_POLICY_ALLOW", "kubernetes", "would never be opened"),
    ] {
        let given = check(&[option, words, "https://example.com"], &[], b"");
        let set = check(&["https://example.com"], &[(variable, words)], b"");
        for output in [given, set] {
            assert_eq!(output.code, Some(2), "{output:?}");
            assert!(output.stderr.contains(option) && output.stderr.contains(said), "{output:?}");
        }
    }
    assert_eq!(check(&[], &[], b"").code, Some(2));
}
