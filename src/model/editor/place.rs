//! Where a byte of a manifest is: in which types, fields and lists, and on which word. Reads texts that are being typed,
//! which no parser would accept.

use std::ops::Range;

/// The surroundings of one byte of a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextPlace {
    /// The brackets that are open there, outermost first.
    pub open: Vec<OpenBracket>,
    /// What kind of text it is in.
    pub within: Within,
    /// The word at the byte: letters, digits and `_` on both sides. In a string, the whole text of it.
    pub word: Range<usize>,
    /// The word is a field's name: a colon follows.
    pub is_field: bool,
}

/// The kind of text that a byte is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Within {
    /// Names, numbers and punctuation.
    #[default]
    Code,
    /// Between quotes.
    Text,
    /// A comment.
    Comment,
}

/// A bracket that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBracket {
    /// `(`, `[` or `{`.
    pub bracket: char,
    /// The name before it: a type or a variant; empty if there is none.
    pub name: String,
    /// The field or key whose value is being written.
    pub field: Option<String>,
    /// The fields or keys that are written before.
    pub written: Vec<String>,
}

/// The place of byte `at`, which must be between two characters.
pub fn place(text: &str, at: usize) -> TextPlace {
    let mut reader = Reader { text, at: 0, open: Vec::new(), word: 0..0 };
    loop {
        let start = reader.at;
        let token = reader.next();
        // A byte directly behind a word still belongs to it.
        let is_here = match token {
            Token::End => true,
            Token::Word | Token::Text => at <= reader.at,
            // The end of a line comment is the line's; that of another one is its `*/`.
            Token::Comment => at < reader.at || (at == reader.at && !text[..at].ends_with("*/")),
            Token::Other(_) => at < reader.at,
        };
        if is_here {
            return reader.conclude(start, at, &token);
        }
        reader.take(&token, start);
    }
}

enum Token {
    Word,
    /// A string.
    Text,
    Comment,
    /// One character.
    Other(char),
    End,
}

struct Reader<'a> {
    text: &'a str,
    /// The end of the token that was read last.
    at: usize,
    open: Vec<OpenBracket>,
    /// The last word or string.
    word: Range<usize>,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Reader<'_> {
    fn next(&mut self) -> Token {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else { return Token::End };
        let (token, length) = match first {
            '"' => (Token::Text, string(rest)),
            'r' if raw_string(rest).is_some() => (Token::Text, raw_string(rest).unwrap_or(rest.len())),
            c if is_word(c) => (Token::Word, rest.find(|c| !is_word(c)).unwrap_or(rest.len())),
            '/' if rest.starts_with("//") => (Token::Comment, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (Token::Comment, block_comment(rest)),
            c => (Token::Other(c), c.len_utf8()),
        };
        self.at += length;
        token
    }

    fn take(&mut self, token: &Token, start: usize) {
        match token {
            Token::Word | Token::Text => self.word = start..self.at,
            Token::Other(bracket @ ('(' | '[' | '{')) => {
                let name = if *bracket == '(' { self.text[self.word.clone()].to_string() } else { String::new() };
                let name = if name.starts_with('"') { String::new() } else { name };
                self.open.push(OpenBracket { bracket: *bracket, name, field: None, written: Vec::new() });
                self.word = 0..0;
            }
            Token::Other(')' | ']' | '}') => {
                self.open.pop();
                self.word = 0..0;
            }
            Token::Other(':') => {
                let name = self.text[self.word.clone()].trim_matches('"').to_string();
                if let Some(open) = self.open.last_mut() {
                    open.written.push(name.clone());
                    open.field = Some(name);
                }
                self.word = 0..0;
            }
            Token::Other(',') => {
                if let Some(open) = self.open.last_mut() {
                    open.field = None;
                }
                self.word = 0..0;
            }
            Token::Other(_) | Token::Comment | Token::End => {}
        }
    }

    fn conclude(self, start: usize, at: usize, token: &Token) -> TextPlace {
        let (within, word) = match token {
            Token::Word => (Within::Code, start..self.at),
            // Before the quote nothing of the text has begun.
            Token::Text if at > start => {
                let open = start + self.text[start..].find('"').map_or(0, |quote| quote + 1);
                let whole = &self.text[open.min(self.at)..self.at];
                // One that is being typed has no closing quote yet.
                let closing = whole.trim_end_matches('#').strip_suffix('"').map_or(whole.len(), str::len);
                let word = open.min(self.at)..open.min(self.at) + closing;
                // Behind the closing quote the text is over.
                if at > word.end { (Within::Code, at..at) } else { (Within::Text, word) }
            }
            Token::Comment => (Within::Comment, at..at),
            _ => (Within::Code, at..at),
        };
        let is_field =
            within == Within::Code && !word.is_empty() && self.text[word.end..].trim_start().starts_with(':');
        TextPlace { open: self.open, within, word, is_field }
    }
}

