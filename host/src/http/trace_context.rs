//! The `traceparent` header (W3C Trace Context, level 1): the trace that a request belongs to.

use axum::http::HeaderMap;
use uuid::Uuid;

const TRACEPARENT: &str = "traceparent";

/// The id of the trace that the caller has begun, or of a new one.
pub(super) fn trace_id(headers: &HeaderMap) -> String {
    format!("{:032x}", sent(headers).unwrap_or_else(|| Uuid::now_v7().as_u128()))
}

/// What the headers say; nothing where they say it twice or in another way than version 00 has it.
fn sent(headers: &HeaderMap) -> Option<u128> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => parse(value.to_str().ok()?),
        _ => None,
    }
}

fn parse(value: &str) -> Option<u128> {
    let mut parts = value.split('-');
    let mut part = |digits| parts.next().and_then(|part| hex(part, digits));
    let (version, trace_id, parent_id, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    (parts.next().is_none() && version == 0 && trace_id != 0 && parent_id != 0).then_some(trace_id)
}

/// A number in exactly so many hexadecimal digits, letters in lower case.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    /// The example of the specification, section 3.2.2.5.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (HeaderName::from_static(TRACEPARENT), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_specifications_examples_are_read() {
        for value in [
            EXAMPLE,
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            // Of the flags, all but the last bit are reserved.
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe",
        ] {
            assert_eq!(sent(&headers(&[value])), Some(TRACE), "{value}");
        }
    }

    #[test]
    fn anything_else_is_ignored() {
        for value in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-holds",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01,",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47366-0f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
        assert_eq!(sent(&headers(&[])), None);
        assert_eq!(sent(&headers(&[EXAMPLE, EXAMPLE])), None);
    }

    #[test]
    fn a_trace_goes_on_or_begins() {
        assert_eq!(trace_id(&headers(&[EXAMPLE])), "4bf92f3577b34da6a3ce929d0e0e4736");
        let (one, other) = (trace_id(&headers(&[])), trace_id(&headers(&["no trace"])));
        assert!(one != other && [&one, &other].iter().all(|id| hex(id, 32).is_some()), "{one} {other}");
    }
}
