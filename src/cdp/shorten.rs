//! Shortens long strings in the browser's messages while they are read. A page controls the length of its frame names
//! and form bodies, and must not break the connection with them. All strings that the launcher uses are short.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes of a string are kept. The longest URL that may be opened fits, however it is escaped.
pub const STRING_BYTES: usize = 16 << 10;
/// How many bytes are read at a time.
const PIECE: usize = 64 << 10;
/// Longest header of a frame from a server, in bytes.
const HEADER: usize = 10;

/// Shortens the strings of JSON texts, piece by piece. Keeps everything else, so what was JSON stays JSON.
#[derive(Debug, Default)]
pub struct Strings {
    within: bool,
    length: usize,
    escape: Escape,
    /// Whether the current character is kept.
    keeping: bool,
}

/// The position within an escape sequence.
#[derive(Debug, Default, Clone, Copy)]
enum Escape {
    #[default]
    None,
    Begun,
    /// The number of digits of a `\u` that are still missing.
    Digits(u8),
}

impl Strings {
    /// Takes the next piece of the text and appends what is left of it to `out`.
    pub fn shorten(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        while let Some((&byte, rest)) = piece.split_first() {
            piece = rest;
            if self.keeps(byte) {
                out.push(byte);
            } else if matches!(self.escape, Escape::None) {
                // This part of a long string is dropped; only its end and escapes matter.
                let next = piece.iter().position(|byte| matches!(byte, b'"' | b'\\'));
                piece = &piece[next.unwrap_or(piece.len())..];
            }
        }
    }

    fn keeps(&mut self, byte: u8) -> bool {
        if !self.within {
            if byte == b'"' {
                *self = Strings { within: true, ..Strings::default() };
            }
            return true;
        }
        self.length += 1;
        match (self.escape, byte) {
            (Escape::Begun, b'u') => self.escape = Escape::Digits(4),
            (Escape::Begun | Escape::Digits(1), _) => self.escape = Escape::None,
            (Escape::Digits(left), _) => self.escape = Escape::Digits(left - 1),
            (Escape::None, _) => return self.keeps_unescaped(byte),
        }
        self.keeping
    }

    fn keeps_unescaped(&mut self, byte: u8) -> bool {
        match byte {
            b'"' => {
                self.within = false;
                return true;
            }
            b'\\' => {
                self.escape = Escape::Begun;
                self.keeping = self.length <= STRING_BYTES;
            }
            0x80..=0xBF => {} // a continuation byte is kept if its first byte was
            _ => self.keeping = self.length <= STRING_BYTES,
        }
        self.keeping
    }
}

/// A stream of websocket frames from a server, with shortened strings. Writes pass through unchanged.
pub struct Shortened<S> {
    stream: S,
    buffer: Box<[u8]>,
    frames: Frames,
    out: Vec<u8>,
    given: usize,
}

/// Rewrites frames as they arrive: each piece of a message becomes a fragment of it.
struct Frames {
    header: Vec<u8>,
    body: Option<Body>,
    strings: Strings,
    /// The type of the current message, until its first fragment is passed on.
    kind: u8,
    passed: usize,
    most: usize,
}

/// The frame body that is being read.
#[derive(Clone, Copy)]
struct Body {
    left: u64,
    last: bool,
    control: bool,
}

impl<S> Shortened<S> {
    /// `most`: how many bytes of a message are passed on after its strings were shortened.
    pub fn new(stream: S, most: usize) -> Self {
        let frames = Frames { header: Vec::new(), body: None, strings: Strings::default(), kind: 0, passed: 0, most };
        Shortened { stream, buffer: vec![0; PIECE].into(), frames, out: Vec::new(), given: 0 }
    }
}

impl Frames {
    fn rewrite(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        loop {
            match self.body {
                Some(mut body) => {
                    let here = bytes.len().min(usize::try_from(body.left).unwrap_or(usize::MAX));
                    let (piece, rest) = bytes.split_at(here);
                    (bytes, body.left) = (rest, body.left - here as u64);
                    self.body = (body.left > 0).then_some(body);
                    if body.control {
                        out.extend(piece)
                    } else {
                        self.pass_on(piece, body, out)
                    }
                    if body.left > 0 {
                        return;
                    }
                }
                None => match bytes.split_first() {
                    Some((byte, rest)) => {
                        bytes = rest;
                        self.header.push(*byte);
                        self.begin_body(out);
                    }
                    None => return,
                },
            }
        }
    }

    /// Parses the header once it is complete. Servers do not mask their frames, so there is no key.
    fn begin_body(&mut self, out: &mut Vec<u8>) {
        let &[first, length, ref long @ ..] = self.header.as_slice() else { return };
        let wide = match length & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if long.len() < wide {
            return;
        }
        let long = long.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let left = if wide > 0 { long } else { (length & 0x7f).into() };
        let control = first & 0x08 != 0;
        if control || length & 0x80 != 0 {
            out.extend(&self.header); // unchanged: the websocket reader reports a mask as an error
        } else if first & 0x0f != 0 {
            (self.kind, self.passed, self.strings) = (first & 0x0f, 0, Strings::default());
        }
        self.header.clear();
        self.header.reserve(HEADER);
        let body = Body { left, last: first & 0x80 != 0, control: control || length & 0x80 != 0 };
        match left {
            0 if body.control => {}
            0 => self.pass_on(&[], body, out),
            _ => self.body = Some(body),
        }
    }

