//! Spans and their causes, with the feature `traces`.

use std::future::Future;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tracing::field::Empty;
use tracing::instrument::Instrumented;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, debug_span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::What;

/// The target of all spans of the runtime.
const TARGET: &str = "flowright";

/// The cause of an operation: a span in this or another process, if one is known.
///
/// Spans are known to each other by the OpenTelemetry layer of the program's `tracing` subscriber. Without that layer
/// there are no causes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Cause(Option<SpanContext>);

impl Cause {
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the span of the code that runs on this thread.
    pub(crate) fn current() -> Self {
        // The layer makes an entered span current for OpenTelemetry as well, unless the program has turned that off.
        let cause = Self::of(&Context::current());
        if cause.is_none() { Self::of(&tracing::Span::current().context()) } else { cause }
    }

    fn of(context: &Context) -> Self {
        Self(Some(context.span().span_context().clone()).filter(SpanContext::is_valid))
    }

    fn context(&self) -> Context {
        match &self.0 {
            Some(span) => Context::new().with_remote_span_context(span.clone()),
            None => Context::new(),
        }
    }

    /// Runs `what` with this cause as the current one.
    pub(crate) fn within<R>(&self, what: impl FnOnce() -> R) -> R {
        let _attached = self.context().attach();
        what()
    }

    /// Parses a `traceparent` of W3C Trace Context.
    fn from_traceparent(text: String) -> Option<Self> {
        // The default would be the current context, which is not to be mistaken for one that was sent.
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Traceparent(text));
        Some(Self::of(&context)).filter(|cause| !cause.is_none())
    }
}

/// The header `traceparent`, as the only one of a message.
#[derive(Default)]
struct Traceparent(String);

impl Traceparent {
    const NAME: &str = "traceparent";
}

impl Injector for Traceparent {
    fn set(&mut self, key: &str, value: String) {
        if key == Self::NAME {
            self.0 = value;
        }
    }
}

impl Extractor for Traceparent {
    fn get(&self, key: &str) -> Option<&str> {
        (key == Self::NAME).then_some(&self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![Self::NAME]
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_none() {
            return serializer.serialize_none();
        }
        let mut header = Traceparent::default();
        TraceContextPropagator::new().inject_context(&self.context(), &mut header);
        serializer.serialize_str(&header.0)
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(Self(None)),
            Some(text) => {
                Self::from_traceparent(text).ok_or_else(|| de::Error::custom("invalid traceparent"))
            }
        }
    }
}

/// An operation in progress: a span of `tracing`, which ends when this is dropped.
pub(crate) struct Span(tracing::Span);

impl Span {
    /// Starts a span. The first cause becomes its parent; the others are linked.
    pub(crate) fn start(what: What, path: &str, causes: &[Cause]) -> Self {
        let span = Self::new(what, path, false);
        let (parent, others) = match causes.split_first() {
            Some((parent, others)) => (parent, others),
            None => return span,
        };
        // Without an OpenTelemetry layer there is nothing to set.
        let _ = span.0.set_parent(parent.context());
        others.iter().filter_map(|cause| cause.0.clone()).for_each(|cause| span.0.add_link(cause));
        span
    }

    /// Starts a span below the current one.
    pub(crate) fn below_current(what: What, path: &str) -> Self {
        Self::new(what, path, true)
    }

    /// Starts a span with the cause as its parent. Without a cause it is a span of the level DEBUG below the current one.
    pub(crate) fn start_if_caused(what: What, path: &str, cause: &Cause) -> Self {
        match cause.is_none() {
            true => Self::below_current(what, path),
            false => Self::start(what, path, std::slice::from_ref(cause)),
        }
    }

    fn new(what: What, path: &str, is_below_current: bool) -> Self {
        // Where there is no subscriber, `tracing` may write spans to the log, which is not for them.
        if LevelFilter::current() == LevelFilter::OFF {
            return Self(tracing::Span::none());
        }
        let path = if path.is_empty() { "root" } else { path };
        // A span needs a fixed name, level and set of fields for each place at which it is made.
        Self(match what {
            What::Run { run, attempt } => info_span!(
                target: TARGET,
                parent: None,
                "run",
                otel.name = %format_args!("run {path}"),
                otel.kind = "consumer",
                otel.status_description = Empty,
                flowright.path = path,
                // Integers of OpenTelemetry are signed.
                flowright.run = i64::try_from(run).unwrap_or(i64::MAX),
                flowright.attempt = i64::from(attempt),
            ),
            What::Publish => info_span!(
                target: TARGET,
                "publish",
                otel.name = %format_args!("publish {path}"),
                otel.kind = "producer",
                flowright.path = path,
            ),
            What::React => info_span!(
                target: TARGET,
                parent: None,
                "react",
                otel.name = %format_args!("react {path}"),
                otel.kind = "internal",
                flowright.path = path,
            ),
            What::Message { name } if is_below_current => debug_span!(
                target: TARGET,
                "handle",
                otel.name = %format_args!("handle {path}"),
                otel.kind = "consumer",
                flowright.path = path,
                flowright.message = name,
            ),
            What::Message { name } => info_span!(
                target: TARGET,
                parent: None,
                "handle",
                otel.name = %format_args!("handle {path}"),
                otel.kind = "consumer",
                flowright.path = path,
                flowright.message = name,
            ),
        })
    }

    /// Runs `what` with this span as the current one.
    pub(crate) fn within<R>(&self, what: impl FnOnce() -> R) -> R {
        self.0.in_scope(what)
    }

    /// Makes this span the current one whenever `future` is polled.
    pub(crate) fn around<F: Future>(&self, future: F) -> Instrumented<F> {
        future.instrument(self.0.clone())
    }

    /// Gives the span the status of an error.
    pub(crate) fn failed(&self, message: &str) {
        self.0.record("otel.status_description", message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_travels_as_a_traceparent() {
        let text = "\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"";
        let cause: Cause = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&cause).unwrap(), text);
        assert!(!cause.is_none() && serde_json::from_str::<Cause>("null").unwrap().is_none());
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333100-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-ä0f7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert!(Cause::from_traceparent(text.to_owned()).is_none(), "{text}");
        }
    }

    /// A malformed `traceparent` is not replaced by the context of the code that reads it.
    #[test]
    fn malformed_traceparent_is_refused_within_a_span() {
        let outer: Cause =
            serde_json::from_str("\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"").unwrap();
        outer.within(|| {
            assert_eq!(Cause::current(), outer);
            assert!(Cause::from_traceparent("00".to_owned()).is_none());
        });
    }
}
