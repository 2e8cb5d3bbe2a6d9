//! Clients that each send the next request when they have the answer to the one before.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::{runtime::Builder, task::JoinSet};
use workspaces_tests::trials::connection::Connection;

/// Answers of one round.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Times of the creates, in seconds, in order.
    pub(crate) created: Vec<f64>,
    /// Number of refusals, 401, 429 and 503.
    pub(crate) refused: usize,
}

/// Runs so many clients for a time, on one thread: the server has the rest of the machine.
pub(crate) fn load(address: SocketAddr, key: &str, clients: usize, time: Duration) -> Result<Answers> {
    let request: Arc<str> = format!(
        "POST /api/workspaces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nx-api-key: {key}\r\nContent-Length: 15\r\n\r\n{{\"name\":\"Load\"}}"
    )
    .into();
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut tasks = JoinSet::new();
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(Connection::open(address).await?);
        }
        let end = Instant::now() + time;
        for connection in connections {
            tasks.spawn(client(connection, request.clone(), end));
        }
        let mut all = Answers::default();
        while let Some(answers) = tasks.join_next().await {
            let answers = answers??;
            all.created.extend(answers.created);
            all.refused += answers.refused;
        }
        all.created.sort_by(f64::total_cmp);
        Ok(all)
    })
}

async fn client(mut connection: Connection, request: Arc<str>, end: Instant) -> Result<Answers> {
    let mut answers = Answers::default();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(answers);
        }
        match connection.send(&request).await? {
            201 if Instant::now() < end => answers.created.push(sent.elapsed().as_secs_f64()),
            201 => {}
            401 | 429 | 503 => answers.refused += 1,
            status => bail!("a client got {status}"),
        }
    }
}
