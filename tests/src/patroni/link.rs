//! TCP links that can be cut: then bytes are lost without an error, as in a network that was split.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// Interval at which connections of a cut link look whether it was mended.
const INTERVAL: Duration = Duration::from_millis(50);

/// Relay of connections to one address.
pub(super) struct Link {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    ended: AtomicBool,
}

impl Link {
    /// Opens a link to `target` on a free port of this address.
    pub(super) fn open(address: IpAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let link = Self { address: listener.local_addr()?, state: Arc::default() };
        let state = link.state.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if state.ended.load(Relaxed) {
                    break;
                }
                if let Ok(client) = client {
                    let state = state.clone();
                    thread::spawn(move || relay(&client, target, &state));
                }
            }
        });
        Ok(link)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loses all bytes from now on. Connections stay open, and new ones are accepted.
    pub(super) fn cut(&self) {
        self.state.cut.store(true, Relaxed);
    }

    /// Carries bytes again, on connections that lost none.
    pub(super) fn mend(&self) {
        self.state.cut.store(false, Relaxed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.mend();
        self.state.ended.store(true, Relaxed);
        let _ = TcpStream::connect(self.address); // ends the wait for the next connection
    }
}

/// Carries the bytes of a connection in both directions until it ends.
fn relay(client: &TcpStream, target: SocketAddr, state: &State) {
    if state.cut.load(Relaxed) {
        return await_mended(state);
    }
    let Ok(server) = TcpStream::connect(target) else { return };
    thread::scope(|scope| {
        scope.spawn(|| carry(client, &server, state));
        carry(&server, client, state);
    });
}

/// Carries bytes in one direction, and closes the connection when it ends or has lost some.
fn carry(mut from: &TcpStream, mut to: &TcpStream, state: &State) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if state.cut.load(Relaxed) {
            await_mended(state);
            break;
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn await_mended(state: &State) {
    while state.cut.load(Relaxed) {
        thread::sleep(INTERVAL);
    }
}