    fn pass_on(&mut self, piece: &[u8], body: Body, out: &mut Vec<u8>) {
        let mut kept = Vec::with_capacity(piece.len().min(PIECE));
        self.strings.shorten(piece, &mut kept);
        kept.truncate(self.most - self.passed);
        self.passed += kept.len();
        let ends = body.last && body.left == 0;
        if kept.is_empty() && !ends {
            return;
        }
        let first = std::mem::take(&mut self.kind) | if ends { 0x80 } else { 0 };
        match kept.len() {
            length @ ..126 => out.extend([first, length as u8]), // it fits in seven bits
            length => match u16::try_from(length) {
                Ok(length) => out.extend([&[first, 126][..], &length.to_be_bytes()].concat()),
                Err(_) => out.extend([&[first, 127][..], &(length as u64).to_be_bytes()].concat()),
            },
        }
        out.extend(kept);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Shortened<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Shortened { stream, buffer: piece, frames, out, given } = self.get_mut();
        while *given == out.len() {
            out.clear();
            *given = 0;
            let mut read = ReadBuf::new(piece);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            frames.rewrite(read.filled(), out);
        }
        let here = buffer.remaining().min(out.len() - *given);
        buffer.put_slice(&out[*given..*given + here]);
        *given += here;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Shortened<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn shortened(text: &str, pieces: usize) -> String {
        let (mut strings, mut out) = (Strings::default(), Vec::new());
        text.as_bytes().chunks(pieces).for_each(|piece| strings.shorten(piece, &mut out));
        String::from_utf8(out).expect("text stays text")
    }

    fn shortest(value: &mut Value) {
        match value {
            Value::String(text) => text.truncate(text.floor_char_boundary(100)),
            Value::Array(values) => values.iter_mut().for_each(shortest),
            Value::Object(fields) => fields.iter_mut().for_each(|(_, value)| shortest(value)),
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn json_stays_json_and_short_strings_stay_whole(
            parts in proptest::collection::vec(("[\"\\\\aé\u{1F600}\n/u0]{0,8}", 0..6000usize), 1..4),
            pieces in 1..5000usize,
        ) {
            let texts: Vec<String> = parts.iter().map(|(text, times)| text.repeat(*times)).collect();
            let mut told = serde_json::json!({ "first": texts, "then": { "a\"b": "c\\" } });
            let escaped = told.to_string().replace('é', "\\u00e9");
            let short = shortened(&escaped, pieces);
            let mut read: Value = serde_json::from_str(&short).expect("JSON");
            prop_assert!(short.len() <= 5 * (STRING_BYTES + 100));
            shortest(&mut told);
            shortest(&mut read);
            prop_assert_eq!(read, told);
        }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first, 127];
        frame.extend((payload.len() as u64).to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// Reads frames back into messages: their type and their payload.
    fn messages(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let (mut found, mut open) = (Vec::new(), None);
        while !bytes.is_empty() {
            let (first, length) = (bytes[0], bytes[1] as usize);
            let (length, head) = match length {
                127 => (u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize, 10),
                126 => (u16::from_be_bytes(bytes[2..4].try_into().unwrap()) as usize, 4),
                length => (length, 2),
            };
            let payload = &bytes[head..head + length];
            if first & 0x08 != 0 {
                found.push((first & 0x0f, payload.to_vec()));
            } else {
                let (_, text) = open.get_or_insert((first & 0x0f, Vec::new()));
                text.extend_from_slice(payload);
                if first & 0x80 != 0 {
                    found.extend(open.take());
                }
            }
            bytes = &bytes[head + length..];
        }
        found
    }

    #[test]
    fn a_message_of_any_length_is_read_with_its_head_and_its_tail() {
        let long = format!(r#"{{"method":"M","params":{{"body":"{}"}},"sessionId":"S"}}"#, "x".repeat(3 << 20));
        let mut wire = frame(0x81, long.as_bytes());
        wire.extend([0x89, 2, b'h', b'i']); // a ping in between
        wire.extend(frame(0x01, br#"{"a":"#));
        wire.extend(frame(0x80, br#""b"}"#));
        for pieces in [1, 7, 4096, wire.len()] {
            let mut shortened = Shortened::new((), 1 << 20);
            let mut out = Vec::new();
            wire.chunks(pieces).for_each(|piece| shortened.frames.rewrite(piece, &mut out));
            let found = messages(&out);
            assert_eq!(found[1..], [(9, b"hi".to_vec()), (1, br#"{"a":"b"}"#.to_vec())]);
            let first: Value = serde_json::from_slice(&found[0].1).expect("JSON");
            assert_eq!((&first["method"], &first["sessionId"]), (&"M".into(), &"S".into()));
            assert!(found[0].1.len() < STRING_BYTES + 100);
            shortened.out.clear();
        }
    }

    #[test]
    fn a_message_of_many_short_strings_is_cut_off() {
        let many = format!("[{}]", vec![r#""x""#; 1 << 20].join(","));
        let mut shortened = Shortened::new((), 1 << 20);
        let mut out = Vec::new();
        shortened.frames.rewrite(&frame(0x81, many.as_bytes()), &mut out);
        assert_eq!(messages(&out)[0].1.len(), 1 << 20);
    }
}