/// The length of a string that begins here; to the end of the line if it is not closed.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.find('\n').unwrap_or(text.len())
}

fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].find(|c| c != '#')?;
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", &text[1..1 + hashes]);
    Some(body.find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len()))
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The place of `|` in a text without it.
    fn at(marked: &str) -> (String, TextPlace) {
        let at = marked.find('|').unwrap();
        let text = marked.replacen('|', "", 1);
        (text.clone(), place(&text, at))
    }

    fn path(marked: &str) -> String {
        let (_, place) = at(marked);
        let part = |open: &OpenBracket| format!("{}{}{}", open.name, open.bracket, open.field.as_deref().unwrap_or(""));
        place.open.iter().map(part).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn fields_and_types_are_known_while_they_are_typed() {
        assert_eq!(path("App(com|"), "App(");
        assert_eq!(path("App(command: \"x\", stop: Stop(gr|"), "App(stop Stop(");
        assert_eq!(path("App(command: |"), "App(command");
        assert_eq!(path("App(prelaunch: [Run(argv: [\"a\"]), Wai|"), "App(prelaunch [");
        assert_eq!(path("App(env: { \"A\": \"b|\" })"), "App(env {A");
        assert_eq!(path("App(a: (b: 1), /* ( */ // [\n c|: 2)"), "App(");
        assert_eq!(path("App(a: r#\"(\"[\"#, b|: 1)"), "App(");
    }

    #[test]
    fn the_word_and_its_kind_are_known() {
        let word = |marked: &str| {
            let (text, place) = at(marked);
            (text[place.word.clone()].to_string(), place.within, place.is_field)
        };
        assert_eq!(word("App(com|mand: \"x\")"), ("command".into(), Within::Code, true));
        assert_eq!(word("App(restart: Al|ways)"), ("Always".into(), Within::Code, false));
        assert_eq!(word("App(after: [\"dis|play\"])"), ("display".into(), Within::Text, false));
        assert_eq!(word("App(after: [\"dis|"), ("dis".into(), Within::Text, false));
        assert_eq!(word("App(after: [\"|\"])"), (String::new(), Within::Text, false));
        assert_eq!(word("App( // com|mand"), (String::new(), Within::Comment, false));
        assert_eq!(word("App(a: \"x\"|, b: 1)").1, Within::Code);
    }

    #[test]
    fn what_is_written_already_is_known() {
        let (_, place) = at("App(command: \"x\", args: [], |)");
        assert_eq!(place.open[0].written, ["command", "args"]);
    }

    proptest! {
        #[test]
        fn any_text_has_a_place_at_any_byte(text in "[A-Za(){}\\[\\]:,\"/*r#\\\\ \n\u{e9}]{0,40}", at in 0usize..40) {
            let at = text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(at).unwrap_or(text.len());
            let found = place(&text, at);
            prop_assert!(text.get(found.word).is_some());
        }
    }
}
