//! Connections: hyper with its timers set, which `axum::serve` leaves out.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderValue, header::CONNECTION},
    middleware::{self, Next},
    response::Response,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::io::InspectReader;
use tower_layer::Layer as _;

#[cfg(feature = "tls")]
use super::tls::{self, Tls};
use super::{
    host::Received,
    limits::{DRAIN, HEADER_TIMEOUT, LATE_TIMEOUT, MAX_HEAD, SCARCE_TIMEOUT, SEND_BUFFER, WRITE_TIMEOUT},
};

/// Serves up to `most` connections at once until `shutdown` is ready; further ones wait in the
/// system's queue. Then stops accepting and lets what runs finish, for [`DRAIN`] at most. Returns
/// whether everything finished.
///
/// While more than three quarters of the connections are open, each answer closes its connection, clients
/// have two seconds in place of eight to send, and one tenant's requests in progress hold a quarter of the
/// connections at most: newcomers are accepted within about two seconds, whatever the others do.
pub async fn serve(listener: TcpListener, routes: Router, most: usize, shutdown: impl Future<Output = ()>) -> bool {
    accept_all(listener, routes, most, shutdown, |Accepted { stream, routes, patience, stopping }| {
        serve_connection(stream, routes, patience, stopping)
    })
    .await
}

/// Serves over TLS as [`serve`] does. A handshake may take as long as a head, and is a connection among the `most`.
#[cfg(feature = "tls")]
pub async fn serve_tls(
    listener: TcpListener,
    tls: &Tls,
    routes: Router,
    most: usize,
    shutdown: impl Future<Output = ()>,
) -> bool {
    accept_all(listener, routes, most, shutdown, |Accepted { stream, routes, patience, stopping }| {
        let acceptor = tls.acceptor();
        async move {
            if let Some(stream) = tls::accept(acceptor, stream, patience, stopping.clone()).await {
                serve_connection(stream, routes, patience, stopping).await;
            }
        }
    })
    .await
}

/// Serves up to `most` connections at once at a Unix socket, for ever.
#[cfg(feature = "cli")]
pub(crate) async fn serve_unix(listener: &tokio::net::UnixListener, routes: Router, most: usize) {
    // Kept to the end: it never stops by itself.
    let (_stop, stopping) = watch::channel(());
    let places = Arc::new(Semaphore::new(most));
    loop {
        // Never closed, and so never an error.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = serve_connection(stream, routes.clone(), HEADER_TIMEOUT, stopping.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => wait_out(&error).await,
        }
    }
}

/// The connections that are open at once.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    most: usize,
    free: Arc<Semaphore>,
}

impl Connections {
    fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self { most, free: Arc::new(Semaphore::new(most)) }
    }

    /// Returns whether more than three quarters of them are open.
    fn are_scarce(&self) -> bool {
        self.free.available_permits() < self.most.div_ceil(4)
    }

    /// Returns the maximum time for what usually may take `usual`.
    pub(super) fn patience(&self, usual: Duration) -> Duration {
        if self.are_scarce() { usual.min(SCARCE_TIMEOUT) } else { usual }
    }

    /// Returns how many requests one tenant may have in progress now, as each holds a connection.
    pub(super) fn tenant_share(&self) -> usize {
        if self.are_scarce() { self.most.div_ceil(4) } else { usize::MAX }
    }
}

/// Hands the connections to the routes, and closes the request's own after its answer while they are scarce.
async fn spare(State(connections): State<Connections>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(connections.clone());
    let mut response = next.run(request).await;
    if connections.are_scarce() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A connection, with what it is served with.
struct Accepted {
    stream: TcpStream,
    routes: Router,
    /// Maximum time for a handshake, for a head, and between two requests.
    patience: Duration,
    /// Its sender is gone when the server stops.
    stopping: watch::Receiver<()>,
}

/// Serves each connection by `serve`, in a task of its own.
async fn accept_all<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    routes: Router,
    most: usize,
    shutdown: impl Future<Output = ()>,
    serve: impl Fn(Accepted) -> F,
) -> bool {
    let (stop, stopping) = watch::channel(());
    let connections = Connections::new(most);
    let routes = routes.layer(middleware::from_fn_with_state(connections.clone(), spare));
    let (mut shutdown, mut warned) = (pin!(shutdown), None);
    loop {
        let (stream, place) = tokio::select! {
            next = accept(&listener, &connections.free, &mut warned) => next,
            () = &mut shutdown => break,
        };
        // Answers are one small write: there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        let _ = set_socket_send_buffer_size(&stream, SEND_BUFFER);
        let patience = connections.patience(HEADER_TIMEOUT);
        let (routes, stopping) = (routes.clone(), stopping.clone());
        let connection = serve(Accepted { stream, routes, patience, stopping });
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop((listener, stop));
    // Each connection has a place until it ends.
    let all = u32::try_from(connections.most).unwrap_or(u32::MAX);
    time::timeout(DRAIN, connections.free.acquire_many(all)).await.is_ok()
}

/// Serves one connection to its end. When the server stops, a request in progress is answered, and an idle connection is
/// closed. A client that has sent nothing yet has [`LATE_TIMEOUT`] for the beginning of its request: it can't know of the
/// stop.
async fn serve_connection<S>(stream: S, routes: Router, patience: Duration, mut stopping: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let has_begun = Arc::new(AtomicBool::new(false));
    let begins = has_begun.clone();
    let stream = InspectReader::new(stream, move |bytes: &[u8]| {
        if !bytes.is_empty() {
            begins.store(true, Relaxed);
        }
    });
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that closes its side after the request still gets the answer.
        .half_close(true)
        .header_read_timeout(patience)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(Extension(Received).layer(routes)));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // The sender sends nothing: this is the stop.
        _ = stopping.changed() => {
            let first_bytes = poll_fn(|context| match connection.as_mut().poll(context) {
                Poll::Pending if !has_begun.load(Relaxed) => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
            });
            match time::timeout(LATE_TIMEOUT, first_bytes).await {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(_) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Returns the next connection, with its place among those that may be open. Nothing is accepted without a
/// place. `warned` is when it was last logged that there was none.
async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
    warned: &mut Option<Instant>,
) -> (TcpStream, OwnedSemaphorePermit) {
    if free.available_permits() == 0 && warned.is_none_or(|warned| warned.elapsed() > WARN_AGAIN) {
        *warned = Some(Instant::now());
        tracing::warn!("connection limit reached, new connections wait");
    }
    loop {
        // Nobody else takes places: one that is free stays free until it is taken below, and no connection
        // is counted before it is there. The semaphore is never closed.
        drop(free.acquire().await);
        match listener.accept().await {
            Ok((stream, _)) => match free.clone().try_acquire_owned() {
                Ok(place) => return (stream, place),
                Err(error) => tracing::error!(%error, "accepted connection refused, no permit"),
            },
            Err(error) => wait_out(&error).await,
        }
    }
}

/// Minimum time between two warnings that the maximum of connections is open.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// Waits after an error of the process, such as too many open files, which passes when others close. An error of one
/// connection is over with it.
async fn wait_out(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "accepting connections failed");
        time::sleep(Duration::from_millis(100)).await;
    }
}
