//! Starts the real program on a real database, and speaks HTTP to it byte by byte, so that tests can
//! send what no well-behaved client would.

mod background;
pub mod browser;
pub mod built;
pub mod certificate;
mod client;
pub mod clock;
pub mod composed;
pub mod conformance;
pub mod disk;
pub mod hostile_components;
pub mod minisign;
pub mod mutants;
mod open;
pub mod patroni;
pub mod postgres;
mod tenants;
pub mod trials;

pub use self::background::{Process, installed, missing};
pub use client::Client;
pub use open::Open;
pub use tenants::{Tenants, variant, variant_of};

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// The pepper that all tests hash their keys with.
pub const PEPPER: &str = "a pepper for tests";

/// Maximum time that a test waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a database of its own, or a PostgreSQL server's, and the program to run on it.
pub struct Deployment {
    program: PathBuf,
    folder: TempDir,
    address: Option<String>,
}

impl Deployment {
    /// Returns a deployment with an empty database; `program` is what cargo built, `env!("CARGO_BIN_EXE_…")`.
    ///
    /// # Errors
    ///
    /// Where there is no place for the folder.
    pub fn new(program: &str) -> Result<Self> {
        Ok(Self { program: program.into(), folder: TempDir::new()?, address: None })
    }

    /// Returns a deployment whose folder is within another one.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn within(program: &str, folder: &Path) -> Result<Self> {
        Ok(Self { program: program.into(), folder: TempDir::new_in(folder)?, address: None })
    }

    /// Returns a deployment on a PostgreSQL database, in which the tables are made.
    ///
    /// # Errors
    ///
    /// Where that is not possible.
    pub fn on_postgres(program: &str, address: &str) -> Result<Self> {
        let deployment = Self { address: Some(address.into()), ..Self::new(program)? };
        deployment.run(&["database", "migrate"])?;
        Ok(deployment)
    }

    /// Returns the database's file.
    pub fn database(&self) -> PathBuf {
        self.folder.path().join("workspaces.db")
    }

    /// Returns the folder, for files of a test's own.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a command of the program, on this deployment's database and in its folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let address = self.address.clone().unwrap_or_else(|| format!("sqlite:{}", self.database().display()));
        command
            .args(arguments)
            .env("WORKSPACES_DATABASE", address)
            .env("WORKSPACES_KEY_PEPPER", PEPPER)
            .current_dir(self.folder.path());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    ///
    /// Where it can't be started.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    /// Runs a command that has to succeed and returns what it printed.
    ///
    /// # Errors
    ///
    /// With what it said, where it failed.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Returns the command that starts the server on a free port, with further arguments.
    pub fn server(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(arguments).env("WORKSPACES_LOG", "warn");
        command
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Errors
    ///
    /// Where it does not come to listen.
    pub fn serve(&self, arguments: &[&str]) -> Result<Server> {
        Server::start(&mut self.server(arguments))
    }
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// Starts it by a command of [`Deployment::server`] and waits until it listens.
    ///
    /// # Errors
    ///
    /// Where it does not come to listen.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        // A server that hangs while it starts is killed, which ends its output.
        let (_started, starting) = mpsc::channel::<()>();
        let process = child.id().to_string();
        thread::spawn(move || {
            if starting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-s", "KILL", &process]).status();
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").context("it does not listen")?;
        let address = address.trim_start_matches("https://").trim_start_matches("http://").parse()?;
        let mut admin = None;
        if command.get_args().any(|argument| argument == "--admin") {
            line.clear();
            stdout.read_line(&mut line)?;
            let address = line.trim().strip_prefix("administration on ").context("no administration")?;
            admin = address.strip_prefix("http://").map(str::parse).transpose()?;
        }
        Ok(Self { child, address, admin, stdout })
    }

    /// Returns the first key that `serve --demo` prints.
    ///
    /// # Errors
    ///
    /// Where its output ends without one.
    pub fn demo_key(&mut self) -> Result<String> {
        let mut line = String::new();
        while self.stdout.read_line(&mut line)? > 0 {
            if let Some(key) = line.trim().strip_prefix("API key") {
                return Ok(key.trim().to_owned());
            }
            line.clear();
        }
        bail!("the demo prints no key")
    }

    /// Returns the address that it listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address at which its administration listens.
    ///
    /// # Errors
    ///
    /// A server without one, or with one at a Unix socket.
    pub fn admin(&self) -> Result<SocketAddr> {
        self.admin.context("started without --admin")
    }

    /// Sends the administration a request without a body, with these headers and the right `Host`.
    ///
    /// # Errors
    ///
    /// Where there is no answer in HTTP.
    pub fn ask_admin(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let address = self.admin()?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        Answer::read(stream)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the processor time that it has used so far.
    ///
    /// # Errors
    ///
    /// Where the system does not say so.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        let (_, fields) = stat.rsplit_once(") ").context("no statistics of the process")?;
        // Fields 14 and 15 of the line, in the hundredths of a second that Linux shows: user's and system's.
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_millis(10 * ticks))
    }

    /// Returns the most memory it has held so far, in bytes.
    ///
    /// # Errors
    ///
    /// Where the system does not say so.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak of memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }

    /// Ends it as a crash does, at once.
    ///
    /// # Errors
    ///
    /// Where that is not possible.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// Where the server does not accept it.
    pub fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Sends a request with these headers and body, a `Content-Length` added, and reads the answer.
    ///
    /// # Errors
    ///
    /// Where there is no answer in HTTP.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        let mut stream = self.connect()?;
        write_head(&mut stream, method, path, headers, Some(body.len()))?;
        stream.write_all(body)?;
        Answer::read(stream)
    }

    /// `POST /api/workspaces` as a program does it: an API key and a body in JSON.
    ///
    /// # Errors
    ///
    /// Where there is no answer in HTTP.
    pub fn create(&self, key: &str, body: impl AsRef<[u8]>) -> Result<Answer> {
        let headers = [("Content-Type", "application/json"), ("x-api-key", key)];
        self.send("POST", "/api/workspaces", &headers, body.as_ref())
    }

    /// Returns what the administration shows at `/metrics`.
    ///
    /// # Errors
    ///
    /// Where there is no administration, or no answer.
    pub fn metrics(&self) -> Result<String> {
        let admin = self.admin()?;
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // It answers to its own name alone.
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
        let answer = Answer::read(stream)?;
        ensure!(answer.status == 200, "no metrics: {answer:?}");
        Ok(String::from_utf8(answer.body)?)
    }

    /// Sends the process a signal, such as `TERM`.
    ///
    /// # Errors
    ///
    /// Where that is not possible.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status()?;
        ensure!(status.success(), "kill failed");
        Ok(())
    }

    /// Waits for the process to end and returns its exit code.
    ///
    /// # Errors
    ///
    /// Where a signal ended it.
    pub fn wait(mut self) -> Result<i32> {
        self.child.wait()?.code().context("ended by a signal")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a request's head; one without a length is followed by no body or by one of the caller's making.
///
/// # Errors
///
/// Where the connection is closed.
pub fn write_head(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    length: Option<usize>,
) -> Result<()> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(length) = length {
        head += &format!("Content-Length: {length}\r\n");
    }
    Ok(stream.write_all(format!("{head}\r\n").as_bytes())?)
}

/// Answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads an answer up to the connection's end.
    ///
    /// # Errors
    ///
    /// Where it is not HTTP.
    pub fn read(mut stream: TcpStream) -> Result<Self> {
        let mut bytes = Vec::new();
        // A server that refuses a body it did not read may reset the connection after its answer.
        let end = stream.read_to_end(&mut bytes);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(&bytes)? else {
            anyhow::bail!("half an answer: {:?} ({end:?})", String::from_utf8_lossy(&bytes));
        };
        let headers = response
            .headers
            .iter()
            .map(|header| Ok((header.name.to_lowercase(), String::from_utf8(header.value.to_vec())?)))
            .collect::<Result<_>>()?;
        Ok(Self { status: response.code.context("no status")?, headers, body: bytes[length..].to_vec() })
    }

    /// Returns a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body as JSON.
    ///
    /// # Errors
    ///
    /// Where it is none, or not said to be.
    pub fn json(&self) -> Result<Value> {
        ensure!(self.header("content-type") == Some("application/json"), "not JSON: {self:?}");
        Ok(serde_json::from_slice(&self.body)?)
    }
}
