//! Addresses that the server listens at: of TCP, or a Unix socket's path.

use std::{
    fmt, fs,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{
        fs::FileTypeExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};

/// Reads an address to listen at. The host `localhost`, or none, is 127.0.0.1.
pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let explained = || "an address is HOST:PORT, such as 127.0.0.1:8080, localhost:8080, :8080 or [::]:8080".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(explained)?;
    let host = if matches!(host, "" | "localhost") { "127.0.0.1" } else { host };
    format!("{host}:{port}").parse().map_err(|_| explained())
}

/// Address that the administration listens at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AdminAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for AdminAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => Err(SPELLING),
            Some(path) => Ok(Self::Unix(path.into())),
            None => socket_address(text).map(Self::Tcp).map_err(|_| SPELLING),
        }
    }
}

/// Spelling of an address.
const SPELLING: &str = "an address such as 127.0.0.1:9090, or a socket such as unix:/run/workspaces/admin.sock";

impl fmt::Display for AdminAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// A connection of either kind.
pub(crate) trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl AdminAddress {
    /// Connects to a server.
    ///
    /// # Errors
    ///
    /// Nobody who answers.
    pub(crate) fn connect(&self, timeout: Duration) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(timeout))?;
                Box::new(stream)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(timeout))?;
                Box::new(stream)
            }
        })
    }
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Listens at a Unix socket that only this user may connect to. Replaces a socket that nobody answers at, which a
/// server leaves behind that was killed, and nothing else.
///
/// # Errors
///
/// The reason, with the path.
pub(crate) fn listen_at(path: &Path) -> Result<UnixListener> {
    let name = path.display();
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => bail!("{name} is there and no socket: choose another path"),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                fs::remove_file(path).with_context(|| format!("can't replace {name}"))?;
            }
            _ => bail!("another server answers at {name}: choose another path with --admin"),
        },
        Err(_) => {}
    }
    let bound = || -> rustix::io::Result<UnixListener> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Before it has a name: there is no moment at which others may connect.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, BACKLOG)?;
        Ok(socket.into())
    };
    bound().with_context(|| format!("can't listen at {name}: choose another path with --admin"))
}
