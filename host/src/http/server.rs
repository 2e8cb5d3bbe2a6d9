//! Connections: hyper with its timers set, which `axum::serve` leaves out.

use std::{future::Future, io, mem, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

/// How long a client may take to send a request's head, and a kept-alive connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(8);

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
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes.clone()));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    time::timeout(DRAIN, connections.shutdown()).await.is_ok()
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
