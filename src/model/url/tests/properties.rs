//! Properties that hold for every text and every address.

use super::*;

/// Mostly plain pieces, with an odd one now and then.
fn mostly(plain: &'static [&'static str], odd: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => prop::sample::select(plain.to_vec()), 1 => prop::sample::select(odd.to_vec())]
}

/// Pieces that parsers have disagreed about, combined in any order.
fn like_a_url() -> impl Strategy<Value = String> {
    let scheme = mostly(&["http", "https"], &["HTTPS", "ht\ttp", " https", "ftp", "javascript", "", "user"]);
    let slashes = mostly(&["://"], &[":", ":/", ":///", ":\\\\", ":/\\", "://\t", ":/\n/", "//", ""]);
    let user = mostly(&[""], &["@", "a@", "a:b@", ":@", "a%40", "a\\@", "%40@"]);
    let end = mostly(&["com", "8", "org.", ""], &["1", "svc", "local", "..", "]", "com.."]);
    let port = mostly(&["", ":80", ":8080"], &[":", ":0", ":65536", ":22", ":0443"]);
    let tail = mostly(&["", "/", "/a b", "?a=b#c"], &["\\", "/\\@10.0.0.1", "/ä€", "/../..", "#", "?", "\0"]);
    (scheme, slashes, user, (labels(), end), port, tail).prop_map(
        |(scheme, slashes, user, (labels, end), port, tail)| {
            format!("{scheme}{slashes}{user}{labels}{end}{port}{tail}")
        },
    )
}

fn labels() -> impl Strategy<Value = String> {
    const ODD: &[&str] = &[
        "localhost",
        "internal",
        "127",
        "0x7f",
        "0177",
        "10",
        "1",
        "0",
        "256",
        "4294967295",
        "%31%32%37",
        "１２７",
        "①",
        "ⓛocalhost",
        "\u{ad}",
        "xn--bcher-kva",
        "xn--a",
        "_",
        "-",
        "*",
        "",
        "a b",
        "%00",
        "\t",
        "::1",
        "[::ffff:",
        "[fe80::",
        "[64:ff9b::",
    ];
    let piece = mostly(&["example", "www", "bücher", "8"], ODD);
    let joint = mostly(&["."], &["。", "．", ":", "", "..", "%2e"]);
    let part = (piece, joint).prop_map(|(piece, joint)| format!("{piece}{joint}"));
    prop::collection::vec(part, 0..4).prop_map(|parts| parts.concat())
}

/// An accepted URL parses to itself, and its name cannot be an address to a resolver.
fn stands(raw: &str) -> Result<(), TestCaseError> {
    let policy = Policy::default();
    let judged = policy.judge(raw);
    if let Ok(url) = Url::parse(raw) {
        let again = policy.judge(url.as_str());
        prop_assert_eq!(verdict(&again), verdict(&judged), "{} is {}", raw, url);
    }
    match judged {
        Ok(target) => {
            prop_assert!(target.url().starts_with("http") && target.url().is_ascii());
            prop_assert_eq!(policy.judge(target.url()), Ok(target.clone()));
            prop_assert!(PORTS.contains(&target.port()));
            let last = target.name().and_then(|name| name.trim_end_matches('.').rsplit('.').next());
            prop_assert!(last.is_none_or(|label| !is_numeric(label)), "{} may be read as an address", target.url());
        }
        Err(refused) => prop_assert!(refused.text.len() < 360, "{}", refused),
    }
    Ok(())
}

/// Whether the C library's resolver would read this as the end of an IPv4 address.
fn is_numeric(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").is_some_and(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
    hexadecimal || label.chars().all(|c| c.is_ascii_digit())
}

/// Ways to write an IPv4 address that mean the same to a browser.
fn notations(address: Ipv4Addr) -> Vec<String> {
    let number = address.to_bits();
    let [a, b, c, d] = address.octets();
    let wide: String = address
        .to_string()
        .chars()
        .map(|c| match c {
            '0'..='9' => char::from_u32(c as u32 - '0' as u32 + '０' as u32).expect("a digit"),
            _ => '．',
        })
        .collect();
    let percent: String = address.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect();
    vec![
        format!("{address}"),
        format!("{address}."),
        format!("{number}"),
        format!("{number:#x}"),
        format!("{number:#X}").replace("0X", "0X000"),
        format!("0{number:o}"),
        format!("{a:#x}.0{b:o}.{c}.{d:#04x}"),
        format!("0{a:o}.{}", number & 0xff_ffff),
        format!("{a}.{b}.{}", number & 0xffff),
        format!("{a}.{b:#x}.0{:o}", number & 0xffff),
        wide,
        percent,
        format!("[::ffff:{address}]"),
        format!("[0:0:0:0:0:FFFF:{:x}:{:x}]", number >> 16, number & 0xffff),
        format!("[64:ff9b::{address}]"),
        format!("[64:ff9b:0:0::{:x}:{:x}]", number >> 16, number & 0xffff),
    ]
}

