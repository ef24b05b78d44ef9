//! `umask`: which permissions the files of an app never get. Check.

use crate::model::manifest::fields::Fields;

/// All permission bits.
const ALL: u32 = 0o777;

/// The mask, from an octal text such as `"0027"`.
pub fn check(text: String, fields: &mut Fields<'_>) -> Option<u32> {
    let text = fields.text("umask", text);
    let is_octal = (1..=4).contains(&text.len()) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    let mask = u32::from_str_radix(&text, 8).ok().filter(|mask| is_octal && *mask <= ALL);
    if mask.is_none() {
        fields.error("umask", format!("`{text}` is not a umask"), "write octal digits, as in \"0022\" or \"077\"");
    }
    mask
}
