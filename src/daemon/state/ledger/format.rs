//! The text of a ledger: one JSON value a line.

use crate::model::ledger::{Inherited, Line};

pub(super) fn text(line: &Line) -> String {
    let mut text = serde_json::to_string(line).unwrap_or_default(); // strings and numbers alone cannot fail
    text.push('\n');
    text
}

/// Parses the text of a ledger for this session, as [`super::Ledger::open`] does. Public for the fuzz targets.
pub fn parse(text: &str, session: &str) -> Result<Inherited, String> {
    let mut lines = text.split_inclusive('\n').enumerate();
    let mut inherited = match lines.next().map(|(_, line)| serde_json::from_str(line)) {
        Some(Ok(head)) => Inherited::below(&head, session)?,
        Some(Err(_)) => return Err("its first line is not a ledger header".into()),
        None => return Err("it is empty".into()),
    };
    if inherited.another_session {
        return Ok(inherited);
    }
    for (number, line) in lines {
        match serde_json::from_str(line) {
            Ok(line) => inherited.take(line),
            Err(_) if !line.ends_with('\n') => {} // its writer was killed half-way
            Err(error) => return Err(format!("line {}: {error}", number + 1)),
        }
    }
    Ok(inherited)
}
