//! Refuses request lines with a `#`. No such request is valid HTTP, but the parser behind us drops the `#` and what follows
//! it, and `POST /open#x` would be served as `POST /open`.

/// Follows the requests of one connection, to know request lines from bodies. It never waits for more than it is given.
#[derive(Debug, Default)]
pub struct Fragments {
    place: Place,
    /// The current line of a head, without what follows the first few bytes: only `Content-Length` must fit.
    line: Vec<u8>,
    /// Bytes in the body of the current request.
    body: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Place {
    #[default]
    RequestLine,
    Head,
    Body,
    /// The body's length is unknown. Such a request is the last one of its connection.
    Lost,
}

/// Longest line that is kept, in bytes.
const LONGEST: usize = 64;

impl Fragments {
    /// Looks at the next bytes of the connection. A `#` in a request line is replaced by a byte that no parser accepts.
    pub fn spoil(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while let Some(first) = rest.first_mut() {
            let mut used = 1;
            match self.place {
                Place::Lost => return,
                Place::Body => {
                    used = usize::try_from(self.body).unwrap_or(usize::MAX).min(rest.len());
                    self.body -= used as u64;
                    if self.body == 0 {
                        self.place = Place::RequestLine;
                    }
                }
                Place::RequestLine | Place::Head if *first == b'\n' => self.line_ends(),
                place => {
                    if place == Place::RequestLine && *first == b'#' {
                        *first = 0;
                    }
                    if self.line.len() < LONGEST {
                        self.line.push(*first);
                    }
                }
            }
            rest = &mut rest[used..];
        }
    }

    fn line_ends(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.trim_ascii();
        self.place = match (self.place, line.is_empty()) {
            // Empty lines before a request are skipped.
            (Place::RequestLine, true) => Place::RequestLine,
            (Place::RequestLine, false) => Place::Head,
            (_, true) if self.body > 0 => Place::Body,
            (_, true) => Place::RequestLine,
            (place, false) => self.header(line).unwrap_or(place),
        };
    }

    /// The new place, if this header makes one.
    fn header(&mut self, line: &[u8]) -> Option<Place> {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Some(Place::Lost);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
                Some(length) => self.body = length,
                None => return Some(Place::Lost),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text after it was read in pieces of these lengths.
    fn spoiled(text: &str, pieces: &[usize]) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let (mut fragments, mut at, mut lengths) = (Fragments::default(), 0, pieces.iter().cycle());
        while at < bytes.len() {
            let next = (at + lengths.next().copied().unwrap_or(1).max(1)).min(bytes.len());
            fragments.spoil(&mut bytes[at..next]);
            at = next;
        }
        String::from_utf8(bytes).unwrap()
    }

    const POST: &str = "POST /open HTTP/1.1\r\nHost: x\r\nX: #\r\ncontent-length: 9\r\n\r\n{\"#\":\n#}\n";

    #[test]
    fn a_fragment_is_spoiled_in_every_request_line_and_nowhere_else() {
        for (text, expected) in [
            (POST.to_owned(), POST.to_owned()),
            (format!("{POST}GET /healthz#x HTTP/1.1\r\n\r\n"), format!("{POST}GET /healthz\0x HTTP/1.1\r\n\r\n")),
            (format!("\r\n{POST}{POST}GET /#"), format!("\r\n{POST}{POST}GET /\0")),
            ("GET /#a HTTP/1.1\n\n".into(), "GET /\0a HTTP/1.1\n\n".into()),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n#\r\n".into(),
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n#\r\n".into(),
            ),
        ] {
            for pieces in [&[1][..], &[2], &[3, 1, 7], &[4096]] {
                assert_eq!(spoiled(&text, pieces), expected, "{pieces:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference_and_only_a_fragment_is_changed(
            text in "([GP #/\r\n:a0-9]|content-length: [0-9]{1,2}\r\n|\r\n\r\n){0,60}",
            pieces in proptest::collection::vec(1_usize..9, 1..9),
        ) {
            let whole = spoiled(&text, &[usize::MAX / 2]);
            prop_assert_eq!(&spoiled(&text, &pieces), &whole);
            prop_assert_eq!(whole.replace('\0', "#"), text);
        }
    }
}
