//! Local users and web pages at the administration's address.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{Adversary, Scene, Setup};

/// Connections that are held open, more than the administration takes.
const HELD: usize = 100;

/// Pause between two requests, or before closed connections are opened anew.
const BETWEEN: Duration = Duration::from_millis(20);

pub(super) fn all() -> Vec<Box<dyn Adversary>> {
    vec![Box::new(Foreign), Box::new(Held)]
}

/// Requests of a web page whose name resolves to this machine.
struct Foreign;

impl Adversary for Foreign {
    fn name(&self) -> String {
        "administration: foreign Host and Origin".into()
    }

    fn prepare(&mut self, _: &mut Setup) -> Result<()> {
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        let own = scene.server.admin()?;
        let mut times = Vec::new();
        for request in ["GET /tenants", "GET /metrics", "POST /reload"].iter().cycle() {
            for headers in ["Host: evil.example\r\n".into(), format!("Host: {own}\r\nOrigin: http://evil.example\r\n")]
            {
                let sent = Instant::now();
                let head = format!("{request} HTTP/1.1\r\n{headers}x-workspaces-admin: reload\r\n");
                let answer = scene.administration(&head)?;
                times.push(sent.elapsed().as_secs_f64());
                let status = answer.lines().next().unwrap_or_default();
                ensure!(status.starts_with("HTTP/1.1 4"), "{request} with {headers:?} gets {status:?}");
            }
            if scene.is_over() {
                break;
            }
            scene.pause(BETWEEN);
        }
        Ok(times)
    }
}

/// Connections that say nothing.
struct Held;

impl Adversary for Held {
    fn name(&self) -> String {
        format!("administration: {HELD} connections held open")
    }

    fn prepare(&mut self, _: &mut Setup) -> Result<()> {
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        let address = scene.server.admin()?;
        scene.many(HELD, |_| {
            while !scene.is_over() {
                if let Ok(stream) = TcpStream::connect(address) {
                    stream.set_read_timeout(Some(BETWEEN))?;
                    // Until the server closes it.
                    while !scene.is_over() && !matches!(std::io::Read::read(&mut &stream, &mut [0; 64]), Ok(0)) {}
                }
                scene.pause(BETWEEN);
            }
            Ok(Vec::new())
        })
    }
}
