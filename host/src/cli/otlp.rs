//! Traces of requests, sent to a collector: OTLP over HTTP, in protobuf.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::{runtime::Handle, time::timeout};
use tracing::{Level, Subscriber};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use super::parse::Unrepeated;
use crate::tls_client;

/// Options of the traces.
#[derive(clap::Args)]
pub(super) struct OtlpArguments {
    /// Send traces of requests to this collector, by OTLP over HTTP: http://HOST:4318 or https://…
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", hide_env_values = true, value_parser = Unrepeated(endpoint))]
    otlp_endpoint: Option<Uri>,
}

/// Reads the address, which may hold a password.
fn endpoint(text: &str) -> Result<Uri, String> {
    text.parse().map_err(|error| format!("{error}: a collector is http://HOST:4318 or https://…"))
}

/// Maximum time that a collector may take for a batch, and for all that is left at the end.
const SEND_TIMEOUT: Duration = Duration::from_secs(4);
const LAST_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Traces on their way; the last ones are sent when this is dropped.
pub(super) struct Traces(SdkTracerProvider);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_TIMEOUT) {
            tracing::warn!(%error, "last traces not sent");
        }
    }
}

impl OtlpArguments {
    /// Returns the layer that makes traces of the program's spans, whatever is logged of them.
    pub(super) fn layer<S>(&self) -> Result<Option<(Traces, impl Layer<S> + use<S>)>>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let Some(collector) = &self.otlp_endpoint else { return Ok(None) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{}/v1/traces", collector.to_string().trim_end_matches('/')))
            .with_http_client(Sender::new()?)
            .build()
            .context("traces can't be sent")?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(Resource::builder().with_service_name("workspaces").build())
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("workspaces"))
            .with_filter(Targets::new().with_target(env!("CARGO_CRATE_NAME"), Level::INFO));
        Ok(Some((Traces(provider), layer)))
    }
}

/// Sends on the program's own runtime: the thread that gathers spans has none.
#[derive(Debug)]
struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
    /// Mark that the last batch could not be sent: an outage is logged once.
    failing: AtomicBool,
}

impl Sender {
    fn new() -> Result<Self> {
        let tls = tls_client::client(tls_client::system_authorities())?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, runtime: Handle::current(), failing: AtomicBool::new(false) })
    }
}

#[async_trait::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, request) = (self.client.clone(), request.map(Full::new));
        let exchange = async move {
            let (head, body) = client.request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        let sent = self.runtime.spawn(async { timeout(SEND_TIMEOUT, exchange).await? }).await;
        let answer = sent.unwrap_or_else(|error| Err(error.into()));
        let failure = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.failing.swap(failure.is_some(), Relaxed);
        if let (Some(cause), false) = (failure, was_failing) {
            tracing::warn!(cause, "sending traces failed, they are lost until it succeeds");
        }
        answer
    }
}