fn notations_of_6(address: Ipv6Addr) -> Vec<String> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let tail = Ipv4Addr::from_bits(address.to_bits() as u32);
    vec![
        format!("[{address}]"),
        format!("[{a:04X}:{b:04X}:{c:04X}:{d:04X}:{e:04X}:{f:04X}:{g:04X}:{h:04X}]"),
        format!("[{a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}:{tail}]"),
    ]
}

/// Classifies an IPv4 address with the standard library and first octets, without our table.
fn is_public(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        [0 | 240..=255, ..] => true,
        [100, second, ..] => (64..128).contains(&second),
        [168, 63, 129, 16] => true,
        [192, 0, 0, _] | [192, 31, 196, _] | [192, 52, 193, _] | [192, 88, 99, _] | [192, 175, 48, _] => true,
        [198, second, ..] => second == 18 || second == 19,
        _ => false,
    };
    let known = address.is_private() || address.is_loopback() || address.is_link_local() || address.is_multicast();
    !special && !known && !address.is_documentation() && !address.is_broadcast()
}

fn refused_blocks() -> Vec<&'static address::Block> {
    address::blocks().filter(|block| matches!(block.reach, Reach::Local | Reach::Nearest)).collect()
}

/// The rows that allow an address, and those where an embedded address decides.
fn is_carved_out(address: IpAddr, of: &address::Block) -> bool {
    address::blocks()
        .filter(|block| matches!(block.reach, Reach::Global | Reach::Embeds) && block.free_bits() < of.free_bits())
        .any(|block| block.address(0).is_ipv4() == address.is_ipv4() && block.holds(address))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_judged_once_and_for_all(raw in any::<String>()) {
        stands(&raw)?;
    }

    #[test]
    fn anything_like_a_url_is_judged_once_and_for_all(raw in like_a_url()) {
        stands(&raw)?;
    }

    #[test]
    fn any_host_is_judged_once_and_for_all(host in any::<String>()) {
        stands(&format!("https://{host}/"))?;
    }
}

proptest! {
    #[test]
    fn an_ipv4_address_is_judged_alike_in_every_notation(number: u32) {
        let address = Ipv4Addr::from_bits(number);
        let expected = if is_public(address) { "allowed -" } else { "refused private-address" };
        for host in notations(address) {
            prop_assert_eq!(judged(&format!("http://{host}/")), expected, "{} as {}", address, host);
        }
        prop_assert_eq!(address::judge(address.into()).is_ok(), is_public(address));
    }

    #[test]
    fn every_address_of_a_refused_block_is_refused_in_every_notation(
        block in prop::sample::select(refused_blocks()),
        place in prop_oneof![Just(0), Just(u128::MAX), any::<u128>()],
    ) {
        let address = block.address(place);
        prop_assume!(!is_carved_out(address, block));
        let hosts = match address {
            IpAddr::V4(address) => notations(address),
            IpAddr::V6(address) => notations_of_6(address),
        };
        for host in hosts {
            prop_assert_eq!(judged(&format!("http://{host}/")), "refused private-address", "{} as {}", address, host);
        }
        let target = Policy::default().judge("https://example.com/").expect("a page");
        let found = [addresses(&["1.1.1.1"])[0], address];
        let refused = Policy::default().judge_addresses(&target, &found).expect_err("not global");
        prop_assert_eq!(refused.reason, Reason::ResolvesPrivate);
        prop_assert!(refused.text.contains(&address.to_string()), "{}", refused);
    }

    #[test]
    fn assigned_ipv6_space_is_allowed(head in 0x2400u16..0x2600, rest: [u16; 7]) {
        let [b, c, d, e, f, g, h] = rest;
        for host in notations_of_6(Ipv6Addr::new(head, b, c, d, e, f, g, h)) {
            prop_assert_eq!(judged(&format!("http://{host}/")), "allowed -", "{}", host);
        }
    }

    #[test]
    fn nothing_outside_of_global_unicast_is_allowed(
        head in prop_oneof![0u16..0x2000, 0x4000..=u16::MAX],
        rest in 0u128..1 << 112,
    ) {
        let address = Ipv6Addr::from_bits(u128::from(head) << 112 | rest);
        prop_assume!(!address.to_string().starts_with("::ffff:") && !address.to_string().starts_with("64:ff9b::"));
        prop_assert_eq!(judged(&format!("http://[{address}]/")), "refused private-address");
    }

    #[test]
    fn a_refused_suffix_holds_for_all_below_it(head in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,3}") {
        let policy = Policy::new(&[], &words("example.com"), &[]).expect("a name");
        prop_assert_eq!(verdict(&policy.judge(&format!("https://{head}.EXAMPLE.com./"))), "refused suffix");
        prop_assert_eq!(verdict(&policy.judge(&format!("https://{head}-example.com/"))), "allowed -");
    }

    #[test]
    fn an_allow_list_allows_nothing_that_was_refused(raw in like_a_url()) {
        let listed = Policy::new(&[], &[], &words("*.com,example.com,8.8.8.8")).expect("hosts");
        if listed.judge(&raw).is_ok() {
            prop_assert!(Policy::default().judge(&raw).is_ok());
        }
    }
}
