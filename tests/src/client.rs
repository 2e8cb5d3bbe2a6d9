//! A client that keeps its connection, for load.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::Answer;

/// Client with one connection, which it makes anew after it was lost.
pub struct Client {
    address: SocketAddr,
    key: String,
    path: String,
    timeout: Duration,
    tls: Option<Arc<ClientConfig>>,
    connection: Option<BufReader<Box<dyn Stream>>>,
}

/// Plain or TLS connection.
trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// Longest wait for some of an answer by default.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Client {
    /// Returns a client of the server at this address, with an API key. Connects with the first request.
    pub fn new(address: SocketAddr, key: &str) -> Self {
        Self { address, key: key.into(), path: String::new(), timeout: TIMEOUT, tls: None, connection: None }
    }

    /// Sends its requests to the tenant under this path.
    #[must_use]
    pub fn under(self, path: &str) -> Self {
        Self { path: path.into(), ..self }
    }

    /// Limits the wait for an answer.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Speaks TLS, and trusts the certificate in this file alone.
    ///
    /// # Errors
    ///
    /// Where it holds no certificate.
    pub fn trusting(self, certificate: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate)?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Some(Arc::new(config)), ..self })
    }

    /// Closes the connection: the next request opens another.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    fn connect(&self) -> Result<BufReader<Box<dyn Stream>>> {
        let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(BufReader::new(match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let connection = ClientConnection::new(config.clone(), self.address.ip().into())?;
                Box::new(StreamOwned::new(connection, stream))
            }
        }))
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
            None => self.connect()?,
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

fn read(connection: &mut impl BufRead) -> Result<Answer> {
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
