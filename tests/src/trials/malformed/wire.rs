//! A connection that sends anything, and believes no answer.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use httparse::{EMPTY_HEADER, Response, Status};
use serde_json::{Value, json};

use crate::Answer;

/// Maximum time for an answer: longer than the server waits for a body that does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// After how long without an answer the server is taken to wait for more: long for a create on a busy machine,
/// and few wait.
const STALLED: Duration = Duration::from_secs(1);

pub(super) struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    /// Mark that no more will be sent.
    pub(super) is_cut: bool,
}

impl Wire {
    /// Returns a connection on which each request is whole, and has to be answered.
    pub(super) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, received: Vec::new(), is_cut: false })
    }

    /// Sends it all, or as much as the server takes: it may have answered already, and closed.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Says that no more will come.
    pub(super) fn cut(&mut self) -> Result<()> {
        // One that the server has closed is cut too.
        let _ = self.stream.shutdown(Shutdown::Write);
        self.is_cut = true;
        Ok(self.stream.set_read_timeout(Some(PATIENCE))?)
    }

    /// Returns all answers up to the connection's end, the first to a HEAD perhaps. Where the server waits for
    /// more, it is told that no more will come.
    pub(super) fn answers(&mut self, to_head: bool) -> Result<Vec<Answer>> {
        if !self.is_cut {
            self.stream.set_read_timeout(Some(STALLED))?;
        }
        let mut answers = Vec::new();
        loop {
            match self.take(to_head && answers.is_empty())? {
                Some(answer) => answers.push(answer),
                None => match self.receive() {
                    Ok(true) => {}
                    Ok(false) => return Ok(answers),
                    Err(_) if !self.is_cut => self.cut()?,
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Returns the next answer; `None` where the connection has ended.
    pub(super) fn answer(&mut self) -> Result<Option<Answer>> {
        loop {
            if let Some(answer) = self.take(false)? {
                return Ok(Some(answer));
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    /// Waits for more bytes; false at the end.
    fn receive(&mut self) -> Result<bool> {
        let mut bytes = [0; 8 << 10];
        match self.stream.read(&mut bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("the server neither answers nor closes")
            }
            // A server that refuses what it did not read may reset the connection after its answer.
            Ok(0) | Err(_) => {
                ensure!(self.received.is_empty(), "half an answer: {}", self.received.escape_ascii());
                Ok(false)
            }
            Ok(length) => {
                self.received.extend_from_slice(&bytes[..length]);
                Ok(true)
            }
        }
    }

    /// Returns the first answer of what was received, where it is there in full.
    fn take(&mut self, to_head: bool) -> Result<Option<Answer>> {
        let mut headers = [EMPTY_HEADER; 64];
        let mut response = Response::new(&mut headers);
        let parsed = response.parse(&self.received).with_context(|| self.received.escape_ascii().to_string())?;
        let Status::Complete(head) = parsed else { return Ok(None) };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
        let headers = response.headers.iter().map(|header| Ok((header.name.to_lowercase(), text(header.value)?)));
        let mut answer = Answer {
            status: response.code.context("no status")?,
            headers: headers.collect::<Result<_>>()?,
            body: vec![],
        };
        if answer.status == 100 {
            // The server has come to the body; the answer is yet to come.
            self.received.drain(..head);
            return self.take(to_head);
        }
        let length = match to_head {
            true => 0,
            false => answer.header("content-length").context("no length")?.parse()?,
        };
        if self.received.len() < head + length {
            return Ok(None);
        }
        answer.body = self.received.drain(..head + length).skip(head).collect();
        Ok(Some(answer))
    }
}

/// Holds an answer to what every answer has to be, and says whether it is hyper's own, to a head that it
/// could not read.
pub(super) fn is_by_hyper(answer: &Answer, to_head: bool) -> Result<bool> {
    let Answer { status, body, .. } = answer;
    if answer.header("x-request-id").is_none() {
        ensure!(matches!(status, 400 | 414 | 431) && body.is_empty(), "an answer of nobody's");
        return Ok(true);
    }
    // The way from the root to the page that shows the API.
    let is_redirect = *status == 307 && answer.header("location").is_some_and(|to| to.ends_with("docs/"));
    ensure!(
        is_redirect || matches!(status, 200 | 201 | 400 | 401 | 403 | 404 | 405 | 408 | 409 | 413 | 415 | 422),
        "the status"
    );
    // CORS answers every OPTIONS.
    let is_preflight = *status == 200 && answer.header("access-control-allow-methods").is_some();
    ensure!(body.is_empty() == (to_head || is_preflight || is_redirect), "the length of the body");
    if !body.is_empty() {
        let value = answer.json()?;
        let message = &value["message"];
        let is_error = message.as_str().is_some_and(|message| !message.is_empty());
        ensure!(*status < 400 || (is_error && value == json!({"error": status, "message": message})), "the body");
        ensure!(*status != 201 || value["workspace"]["isWorkspace"] == Value::Bool(true), "the workspace");
    }
    Ok(false)
}
