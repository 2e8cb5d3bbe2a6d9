//! A client that keeps its connection, for load.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::Answer;

/// One connection, made anew after it was lost.
pub struct Client {
    address: SocketAddr,
    key: String,
    path: String,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client of the server at this address, with an API key. Connects with the first request.
    pub fn new(address: SocketAddr, key: &str) -> Self {
        Self { address, key: key.into(), path: String::new(), connection: None }
    }

    /// Of the tenant under this path.
    #[must_use]
    pub fn under(self, path: &str) -> Self {
        Self { path: path.into(), ..self }
    }

    /// `POST /api/workspaces`, with an idempotency key perhaps.
    ///
    /// # Errors
    ///
    /// Where no whole answer comes: what the server did is not known then.
    pub fn create(&mut self, body: &str, idempotency_key: Option<&str>) -> Result<Answer> {
        let key = self.key.clone();
        let mut headers = vec![("x-api-key", key.as_str())];
        headers.extend(idempotency_key.map(|key| ("Idempotency-Key", key)));
        self.post(&headers, body)
    }

    /// `POST /api/workspaces` with these headers, in which the credential is, if there is to be one.
    ///
    /// # Errors
    ///
    /// Where no whole answer comes.
    pub fn post(&mut self, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                BufReader::new(stream)
            }
        };
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "POST {}/api/workspaces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            self.path,
            body.len()
        );
        connection.get_mut().write_all(request.as_bytes())?;
        let answer = read(&mut connection)?;
        if answer.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

fn read(connection: &mut BufReader<TcpStream>) -> Result<Answer> {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status line")?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            bail!("the head of the answer ends early");
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    let length = answer.header("content-length").context("no length")?.parse()?;
    answer.body.resize(length, 0);
    connection.read_exact(&mut answer.body)?;
    Ok(answer)
}
