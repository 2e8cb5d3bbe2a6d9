//! Clients without a credential that is known.

use std::{iter, time::Duration};

use anyhow::Result;
use tokio::{net::TcpSocket, task::JoinSet, time::sleep};

use super::{
    super::slow_clients::{self, Manner},
    Adversary, Scene, Setup,
    database::Locked,
};

/// Strangers at once.
const STRANGERS: usize = 256;

/// Limit of the connections where strangers take all of them.
pub(super) const CONNECTIONS: usize = 300;

/// Returns an API key as it should be written, that nobody was given.
pub(super) fn made_up_key() -> String {
    format!("recoup_sk_{}", iter::repeat_with(fastrand::alphanumeric).take(43).collect::<String>())
}

pub(super) fn all() -> Vec<Box<dyn Adversary>> {
    let slow = |name, manner| -> Box<dyn Adversary> { Box::new(Slow { name, manner, tls: false }) };
    vec![
        Box::new(MadeUpKeys { strangers: STRANGERS, most: None }),
        Box::new(MadeUpKeys { strangers: CONNECTIONS, most: Some(CONNECTIONS) }),
        slow("that say nothing", Manner::Silent),
        slow("that send a head byte by byte", Manner::Head),
        slow("that send a body byte by byte", Manner::Body),
        slow("that read nothing", Manner::Deaf),
        Box::new(Slow { name: "with half a TLS handshake", manner: Manner::Hello, tls: true }),
    ]
}

/// Clients with keys that they made up, at a tenant with a locked database.
struct MadeUpKeys {
    strangers: usize,
    /// Limit of the connections.
    most: Option<usize>,
}

impl Adversary for MadeUpKeys {
    fn name(&self) -> String {
        let most = self.most.map(|most| format!(", of at most {most} connections")).unwrap_or_default();
        format!("stranger: {} made-up keys at a locked database{most}", self.strangers)
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        setup.tenant("locked", "")?;
        if let Some(most) = self.most {
            setup.arguments.extend(["--max-connections".into(), most.to_string()]);
        }
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        let _lock = Locked::lock(scene.setup)?;
        scene.create(self.strangers, "/locked", &made_up_key)
    }
}

/// Clients that hold their connections and send or read next to nothing.
struct Slow {
    name: &'static str,
    manner: Manner,
    tls: bool,
}

/// Pause before a connection is opened anew.
const BETWEEN: Duration = Duration::from_millis(50);

impl Adversary for Slow {
    fn name(&self) -> String {
        format!("stranger: {STRANGERS} {}", self.name)
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        if self.tls {
            setup.speak_tls()?;
        }
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        let (address, manner) = (scene.server.address(), self.manner);
        let head = slow_clients::head("/healthy", &made_up_key());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut clients = JoinSet::new();
            for _ in 0..STRANGERS {
                let head = head.clone();
                clients.spawn(async move {
                    loop {
                        let socket = TcpSocket::new_v4()?;
                        socket.set_recv_buffer_size(slow_clients::UNREAD)?;
                        if let Ok(stream) = socket.connect(address).await {
                            slow_clients::keep(stream, manner, &head).await;
                        }
                        sleep(BETWEEN).await;
                    }
                    #[allow(unreachable_code, reason = "names the type of the errors")]
                    anyhow::Ok(())
                });
            }
            while !scene.is_over() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        Ok(Vec::new())
    }
}
