//! A problem with a manifest: what is wrong, where, and how to fix it. Independent of any renderer, so that
//! `check --json`, the log and the terminal all say the same.

use std::ops::Range;

use serde::Serialize;

/// Whether a file is applied in spite of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is not applied; its last good version stays in use.
    Error,
    /// The file is applied, but it is probably not what was meant.
    Warning,
}

/// Something wrong in a manifest, with its place and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether the file is applied.
    pub severity: Severity,
    /// The path under which the file was loaded.
    pub file: String,
    /// 1-based line and column (in characters); 0 if there is no text to point at.
    pub line: usize,
    /// See `line`.
    pub column: usize,
    /// Field path, such as `prelaunch[2].timeout`; empty if the problem is not about a field.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// How to fix it; may be empty.
    pub help: String,
    /// The whole source line, for the caret.
    pub source: String,
    /// Byte range of the mistake within `source`.
    #[serde(skip)]
    pub mark: Range<usize>,
}

impl Problem {
    /// A problem with `span` (byte range) of `text`, the content of `file`.
    pub fn at(file: &str, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let start = floor(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let end = floor(text, span.end).clamp(start, line_end);
        Problem {
            severity: Severity::Error,
            file: file.into(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            field: String::new(),
            message: message.into(),
            help: String::new(),
            source: text[line_start..line_end].into(),
            mark: start - line_start..end - line_start,
        }
    }

    /// A problem with the file or folder itself.
    pub fn whole(file: &str, message: impl Into<String>) -> Self {
        Problem {
            severity: Severity::Error,
            file: file.into(),
            line: 0,
            column: 0,
            field: String::new(),
            message: message.into(),
            help: String::new(),
            source: String::new(),
            mark: 0..0,
        }
    }

    /// The same problem, about this field.
    pub fn field(mut self, path: impl Into<String>) -> Self {
        self.field = path.into();
        self
    }

    /// The same problem, with this way out.
    pub fn help(mut self, way_out: impl Into<String>) -> Self {
        self.help = way_out.into();
        self
    }

    /// The same problem, as a warning.
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Whether it keeps the file from being applied.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// One line, for logs: `file:line:column: message (field): help`.
impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.field.is_empty() {
            write!(f, " (`{}`)", self.field)?;
        }
        if !self.help.is_empty() {
            write!(f, ": {}", self.help)?;
        }
        Ok(())
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_marks_count_bytes() {
        let text = "App(\n  about: \"é\", comand: \"x\",\n)";
        let at = text.find("comand").unwrap();
        let problem = Problem::at("a.ron", text, at..at + 6, "unknown field `comand`");
        assert_eq!((problem.line, problem.column), (2, 15));
        assert_eq!(&problem.source[problem.mark.clone()], "comand");
    }
}
