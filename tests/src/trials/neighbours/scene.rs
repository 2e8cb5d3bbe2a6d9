//! The running server, as an adversary sees it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::setup::Setup;
use crate::{Client, Server, hostile_components::NAME};

/// The server, and the word to stop.
pub(super) struct Scene<'a> {
    pub(super) setup: &'a Setup,
    pub(super) server: &'a Server,
    pub(super) over: &'a AtomicBool,
}

/// Pause of a client after a refusal or a lost connection. Without one, many clients would take the
/// processors that the server shares with them.
const AFTER_REFUSAL: Duration = Duration::from_millis(20);

/// Longest wait for an answer of the administration.
const PATIENCE: Duration = Duration::from_secs(40);

impl Scene<'_> {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Sleeps for so long, or until it is over.
    pub(super) fn pause(&self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time && !self.is_over() {
            thread::sleep(Duration::from_millis(5).min(time));
        }
    }

    /// Runs so many of them at once, and gathers the times that they return.
    pub(super) fn many(&self, count: usize, run: impl Fn(usize) -> Result<Vec<f64>> + Sync) -> Result<Vec<f64>> {
        let run = &run;
        thread::scope(|scope| {
            let all: Vec<_> = (0..count).map(|number| scope.spawn(move || run(number))).collect();
            let mut times = Vec::new();
            for one in all {
                times.extend(one.join().ok().context("one of the attackers panicked")??);
            }
            Ok(times)
        })
    }

    /// Returns a client of the tenant under this path.
    pub(super) fn client(&self, path: &str, key: &str) -> Client {
        Client::new(self.server.address(), key).under(path).within(Duration::from_secs(15))
    }

    /// Creates once. Returns the status and the time to the answer, in seconds; after a lost connection there is
    /// none, and a pause.
    ///
    /// # Errors
    ///
    /// An answer with another status than these, where there are any.
    pub(super) fn create_once(&self, client: &mut Client, statuses: &[u16]) -> Result<Option<(u16, f64)>> {
        let sent = Instant::now();
        // A connection that is lost is opened anew by the next request.
        let Ok(answer) = client.create(&format!("{{\"name\":\"{NAME}\"}}"), None) else {
            self.pause(AFTER_REFUSAL);
            return Ok(None);
        };
        let time = sent.elapsed().as_secs_f64();
        ensure!(statuses.is_empty() || statuses.contains(&answer.status), "the adversary got {answer:?}");
        Ok(Some((answer.status, time)))
    }

    /// Creates once with these headers in place of a key; the time to the answer, in seconds, and a pause after any but
    /// a 201.
    pub(super) fn post_once(&self, client: &mut Client, headers: &[(&str, &str)]) -> Option<f64> {
        let sent = Instant::now();
        let answer = client.post(headers, "{}").ok();
        let time = answer.as_ref().map(|_| sent.elapsed().as_secs_f64());
        if answer.is_none_or(|answer| answer.status != 201) {
            self.pause(AFTER_REFUSAL);
        }
        time
    }

    /// Has so many clients create until it is over, with a pause after each refusal; the times of their answers, in
    /// seconds.
    pub(super) fn create(&self, clients: usize, path: &str, key: &(dyn Fn() -> String + Sync)) -> Result<Vec<f64>> {
        self.many(clients, |_| {
            let (mut client, mut times) = (self.client(path, &key()), Vec::new());
            while !self.is_over() {
                let Some((status, time)) = self.create_once(&mut client, &[])? else { continue };
                times.push(time);
                if status != 201 {
                    self.pause(AFTER_REFUSAL);
                }
            }
            Ok(times)
        })
    }

    /// Sends this to the administration and returns the whole answer.
    ///
    /// # Errors
    ///
    /// Where none comes.
    pub(super) fn administration(&self, head: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.server.admin()?)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("no answer from the administration")?;
        Ok(answer)
    }

    /// Waits until no tenant is being loaded.
    ///
    /// # Errors
    ///
    /// Where the administration does not answer, or a tenant is still being loaded after a long time.
    pub(super) fn await_tenants(&self) -> Result<()> {
        let (host, start) = (self.server.admin()?, Instant::now());
        while self.administration(&format!("GET /tenants HTTP/1.1\r\nHost: {host}\r\n"))?.contains("is being loaded") {
            ensure!(start.elapsed() < PATIENCE, "tenants are still being loaded");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Writes the configuration with further sections and has the server load it; the time that takes, in seconds.
    ///
    /// # Errors
    ///
    /// Where no answer comes.
    pub(super) fn reload(&self, further: &str) -> Result<(f64, String)> {
        self.setup.configure(further)?;
        let (host, sent) = (self.server.admin()?, Instant::now());
        let answer =
            self.administration(&format!("POST /reload HTTP/1.1\r\nHost: {host}\r\nx-workspaces-admin: reload\r\n"))?;
        Ok((sent.elapsed().as_secs_f64(), answer))
    }
}
