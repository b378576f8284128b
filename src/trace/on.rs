//! Spans and their causes, with the feature `traces`.

use std::future::Future;

use opentelemetry::trace::{
    FutureExt, Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer, WithContext,
};
use opentelemetry::{Context, KeyValue, global};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::What;

/// The cause of an operation: a recorded span in this or another process, if there is one.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Cause(Option<SpanContext>);

impl Cause {
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the span of the code that runs on this thread.
    pub(crate) fn current() -> Self {
        Self::of(&Context::current())
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
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut next = |length| parts.next().filter(|part| part.len() == length && part.is_ascii());
        let version = next(2)?;
        let trace = TraceId::from_hex(next(32)?).ok()?;
        let span = SpanId::from_hex(next(16)?).ok()?;
        let flags = u8::from_str_radix(next(2)?, 16).ok()?;
        let span = SpanContext::new(trace, span, TraceFlags::new(flags), true, TraceState::NONE);
        (version != "ff" && span.is_valid()).then_some(Self(Some(span)))
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(span) = &self.0 else { return serializer.serialize_none() };
        serializer.collect_str(&format_args!(
            "00-{}-{}-{:02x}",
            span.trace_id(),
            span.span_id(),
            span.trace_flags().to_u8()
        ))
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(Self(None)),
            Some(text) => Self::read(&text).ok_or_else(|| de::Error::custom("invalid traceparent")),
        }
    }
}

/// An operation in progress, which ends when this is dropped.
pub(crate) struct Span {
    context: Context,
    /// False for a span that was only joined, and must not be ended here.
    begun: bool,
}

impl Span {
    /// Starts a span. The first cause becomes its parent; the others are linked.
    pub(crate) fn start(what: What, path: &str, causes: &[Cause]) -> Self {
        let tracer = global::tracer("flowright");
        let path = if path.is_empty() { "root" } else { path };
        let (name, kind) = match what {
            What::Run { .. } => ("run", SpanKind::Consumer),
            What::Publish => ("publish", SpanKind::Producer),
            What::React => ("react", SpanKind::Internal),
            What::Message { .. } => ("handle", SpanKind::Consumer),
        };
        let mut attributes = vec![KeyValue::new("flowright.path", path.to_owned())];
        if let What::Run { run, attempt } = what {
            attributes.push(KeyValue::new("flowright.run", i64::try_from(run).unwrap_or(i64::MAX)));
            attributes.push(KeyValue::new("flowright.attempt", i64::from(attempt)));
        }
        if let What::Message { name } = what {
            attributes.push(KeyValue::new("flowright.message", name));
        }
        let (parent, others) = match causes.split_first() {
            Some((parent, others)) => (parent.context(), others),
            None => (Context::new(), causes),
        };
        let links = others.iter().filter_map(|cause| Some(Link::with_context(cause.0.clone()?))).collect();
        let builder = tracer.span_builder(format!("{name} {path}")).with_kind(kind);
        let builder = builder.with_attributes(attributes).with_links(links);
        let context = Context::new().with_span(tracer.build_with_context(builder, &parent));
        Self { context, begun: true }
    }

    /// Starts a span if there is a cause, and otherwise joins the current span.
    pub(crate) fn start_if_caused(what: What, path: &str, cause: &Cause) -> Self {
        match cause.is_none() {
            true => Self { context: Context::current(), begun: false },
            false => Self::start(what, path, std::slice::from_ref(cause)),
        }
    }

    /// Runs `what` with this span as the current one.
    pub(crate) fn within<R>(&self, what: impl FnOnce() -> R) -> R {
        let _attached = self.context.clone().attach();
        what()
    }

    /// Makes this span the current one whenever `future` is polled.
    pub(crate) fn around<F: Future>(&self, future: F) -> WithContext<F> {
        future.with_context(self.context.clone())
    }

    pub(crate) fn failed(&self, message: &str) {
        self.context.span().set_status(Status::error(message.to_owned()));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // Clones of the context may outlive this, so the span is ended explicitly.
        if self.begun {
            self.context.span().end();
        }
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
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-ä0f7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert!(Cause::read(text).is_none(), "{text}");
        }
    }
}
