//! Tests what is merged, kept and refused, with examples and with generated texts and layouts.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn keys(value: Value) -> Keys {
    value.as_object().unwrap().clone().into_iter().collect()
}

/// `text` with `set` merged in, or `text` itself if nothing has to change.
#[track_caller]
fn set(text: &str, set: Value) -> String {
    let edited = merge(text.as_bytes(), &keys(set), &Keys::new()).unwrap();
    edited.map_or_else(|| text.to_owned(), |edited| String::from_utf8(edited).unwrap())
}

#[track_caller]
fn default(text: &str, default: Value) -> String {
    let edited = merge(text.as_bytes(), &Keys::new(), &keys(default)).unwrap();
    edited.map_or_else(|| text.to_owned(), |edited| String::from_utf8(edited).unwrap())
}

#[test]
fn what_is_not_set_stays_byte_for_byte() {
    for kept in [
        r#""n":123456789012345678901234567890"#,
        r#""n":1.10e+2"#,
        r#""s":"\ud800""#,
        r#""s":"\uDC00\ud83d\ude00\ud83d""#,
        r#""\ud800":"\/""#,
        r#""t":"é\u00e9'\"\\""#,
        "\"a\":1 /* { \" */",
        "\"a\":[1,\n\t2 ,]",
        "\"a\":1,\"a\":2",
        "a: 'single', b: 0xFF",
    ] {
        assert_eq!(set(&format!("{{{kept},\"S\":1}}"), json!({"S": 2})), format!("{{{kept},\"S\":2}}"));
        assert_eq!(set(&format!("{{\"S\":1,{kept}}}"), json!({"S": 2})), format!("{{\"S\":2,{kept}}}"));
    }
}

#[test]
fn nesting_of_any_depth_stays() {
    for depth in [5, 99, 100, 101, 200, 5_000, 200_000] {
        let deep = "[".repeat(depth) + "1" + &"]".repeat(depth);
        let objects = "{\"a\":".repeat(depth) + "\"]\"" + &"}".repeat(depth);
        let text = format!("{{\"deep\":{deep},\"objects\":{objects}}}");
        assert_eq!(set(&text, json!({"S": 1})), format!("{},\"S\":1}}", text.strip_suffix('}').unwrap()));
    }
}

#[test]
fn bytes_that_are_not_utf8_stay() {
    let edited = merge(b"{\"a\":\"\xff\xed\xa0\x80\"}", &keys(json!({"S": 1})), &Keys::new()).unwrap().unwrap();
    assert_eq!(edited, b"{\"a\":\"\xff\xed\xa0\x80\",\"S\":1}");
}

#[test]
fn nested_objects_are_merged() {
    let text = r#"{"profile": {"exit_type": "Crashed", "name": "Me"}, "x": 1}"#;
    let wanted = r#"{"profile": {"exit_type": "Normal", "name": "Me"}, "x": 1}"#;
    assert_eq!(set(text, json!({"profile": {"exit_type": "Normal"}})), wanted);
    assert_eq!(set("{\"a\":3}", json!({"a": {"b": 1}})), "{\"a\":{\"b\":1}}");
    assert_eq!(default("{\"a\":3}", json!({"a": {"b": 1}})), "{\"a\":3}");
    assert_eq!(default("{\"a\":{\"b\":null}}", json!({"a": {"b": 1, "c": 2}})), "{\"a\":{\"b\":null,\"c\":2}}");
}

#[test]
fn new_members_look_like_the_old_ones() {
    for (before, after) in [
        ("{}", "{\n  \"S\": true\n}"),
        ("{\n}\n", "{\n  \"S\": true\n}\n"),
        ("{\"a\":1}", "{\"a\":1,\"S\":true}"),
        ("{ \"a\": 1 }", "{ \"a\": 1, \"S\": true }"),
        ("{\"a\": 1,}", "{\"a\": 1, \"S\": true,}"),
        ("{\n\t\"a\": 1\n}", "{\n\t\"a\": 1,\n\t\"S\": true\n}"),
        ("{\r\n    \"a\": 1\r\n}\r\n", "{\r\n    \"a\": 1,\r\n    \"S\": true\r\n}\r\n"),
        ("{\n  \"a\": 1 // why\n}", "{\n  \"a\": 1, // why\n  \"S\": true\n}"),
        ("{\"a\":1 // why\n}", "{\"a\":1, // why\n  \"S\":true\n}"),
        ("{ // nothing yet\n}", "{ // nothing yet\n  \"S\": true\n}"),
        ("\u{feff}{\"a\":1}\n", "\u{feff}{\"a\":1,\"S\":true}\n"),
    ] {
        assert_eq!(set(before, json!({"S": true})), after);
    }
    let nested = set("{\n  \"a\": {\n    \"b\": 1\n  }\n}", json!({"a": {"c": {"d": [1]}}}));
    let wanted = "{\n  \"a\": {\n    \"b\": 1,\n    \"c\": {\n      \"d\": [\n        1\n      ]\n    }\n  }\n}";
    assert_eq!(nested, wanted);
}

#[test]
fn the_last_of_two_members_counts() {
    assert_eq!(set("{\"S\":1,\"S\":2}", json!({"S": 1})), "{\"S\":1,\"S\":1}");
}

#[test]
fn what_is_said_already_in_another_spelling_is_not_written() {
    for text in ["{\"S\":1.0}", "{\"S\":1e0}", "{\"\\u0053\": 1}"] {
        assert_eq!(set(text, json!({"S": 1})), text);
    }
    assert_eq!(set("{\"S\":9007199254740993}", json!({"S": 9007199254740992_u64})), "{\"S\":9007199254740992}");
}

