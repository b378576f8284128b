//! Export of spans to a collector, by OTLP over HTTP, configured by the standard `OTEL_*` environment variables.

use std::fmt::{self, Write};
use std::future::ready;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::global;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::NoSubscriber;
use tracing::{Event, Subscriber, dispatcher};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

/// Timeout of one batch at the collector.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for flushing the remaining spans at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The exporter of this process, once something has asked for it; `None` inside when no collector is configured.
/// Process-wide because the subscriber of `tracing` is.
static PROVIDER: OnceLock<Option<Result<SdkTracerProvider, ExporterBuildError>>> = OnceLock::new();

fn provider() -> Option<&'static Result<SdkTracerProvider, ExporterBuildError>> {
    PROVIDER.get_or_init(|| is_configured().then(build)).as_ref()
}

/// True if the environment names a collector.
fn is_configured() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_off = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    let is_named = is_set("OTEL_EXPORTER_OTLP_ENDPOINT") || is_set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    is_named && !is_off
}

fn build() -> Result<SdkTracerProvider, ExporterBuildError> {
    let config =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(EXPORT_TIMEOUT));
    let client = Client(config.build().into());
    let exporter = SpanExporter::builder().with_http().with_http_client(client).build()?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).build())
}

/// Layer for a `tracing` subscriber of the program's own that sends spans of the level INFO and above to an OpenTelemetry
/// collector, by OTLP over HTTP. Returns `None`, which is a layer that does nothing, unless the environment variables
/// `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` name a collector.
///
/// [`App::main`](crate::App::main) needs this only where the program has a subscriber: otherwise it installs one with
/// this layer. At its end it sends the remaining spans.
///
/// ```no_run
/// use tracing_subscriber::prelude::*;
///
/// tracing_subscriber::registry().with(flowright::otlp_layer()).init();
/// ```
pub fn otlp_layer<S>() -> Option<impl Layer<S> + use<S>>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let tracer = provider()?.as_ref().ok()?.tracer("flowright");
    let layer = tracing_opentelemetry::layer().with_tracer(tracer);
    // These attributes would be on each span, and say little of the spans of Flowright.
    let layer =
        layer.with_location(false).with_threads(false).with_target(false).with_tracked_inactivity(false);
    Some(layer.with_filter(LevelFilter::INFO))
}

/// Guard of the exporter: remaining spans are exported when it is dropped.
pub(crate) struct Exporting(());

/// Starts to export spans if the environment names a collector and the program has no `tracing` subscriber of its own.
pub(crate) fn export() -> Exporting {
    if !is_configured() {
        return Exporting(());
    }
    if dispatcher::get_default(|current| current.is::<NoSubscriber>()) {
        let to_log: Option<LevelFilter> = log::max_level().as_str().parse().ok();
        let to_log = LogEvents.with_filter(to_log.unwrap_or(LevelFilter::INFO));
        let subscriber = Registry::default().with(otlp_layer()).with(to_log);
        if tracing::subscriber::set_global_default(subscriber).is_ok()
            && let Some(Ok(provider)) = provider()
        {
            // For spans that Works make by the API of OpenTelemetry.
            global::set_tracer_provider(provider.clone());
        }
    } else if PROVIDER.get().is_none() {
        log::info!(
            "spans go to this program's own `tracing` subscriber; add `flowright::otlp_layer()` to it to send them to the \
             OpenTelemetry collector"
        );
    }
    if let Some(Some(Err(error))) = PROVIDER.get() {
        log::warn!("no traces are sent: {error}");
    }
    Exporting(())
}

impl Exporting {
    /// Flushes the remaining spans; for callers that leave by `std::process::exit`, which drops nothing.
    pub(crate) fn end(self) {
        drop(self);
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        if let Some(Some(Ok(provider))) = PROVIDER.get()
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            log::warn!("the last traces may not have been sent: {error}");
        }
    }
}

/// Layer of the subscriber that the runtime installs: writes events of `tracing` to the log, where they go when there is
/// no subscriber.
struct LogEvents;

impl<S: Subscriber> Layer<S> for LogEvents {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // The target of log lines that a bridge has made events of.
        if metadata.target() == "log" {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let level = metadata.level().as_str().parse().unwrap_or(log::Level::Info);
        log::log!(target: metadata.target(), level, "{}{}", line.message, line.fields);
    }
}

/// The text of an event.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// The HTTP client that the command line uses as well. It may block, because the exporter has its own thread.
struct Client(ureq::Agent);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let (parts, mut body) = self.0.run(Request::from_parts(parts, body.to_vec()))?.into_parts();
        Ok(Response::from_parts(parts, Bytes::from(body.read_to_vec()?)))
    }
}

impl HttpClient for Client {
    // This is the signature to which `async_trait` expands.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(ready(self.send(request)))
    }
}
