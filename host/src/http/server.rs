//! Connections: hyper with its timers set, which `axum::serve` leaves out.

use std::{future::Future, io, mem, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
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
use tower_layer::Layer as _;

use super::host::Received;
#[cfg(feature = "tls")]
use super::tls::{self, Tls};

/// How long a client may take to send a request's head, and a kept-alive connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a client may take to read some of an answer that the system has no more room for. Before
/// that, a client that reads nothing takes some seconds to fill what room there is.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the system keeps of answers that a client has not read, in bytes: five of the largest. It would
/// keep megabytes for each.
const UNREAD: usize = 64 << 10;

/// The longest head of a request, in bytes, and the most that a connection buffers; hyper would keep
/// 400 KiB for each.
const MAX_HEAD: usize = 32 << 10;

/// How many connections are open at once by default. An idle one costs some KiB and a file descriptor.
pub const CONNECTIONS: usize = 8192;

/// How long requests in progress may take to finish once the server stops.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Serves up to `most` connections at once until `shutdown` is ready; further ones wait in the
/// system's queue. Then stops accepting and lets what runs finish, for [`DRAIN`] at most. Returns
/// whether everything finished.
pub async fn serve(listener: TcpListener, routes: Router, most: usize, shutdown: impl Future<Output = ()>) -> bool {
    accept_all(listener, most, shutdown, |stream, watcher, _| converse(stream, routes.clone(), watcher)).await
}

/// The same over TLS. A handshake may take as long as a head, and is a connection among the `most`.
#[cfg(feature = "tls")]
pub async fn serve_tls(
    listener: TcpListener,
    tls: &Tls,
    routes: Router,
    most: usize,
    shutdown: impl Future<Output = ()>,
) -> bool {
    accept_all(listener, most, shutdown, |stream, watcher, stopping| {
        let (acceptor, routes) = (tls.acceptor(), routes.clone());
        async move {
            if let Some(stream) = tls::accept(acceptor, stream, HEADER_TIMEOUT, stopping).await {
                converse(stream, routes, watcher).await;
            }
        }
    })
    .await
}

/// Serves up to `most` connections at once at a Unix socket, for ever.
#[cfg(feature = "cli")]
pub(crate) async fn serve_unix(listener: &tokio::net::UnixListener, routes: Router, most: usize) {
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(most));
    loop {
        // Never closed, and so never an error.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = converse(stream, routes.clone(), connections.watcher());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => wait_out(&error).await,
        }
    }
}

/// Has `serve` serve each connection, in a task of its own. What it does before there is anything to
/// watch, it gives up when the sender of the last argument is gone.
async fn accept_all<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    most: usize,
    shutdown: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, Watcher, watch::Receiver<()>) -> F,
) -> bool {
    let (stop, stopping) = watch::channel(());
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
    let (mut shutdown, mut full) = (pin!(shutdown), false);
    loop {
        let (stream, place) = tokio::select! {
            next = accept(&listener, &places, &mut full) => next,
            () = &mut shutdown => break,
        };
        // Answers are one small write: there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        let _ = set_socket_send_buffer_size(&stream, UNREAD);
        let connection = serve(stream, connections.watcher(), stopping.clone());
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop((listener, stop));
    time::timeout(DRAIN, connections.shutdown()).await.is_ok()
}

/// Serves one connection to its end.
async fn converse<S>(stream: S, routes: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that closes its side after the request still gets the answer.
        .half_close(true)
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(Extension(Received).layer(routes)));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// The next connection, and its place among those that may be open. `full` is whether there was none
/// for the last one: what goes on is logged once.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>, full: &mut bool) -> (TcpStream, OwnedSemaphorePermit) {
    let was_full = mem::replace(full, places.available_permits() == 0);
    if *full && !was_full {
        tracing::warn!("as many connections are open as may be: further ones wait");
    }
    loop {
        // Never closed, and so never an error; without a place nothing is accepted.
        let Ok(place) = places.clone().acquire_owned().await else { continue };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => wait_out(&error).await,
        }
    }
}

/// An error of one connection is over with it; one of the process, such as too many open files,
/// passes when others close.
async fn wait_out(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "can't accept connections");
        time::sleep(Duration::from_millis(100)).await;
    }
}