#[test]
fn what_is_no_object_is_refused() {
    use NotEditable::{NotAnObject, NotJson};
    for (text, why) in [
        ("", NotJson),
        ("{\"a\":", NotJson),
        ("{\"a\":1 \"b\":2}", NotJson),
        ("{\"a\":1}}", NotJson),
        ("{\"a\":[1}", NotJson),
        ("{\"a\":\"}", NotJson),
        ("{} x", NotJson),
        ("\0\0", NotJson),
        ("[1]", NotAnObject),
        ("null", NotAnObject),
    ] {
        assert_eq!(merge(text.as_bytes(), &keys(json!({"S": 1})), &Keys::new()), Err(why), "{text:?}");
    }
    let deep = format!("{{\"a\":{}}}", "[".repeat(200) + "}" + &"]".repeat(199));
    assert_eq!(merge(deep.as_bytes(), &Keys::new(), &Keys::new()), Err(NotJson));
}

/// A value, and its text in a random layout with comments.
fn spelled(depth: u32) -> impl Strategy<Value = (Value, String)> {
    let scalar = prop_oneof![
        Just((json!(null), "null".to_string())),
        any::<bool>().prop_map(|is| (json!(is), is.to_string())),
        any::<i32>().prop_map(|number| (json!(number), number.to_string())),
        "[a-z\"\\\\/é\u{1f600}]{0,4}".prop_map(|text| (json!(text), json!(text).to_string())),
    ];
    scalar.prop_recursive(depth, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec((inner.clone(), blank()), 0..4).prop_map(|items| {
                let texts: Vec<String> =
                    items.iter().map(|((_, text), blank)| format!("{blank}{text}{blank}")).collect();
                (items.into_iter().map(|((value, _), _)| value).collect(), format!("[{}]", texts.join(",")))
            }),
            members(inner),
        ]
    })
}

fn blank() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["", "", " ", "\n", "\n\t", "\r\n  ", "/* } */", " // \"{\n"])
}

fn members(value: impl Strategy<Value = (Value, String)>) -> impl Strategy<Value = (Value, String)> {
    let member = ("[a-d]", value, blank(), blank(), blank());
    (proptest::collection::vec(member, 0..4), any::<bool>(), blank()).prop_map(|(members, comma, end)| {
        let texts: Vec<String> = members
            .iter()
            .map(|(key, (_, text), before, colon, after)| format!("{before}\"{key}\":{colon}{text}{after}"))
            .collect();
        let comma = if comma && !texts.is_empty() { "," } else { "" };
        let object: Map<String, Value> = members.into_iter().map(|(key, (value, _), ..)| (key, value)).collect();
        (Value::Object(object), format!("{{{}{comma}{end}}}", texts.join(",")))
    })
}

fn object() -> impl Strategy<Value = (Value, String)> {
    members(spelled(3))
}

/// The value that a reader must find afterwards.
fn expected(mut object: Map<String, Value>, set: &Map<String, Value>, default: &Map<String, Value>) -> Value {
    for (key, wanted) in set {
        let value = match (object.get_mut(key).map(Value::take), wanted) {
            (Some(Value::Object(inner)), Value::Object(wanted)) => expected(inner, wanted, &Map::new()),
            (_, wanted) => wanted.clone(),
        };
        object.insert(key.clone(), value);
    }
    with_defaults(object, default)
}

fn read(text: &[u8]) -> Value {
    let text = std::str::from_utf8(text).unwrap();
    let parsed = jsonc_parser::parse_to_ast(text, &CollectOptions::default(), &ParseOptions::default()).unwrap();
    value(&parsed.value.unwrap())
}

fn value(node: &Node<'_>) -> Value {
    match node {
        Node::StringLit(text) => json!(text.value),
        Node::NumberLit(number) => serde_json::from_str(number.value).unwrap(),
        Node::BooleanLit(is) => json!(is.value),
        Node::NullKeyword(_) => Value::Null,
        Node::Array(array) => array.elements.iter().map(value).collect(),
        Node::Object(object) => object
            .properties
            .iter()
            .map(|member| (member.name.as_str().to_string(), value(&member.value)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

/// Whether `after` contains every byte of `before`, in order.
fn contains_in_order(after: &[u8], before: &[u8]) -> bool {
    let mut after = after.iter();
    before.iter().all(|byte| after.any(|found| found == byte))
}

proptest! {
    #[test]
    fn readers_find_what_was_asked_for_and_a_second_merge_finds_nothing_to_do(
        (before, text) in object(), (set, _) in object(), (default, _) in object(),
    ) {
        let (set, default) = (keys(set), keys(default));
        let edited = merge(text.as_bytes(), &set, &default).unwrap().unwrap_or_else(|| text.clone().into_bytes());
        let wanted = expected(before.as_object().unwrap().clone(), &as_map(&set), &as_map(&default));
        prop_assert_eq!(read(&edited), wanted, "{}", String::from_utf8_lossy(&edited));
        prop_assert_eq!(merge(&edited, &set, &default), Ok(None), "{}", String::from_utf8_lossy(&edited));
    }

    #[test]
    fn defaults_only_ever_add_bytes((_, text) in object(), (default, _) in object()) {
        if let Some(edited) = merge(text.as_bytes(), &Keys::new(), &keys(default)).unwrap() {
            prop_assert!(contains_in_order(&edited, text.as_bytes()), "{}", String::from_utf8_lossy(&edited));
        }
    }

    #[test]
    fn any_bytes_are_edited_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40), (set, _) in object()) {
        let _ = merge(&bytes, &keys(set), &Keys::new());
    }

    #[test]
    fn any_scrap_of_json_is_edited_or_refused(text in "[{}\\[\\]:,\"'\\\\/*ud8 \n0-9a-f]{0,40}", (set, _) in object()) {
        let _ = merge(text.as_bytes(), &keys(set), &Keys::new());
    }
}
