//! The `traceparent` header (W3C Trace Context, level 1): the trace that a request belongs to.

use axum::http::{HeaderMap, HeaderName};
#[cfg(feature = "otlp")]
use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt as _, TraceFlags, TraceState},
};
use tracing::Span;
#[cfg(feature = "otlp")]
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Header of the caller's trace.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Trace context of a request, as the caller sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "without a collector the trace's id is enough"))]
struct Sent {
    /// The trace, in which requests of many services are one.
    trace_id: u128,
    /// The caller's part of it, within which this request is one.
    parent_id: u64,
    /// Mark that the caller records its part.
    sampled: bool,
}

/// Returns the id of the trace that a request's span belongs to: the caller's, or the collector's new one. Without
/// either there is no trace.
pub(super) fn join(span: &Span, headers: &HeaderMap) -> Option<String> {
    let sent = sent(headers);
    exported(span, sent).or_else(|| sent.map(|sent| format!("{:032x}", sent.trace_id)))
}

/// Returns the same where traces are sent to a collector, which makes new ones itself; nothing where they are not.
#[cfg(feature = "otlp")]
fn exported(span: &Span, sent: Option<Sent>) -> Option<String> {
    if let Some(Sent { trace_id, parent_id, sampled }) = sent {
        let flags = TraceFlags::default().with_sampled(sampled);
        let parent = SpanContext::new(trace_id.into(), parent_id.into(), flags, true, TraceState::default());
        // Refused where there is no collector.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
    let context = span.context().span().span_context().clone();
    context.is_valid().then(|| context.trace_id().to_string())
}

#[cfg(not(feature = "otlp"))]
fn exported(_: &Span, _: Option<Sent>) -> Option<String> {
    None
}

/// Reads the trace context from the headers; `None` where they have it twice or not as version 00 has it.
fn sent(headers: &HeaderMap) -> Option<Sent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => parse(value.to_str().ok()?),
        _ => None,
    }
}

fn parse(value: &str) -> Option<Sent> {
    let mut parts = value.split('-');
    let mut part = |digits| parts.next().and_then(|part| hex(part, digits));
    let (version, trace_id, parent_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let sent = Sent { trace_id, parent_id: u64::try_from(parent_id).ok()?, sampled: flags & 1 == 1 };
    (parts.next().is_none() && version == 0 && trace_id != 0 && parent_id != 0).then_some(sent)
}

/// Parses a number in exactly so many hexadecimal digits, letters in lower case.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::fuzz::fuzz;

    /// The example of the specification, section 3.2.2.5.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (TRACEPARENT, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_specifications_examples_are_read() {
        for (value, sampled) in [
            (EXAMPLE, true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", false),
            // Of the flags, all but the last bit are reserved.
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe", false),
        ] {
            let expected = Sent { trace_id: TRACE, parent_id: 0x00f0_67aa_0ba9_02b7, sampled };
            assert_eq!(sent(&headers(&[value])), Some(expected), "{value}");
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
    fn a_trace_goes_on_and_none_is_made_up() {
        let trace = join(&Span::none(), &headers(&[EXAMPLE]));
        assert_eq!(trace.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(join(&Span::none(), &headers(&[])), None);
        assert_eq!(join(&Span::none(), &headers(&["no trace"])), None);
    }

    #[test]
    fn fuzzed_headers_give_a_trace_that_is_not_zero_or_none() {
        let seeds: [&[u8]; 2] = [
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
        ];
        fuzz(&seeds, |input| {
            if let Some(sent) = std::str::from_utf8(input).ok().and_then(parse) {
                assert_ne!(sent.trace_id, 0);
            }
        });
    }
}
