//! Identity providers whose keys don't come.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{Adversary, Scene, Setup, setup::section};

/// Tenants with such a provider, and clients of each.
const TENANTS: usize = 4;
const CLIENTS: usize = 8;

/// Pause between two reloads.
const BETWEEN: Duration = Duration::from_millis(500);

/// A token in the right form: ES256, key `k`, with all claims; its signature is made up.
const TOKEN: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.\
    eyJpc3MiOiJpc3N1ZXIiLCJhdWQiOiJhdWRpZW5jZSIsInN1YiI6InMiLCJleHAiOjQxMDI0NDQ4MDAsIm5iZiI6MX0.\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[derive(Clone, Copy)]
enum Manner {
    /// Accepts, and never answers.
    Hangs,
    /// Answers a byte at a time.
    Drips,
    /// Answers with 10 MB.
    Floods,
}

pub(super) fn all() -> Vec<Box<dyn Adversary>> {
    let new = |name, manner| -> Box<dyn Adversary> { Box::new(Identity { name, manner, provider: None }) };
    vec![
        new("never answers", Manner::Hangs),
        new("answers slowly", Manner::Drips),
        new("answers 10 MB", Manner::Floods),
    ]
}

struct Identity {
    name: &'static str,
    manner: Manner,
    provider: Option<Provider>,
}

impl Identity {
    /// Sections of the tenants; another audience makes them tenants that are loaded anew.
    fn sections(&self, name: &str, audience: &str) -> Result<String> {
        let address = self.provider.as_ref().context("not prepared")?.address;
        let jwt =
            format!("jwt = {{ keys = \"http://{address}/jwks\", issuer = \"issuer\", audience = \"{audience}\" }}");
        Ok((0..TENANTS).map(|number| section(&format!("{name}-{number}"), &jwt)).collect())
    }
}

impl Adversary for Identity {
    fn name(&self) -> String {
        format!("identity: {TENANTS} tenants with a provider that {}", self.name)
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        self.provider = Some(Provider::start(self.manner)?);
        setup.sections += &self.sections("identity", "audience")?;
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        let bearer = format!("Bearer {TOKEN}");
        thread::scope(|scope| {
            let reloads = scope.spawn(|| -> Result<()> {
                for number in 0_u32.. {
                    scene.reload(&self.sections("reloaded", &format!("audience-{number}"))?)?;
                    if scene.is_over() {
                        break;
                    }
                    scene.pause(BETWEEN);
                }
                scene.reload("").map(drop)
            });
            let times = scene.many(TENANTS * CLIENTS, |number| {
                let (mut client, mut times) = (scene.client(&format!("/identity-{}", number % TENANTS), ""), vec![]);
                while !scene.is_over() {
                    times.extend(scene.post_once(&mut client, &[("authorization", &bearer)]));
                }
                Ok(times)
            });
            reloads.join().ok().context("the reloads panicked")??;
            times
        })
    }
}

/// A server that answers each request in its manner, until it is dropped.
struct Provider {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Provider {
    fn start(manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let provider = Self { address: listener.local_addr()?, ended: Arc::default() };
        let ended = provider.ended.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten().take_while(|_| !ended.load(Relaxed)) {
                let ended = ended.clone();
                thread::spawn(move || answer(stream, manner, &ended));
            }
        });
        Ok(provider)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        // It looks when the next connection comes.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers a request, until the client has closed.
fn answer(mut stream: TcpStream, manner: Manner, ended: &AtomicBool) -> Option<()> {
    const LENGTH: usize = 10_000_000;
    let pause = Duration::from_millis(100);
    let _ = stream.read(&mut [0; 4096]);
    match manner {
        Manner::Hangs => {
            stream.set_read_timeout(Some(pause)).ok()?;
            while !ended.load(Relaxed) && !matches!(stream.read(&mut [0; 64]), Ok(0)) {}
            return Some(());
        }
        Manner::Drips | Manner::Floods => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
            write!(stream, "{head} {LENGTH}\r\n\r\n{{\"keys\":[").ok()?;
        }
    }
    let (piece, pause) = match manner {
        Manner::Floods => ([b' '; 64 << 10].as_slice(), Duration::ZERO),
        _ => ([b' '].as_slice(), pause),
    };
    for _ in 0..LENGTH / piece.len() {
        if ended.load(Relaxed) {
            break;
        }
        stream.write_all(piece).ok()?;
        thread::sleep(pause);
    }
    Some(())
}
