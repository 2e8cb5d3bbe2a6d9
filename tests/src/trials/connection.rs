//! A connection of a client that sends one request after the other.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A connection that is kept, and what was read of it.
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Where that fails.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("can't connect: is the limit of open files enough?")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// Sends a request and reads all of its answer, of which it returns the status.
    ///
    /// # Errors
    ///
    /// An answer that is not HTTP or ends early, or a 503 without `Retry-After`.
    pub async fn send(&mut self, request: &str) -> Result<u16> {
        self.stream.write_all(request.as_bytes()).await?;
        loop {
            if let Some((status, length)) = parse(&self.read)? {
                self.read.drain(..length);
                return Ok(status);
            }
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "closed before the answer");
        }
    }
}

/// Returns the status and the length of an answer that is there as a whole.
fn parse(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    let status = response.code.context("no status")?;
    let value = |name: &str| response.headers.iter().find(|header| header.name == name).map(|header| header.value);
    ensure!(status != 503 || value("retry-after").is_some(), "503 without Retry-After");
    let length = head + str::from_utf8(value("content-length").context("no length")?)?.parse::<usize>()?;
    Ok((bytes.len() >= length).then_some((status, length)))
}
