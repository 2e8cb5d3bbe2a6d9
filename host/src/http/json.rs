//! The request's body: strict JSON.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::error::Category;

use super::limits::MAX_DEPTH;
use crate::CreateWorkspaceRequest;

/// Reads a body.
///
/// # Errors
///
/// The message for the client.
pub(super) fn parse(body: &[u8]) -> Result<CreateWorkspaceRequest, String> {
    // Of the whole text first: serde_json does not look into strings it skips.
    let text = std::str::from_utf8(body).map_err(|_| "The body is not UTF-8: send JSON in UTF-8".to_owned())?;
    if text.trim().is_empty() {
        return Err("The body is empty: send a JSON object, {} at least".to_owned());
    }
    let Body(request) = serde_json::from_str(text).map_err(|error| message(&error))?;
    Ok(request)
}

/// Returns the message for an error: the words of this module for a rule that is broken, and for JSON that is
/// none the position alone, since the parser's words are about its inside.
fn message(error: &serde_json::Error) -> String {
    let at = format!("line {}, column {}", error.line(), error.column());
    match error.classify() {
        Category::Eof => format!("The body ends early, at {at}: send one whole JSON object"),
        Category::Data => {
            let text = error.to_string();
            let rule = text.strip_suffix(&format!(" at line {} column {}", error.line(), error.column()));
            format!("{} ({at})", rule.unwrap_or(&text))
        }
        Category::Syntax | Category::Io => format!("The body is not valid JSON at {at}: send one JSON object"),
    }
}

/// Refuses each type of value but the ones that a visitor takes, in the words of its method `refused`.
macro_rules! refuse {
    ($($method:ident($type:ty)),*) => {
        $(fn $method<E: serde::de::Error>(self, _: $type) -> Result<Self::Value, E> {
            Err(self.refused())
        })*
    };
}

struct Body(CreateWorkspaceRequest);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BodyVisitor).map(Body)
    }
}

/// Written by hand: a derived implementation takes arrays for objects, and unknown fields twice.
struct BodyVisitor;

impl BodyVisitor {
    fn refused<E: serde::de::Error>(&self) -> E {
        E::custom("The body is not a JSON object: send one, {} at least")
    }
}

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = CreateWorkspaceRequest;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    refuse!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Err(self.refused())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(self.refused())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut request = CreateWorkspaceRequest::default();
        let mut seen = HashSet::new();
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "name" => request.name = map.next_value_seed(OptionalString("name"))?,
                "account_id" => request.account_id = map.next_value_seed(OptionalString("account_id"))?,
                "organization_id" => {
                    request.organization_id = map.next_value_seed(OptionalString("organization_id"))?
                }
                _ => map.next_value_seed(Ignored { depth: 1 })?,
            }
            if !seen.insert(field) {
                return Err(A::Error::custom("A field is given twice: give each once"));
            }
        }
        Ok(request)
    }
}

/// A string, or null as if absent.
struct OptionalString(&'static str);

impl<'de> DeserializeSeed<'de> for OptionalString {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl OptionalString {
    fn refused<E: serde::de::Error>(&self) -> E {
        E::custom(format_args!("{} must be a string or null", self.0))
    }
}

impl<'de> Visitor<'de> for OptionalString {
    type Value = Option<String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a string or null")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    refuse!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(self.refused())
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(self.refused())
    }
}

/// The value of an unknown field: read in full, so that it must be JSON, and dropped.
struct Ignored {
    /// Number of arrays and objects that are open around it.
    depth: usize,
}

impl Ignored {
    fn inside<E: serde::de::Error>(&self) -> Result<Self, E> {
        match self.depth < MAX_DEPTH {
            true => Ok(Self { depth: self.depth + 1 }),
            false => {
                Err(E::custom(format_args!("The body is nested deeper than {MAX_DEPTH}: leave out unknown fields")))
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Ignored {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Ignored {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element_seed(self.inside()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<String>()?.is_some() {
            map.next_value_seed(self.inside()?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    fn nested(depth: usize) -> String {
        format!(r#"{{"x":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1))
    }

    #[test]
    fn reads_fields_and_takes_null_for_absent() {
        let body = br#"{"name":"A","account_id":null,"organization_id":"o"}"#;
        let expected =
            CreateWorkspaceRequest { name: Some("A".into()), account_id: None, organization_id: Some("o".into()) };
        assert_eq!(parse(body), Ok(expected));
        assert_eq!(parse(b" {} "), Ok(CreateWorkspaceRequest::default()));
    }

    #[test]
    fn ignores_unknown_fields_of_every_kind() {
        let body = br#"{"a":1,"b":-1,"c":1.5,"d":true,"e":null,"f":"x","g":[1,{"h":[]}],"":{},"i":{"k":1,"k":2}}"#;
        assert_eq!(parse(body), Ok(CreateWorkspaceRequest::default()));
        assert!(parse(nested(64).as_bytes()).is_ok());
    }

    #[test]
    fn refuses_what_is_not_a_strict_object() {
        let deep = nested(65);
        let refused: &[&[u8]] = &[
            b"",
            b"  ",
            b"nul",
            b"null",
            b"1",
            b"\"x\"",
            b"[]",
            br#"["A",null,null]"#,
            b"{",
            b"{}{}",
            b"{} x",
            br#"{"a":1,}"#,
            b"{'a':1}",
            br#"{"name":1}"#,
            br#"{"name":["A"]}"#,
            br#"{"name":{}}"#,
            br#"{"account_id":false}"#,
            br#"{"organization_id":0}"#,
            br#"{"name":"A","name":"A"}"#,
            br#"{"x":1,"x":1}"#,
            br#"{"name":"A","n\u0061me":"B"}"#,
            b"{\"name\":\"\xff\"}",
            b"{\"x\":\"\xff\"}",
            br#"{"name":"\ud800"}"#,
            br#"{"x":"\ud800"}"#,
            br#"{"x":["\udc00"]}"#,
            br#"{"\ud800":1}"#,
            b"{\"name\":\"a\nb\"}",
            br#"{"x":1e999}"#,
            br#"{"x":01}"#,
            br#"{"x":NaN}"#,
            b"\xef\xbb\xbf{}",
            deep.as_bytes(),
        ];
        for body in refused {
            assert!(parse(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn fuzzed_bodies_are_read_only_where_they_are_json() {
        let seeds: [&[u8]; 4] = [
            br#"{"name":"Studio","account_id":null,"organization_id":"123e4567-e89b-42d3-a456-426614174000"}"#,
            br#"{"name":"\ud83c\udfb8","other":[1,{"a":[true,null,-1.5e3]}]}"#,
            b"{}",
            br#"{"name":"a","name":"b"}"#,
        ];
        fuzz(&seeds, |input| {
            if let Ok(request) = parse(input) {
                let value = serde_json::from_slice::<serde_json::Value>(input);
                let name = value.as_ref().ok().map(|value| value["name"].as_str().map(str::to_owned));
                assert_eq!(name, Some(request.name), "{value:?}");
            }
        });
    }
}
