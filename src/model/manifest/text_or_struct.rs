//! Reads a setting that is written as a text or as a struct, such as `"app.env"` or `EnvFile(path: "app.env")`.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads a text, or the fields of a struct. `T` is made from either.
///
/// # Errors
/// It is neither, or the fields are not those of the struct.
pub fn text_or_struct<'de, D, Fields, T>(
    deserializer: D,
    of_text: fn(String) -> T,
    of_fields: fn(Fields) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    Fields: Deserialize<'de>,
{
    deserializer.deserialize_any(Either { of_text, of_fields })
}

struct Either<Fields, T> {
    of_text: fn(String) -> T,
    of_fields: fn(Fields) -> T,
}

impl<'de, Fields: Deserialize<'de>, T> Visitor<'de> for Either<Fields, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a struct")
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok((self.of_text)(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        Fields::deserialize(MapAccessDeserializer::new(fields)).map(self.of_fields)
    }

    /// RON takes parentheses for a sequence if there are no names of fields in them.
    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<T, A::Error> {
        if elements.next_element::<IgnoredAny>()?.is_some() {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        let nothing = std::iter::empty::<(String, String)>();
        Fields::deserialize(MapDeserializer::<_, A::Error>::new(nothing)).map(self.of_fields)
    }
}
