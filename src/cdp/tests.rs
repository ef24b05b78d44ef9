//! The client against a fake browser, whose messages each test chooses.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_websockets::ServerBuilder;

use super::*;

/// The fake browser's end of the connection.
type Wire = WebSocketStream<TcpStream>;

/// Connects to a fake browser, whose end of the connection is passed to `talk`.
async fn browser<F>(talk: impl FnOnce(Wire) -> F + Send + 'static) -> Result<Browser, Fault>
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        // It announces a socket on another host.
        let elsewhere = r#"{"Browser": "x", "webSocketDebuggerUrl": "ws://192.0.2.1:1/devtools/browser/id"}"#;
        says_once(&listener, elsewhere).await;
        let (stream, _) = listener.accept().await.unwrap();
        let (request, wire) = ServerBuilder::new().accept(stream).await.unwrap();
        assert_eq!(request.uri().path(), "/devtools/browser/id");
        assert!(!request.headers().contains_key("origin"), "browsers refuse strangers by their Origin");
        talk(wire).await;
    });
    Browser::connect(port).await
}

async fn says_once(listener: &TcpListener, body: &str) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let _ = stream.read(&mut [0; 4096]).await.unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await; // the client may have disconnected
}

async fn heard(wire: &mut Wire) -> Value {
    let message = wire.next().await.unwrap().unwrap();
    serde_json::from_str(message.as_text().unwrap()).unwrap()
}

async fn say(wire: &mut Wire, said: Value) {
    wire.send(Message::text(said.to_string())).await.unwrap();
}

fn happened(method: &str) -> Incoming {
    Incoming::Event(CdpEvent { session: Some("S".into()), method: method.into(), params: json!({}) })
}

#[tokio::test]
async fn a_reply_is_found_among_all_that_comes_before_it() {
    let mut browser = browser(async |mut wire| {
        let asked = heard(&mut wire).await;
        assert_eq!(asked, json!({ "id": 1, "method": "A.b", "params": { "c": 1 }, "sessionId": "S" }));
        say(&mut wire, json!({ "method": "E.first", "params": {}, "sessionId": "S" })).await;
        say(&mut wire, json!({ "method": "E.has_an_id_inside", "params": { "id": 1 }, "sessionId": "S" })).await;
        say(&mut wire, json!({ "id": 77, "result": { "wrong": true } })).await;
        say(&mut wire, json!({ "of_a_later": "protocol" })).await;
        wire.send(Message::binary(vec![1, 2, 3])).await.unwrap();
        wire.send(Message::ping("")).await.unwrap();
        say(&mut wire, json!({ "id": 1, "result": { "right": true }, "sessionId": "S", "new": [] })).await;
        say(&mut wire, json!({ "method": "E.last", "params": {}, "sessionId": "S" })).await;
    })
    .await
    .unwrap();
    let reply = browser.call(Some("S"), "A.b", json!({ "c": 1 })).await;
    assert_eq!(reply, Ok(json!({ "right": true })));
    assert_eq!(browser.next().await, Ok(happened("E.first")));
    assert!(matches!(browser.next().await, Ok(Incoming::Event(event)) if event.method == "E.has_an_id_inside"));
    assert_eq!(browser.next().await, Ok(happened("E.last")));
}

#[tokio::test]
async fn a_late_reply_is_not_taken_for_the_next_one() {
    let mut browser = browser(async |mut wire| {
        let first = heard(&mut wire).await["id"].clone();
        let second = heard(&mut wire).await["id"].clone();
        say(&mut wire, json!({ "id": first, "result": "first" })).await;
        say(&mut wire, json!({ "id": second, "result": "second" })).await;
        heard(&mut wire).await;
    })
    .await
    .unwrap();
    browser.send(None, "A.b", json!({})).await.unwrap();
    assert_eq!(browser.call(None, "A.b", json!({})).await, Ok("second".into()));
}

#[tokio::test]
async fn a_refusal_is_told_in_the_browsers_words() {
    let mut browser = browser(async |mut wire| {
        heard(&mut wire).await;
        say(&mut wire, json!({ "id": 1, "error": { "code": -32001, "message": "Session not found", "data": 7 } }))
            .await;
        heard(&mut wire).await;
    })
    .await
    .unwrap();
    let refusal = browser.call(None, "A.b", json!({})).await.unwrap_err();
    assert_eq!(refusal.to_string(), "the browser refused A.b: Session not found");
}

