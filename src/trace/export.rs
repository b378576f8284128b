//! Export of spans to a collector, by OTLP over HTTP, configured by the standard `OTEL_*` environment variables.

use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::time::Duration;

use opentelemetry::global;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::trace::SdkTracerProvider;

/// Timeout of one batch at the collector.
const PATIENCE: Duration = Duration::from_secs(10);

/// Timeout for flushing the remaining spans at the end of the process.
const FAREWELL: Duration = Duration::from_secs(2);

/// Guard of the exporter: spans are exported until it is dropped.
pub(crate) struct Exporting(Option<SdkTracerProvider>);

/// Starts to export spans if the environment names a collector.
pub(crate) fn export() -> Exporting {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_off = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    let named = is_set("OTEL_EXPORTER_OTLP_ENDPOINT") || is_set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    if !named || is_off {
        return Exporting(None);
    }
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
    let client = Client(config.build().into());
    match SpanExporter::builder().with_http().with_http_client(client).build() {
        Ok(exporter) => {
            let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
            global::set_tracer_provider(provider.clone());
            Exporting(Some(provider))
        }
        Err(error) => {
            log::warn!("no traces are sent: {error}");
            Exporting(None)
        }
    }
}

impl Exporting {
    /// Flushes the remaining spans; for callers that leave by `std::process::exit`, which drops nothing.
    pub(crate) fn end(self) {
        drop(self);
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take()
            && let Err(error) = provider.shutdown_with_timeout(FAREWELL)
        {
            log::warn!("the last traces may not have been sent: {error}");
        }
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
