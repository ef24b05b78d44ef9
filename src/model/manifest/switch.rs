//! Switches: fields that are on or off, written bare or as a text that is interpolated first.

use serde::Deserializer;

/// The help for a text that is neither.
pub const HELP: &str = "use 1, true, yes or on; 0, false, no or off";

/// Reads a switch; `None` if it is neither on nor off. An empty text counts as unset, which is on.
pub fn read(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "" | "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// The default of a switch.
pub(super) fn on() -> String {
    "1".into()
}

/// Deserializes `true`, `false`, or a text that is interpolated before it is read as a switch.
pub(super) fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Switch;
    impl serde::de::Visitor<'_> for Switch {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("true, false, or a string such as \"${LAUNCH_APP:-1}\"")
        }

        fn visit_bool<E>(self, value: bool) -> Result<String, E> {
            Ok(value.to_string())
        }

        fn visit_str<E>(self, value: &str) -> Result<String, E> {
            Ok(value.to_string())
        }
    }
    deserializer.deserialize_any(Switch)
}