#[tokio::test]
async fn a_browser_that_goes_is_no_wait() {
    let mut browser = browser(async |mut wire| drop(heard(&mut wire).await)).await.unwrap();
    assert!(matches!(browser.call(None, "A.b", json!({})).await, Err(Fault::Broken(_))));
}

#[tokio::test]
async fn what_is_not_the_protocol_ends_the_conversation() {
    for said in ["not json", "[]", r#"{"id": "one"}"#, r#"{"id": -1}"#, "null"] {
        let mut browser = browser(async move |mut wire| {
            wire.send(Message::text(said)).await.unwrap();
            let _ = wire.next().await;
        })
        .await
        .unwrap();
        assert!(matches!(browser.next().await, Err(Fault::Broken(_))), "{said}");
    }
}

#[test]
fn half_a_character_in_a_name_is_no_reason_to_break_off() {
    for (name, expected) in [
        (r"\ud800", "\u{fffd}"),
        (r"\udC00", "\u{fffd}"),
        (r"a\ud83d\ude00b", "a😀b"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        (r"\ud800\\ud800é", "\u{fffd}\\ud800é"),
        (r"\ud800\n\u0041\ud", ""),
        (r"\ud800\", ""),
    ] {
        let said = format!(r#"{{"method":"E.x","params":{{"name":"{name}"}}}}"#);
        match understood(&said) {
            Ok(Some(Incoming::Event(event))) => assert_eq!(event.params["name"], expected, "{said}"),
            other => assert!(expected.is_empty() && matches!(other, Err(Fault::Broken(_))), "{said}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_huge_message_is_read_and_costs_no_memory() {
    let mut browser = browser(async |mut wire| {
        let body = "x".repeat(2 * MESSAGE_BYTES);
        let huge = format!(r#"{{"method":"E.huge","params":{{"body":"{body}","id":7}},"sessionId":"S"}}"#);
        let _ = wire.send(Message::text(huge)).await;
        let _ = wire.send(Message::text(format!("[{}", "7,".repeat(MESSAGE_BYTES)))).await;
        let _ = wire.next().await;
    })
    .await
    .unwrap();
    let Ok(Incoming::Event(event)) = browser.next().await else { panic!("a long message ended the conversation") };
    assert_eq!((event.session.as_deref(), &event.params["id"]), (Some("S"), &7.into()));
    assert_eq!(event.params["body"].as_str().unwrap().len(), shorten::STRING_BYTES);
    assert!(matches!(browser.next().await, Err(Fault::Broken(_))), "it is too long even without its strings");
}

#[tokio::test(start_paused = true)]
async fn a_mute_browser_is_waited_for_no_longer_than_patience() {
    let mut browser = browser(async |mut wire| while wire.next().await.is_some() {}).await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(browser.call(None, "A.b", json!({})).await, Err(Fault::Mute));
    assert_eq!(began.elapsed(), PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_answers_nothing_is_a_mute_browser_and_a_closed_one_an_absent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(Browser::connect(port).await.err(), Some(Fault::Mute));
    drop(listener);
    assert_eq!(Browser::connect(port).await.err(), Some(Fault::Absent));
}

#[tokio::test]
async fn something_else_on_the_port_is_no_browser() {
    for body in ["<html>", "{}", r#"{"webSocketDebuggerUrl": "\u0000"}"#, r#"{"webSocketDebuggerUrl": 7}"#] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = tokio::spawn(async move { says_once(&listener, body).await });
        assert!(matches!(Browser::connect(port).await, Err(Fault::Broken(_))), "{body}");
        said.await.unwrap();
    }
}

#[tokio::test]
async fn a_list_that_is_too_long_is_no_list_and_no_error() {
    for (list, expected) in [
        (json!([{ "id": "1", "url": "x".repeat(2 * LIST_BYTES) }, { "id": "2", "new": {} }]), vec!["1", "2"]),
        (json!(vec![7; LIST_BYTES]), vec![]),
        (json!({}), vec![]),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { says_once(&listener, &list.to_string()).await });
        assert_eq!(recent(port).await, expected);
    }
}
