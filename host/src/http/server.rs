//! Connections: hyper with its timers set, which `axum::serve` leaves out.

use std::{future::Future, io, pin::pin, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time};

/// How long a client may take to send a request's head, and a kept-alive connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests in progress may take to finish once the server stops.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `shutdown` is ready, then stops accepting and lets what runs finish, for [`DRAIN`]
/// at most. Returns whether everything finished.
pub async fn serve(listener: TcpListener, routes: Router, shutdown: impl Future<Output = ()>) -> bool {
    let connections = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    wait_out(&error).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        // Answers are one small write: there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes.clone()));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    time::timeout(DRAIN, connections.shutdown()).await.is_ok()
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
