//! Connections: how the server is reached, and what is set on a session.

use std::{
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use deadpool_postgres::{Connect, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{
    Client, Config, Error, Row,
    config::TargetSessionAttrs,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    DatabaseError,
    failure::{Failure, describe},
};
use crate::{
    files::{self, Limit},
    tls,
};

/// Maximum size of a file of authorities; a system's list has a quarter of it.
const AUTHORITIES_FILE: Limit = Limit::fixed(1 << 20);

/// How long a statement may run, and how long it may wait for a lock: far above what one takes, and
/// below the patience of a request.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a transaction may be left open: none is, unless this process hangs.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server has to open a session, where the address has no `connect_timeout` of its own,
/// and to acknowledge what was sent, before it is taken for dead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a request waits for one of the connections.
const POOL_TIMEOUT: Duration = Duration::from_secs(2);

/// A parameter, and its type: named, so that no round trip is spent on asking for it.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Reads an address as libpq writes it. `sslrootcert` names a file of the authorities to trust in
/// place of the system's; a server's certificate and name are always verified, whichever of
/// `require`, `verify-ca` and `verify-full` is asked for.
///
/// Gives a configuration a host, each with all else that the address says.
pub(super) fn parse(address: &str) -> Result<(Vec<Config>, MakeRustlsConnect), DatabaseError> {
    let unusable = |text: String| DatabaseError::Unusable(format!("the database address can't be used: {text}"));
    let (base, query) = address.split_once('?').unwrap_or((address, ""));
    let (mut kept, mut authorities) = (Vec::new(), None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslrootcert", file)) => authorities = Some(file.to_owned()),
            Some(("sslmode", "verify-ca" | "verify-full")) => kept.push("sslmode=require"),
            _ => kept.push(pair),
        }
    }
    let separator = if kept.is_empty() { "" } else { "?" };
    let query = format!("{separator}{}", kept.join("&"));
    let mut configs = each_host(base)
        .map(|base| Config::from_str(&format!("{base}{query}")))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(describe(&error)))?;
    configs.iter_mut().for_each(complete);

    let trusted = match authorities {
        None => tls::system_authorities(),
        Some(file) => {
            let pem = files::read(file.as_ref(), AUTHORITIES_FILE)
                .map_err(|error| unusable(format!("sslrootcert {file}: {error}")))?;
            let certificates = CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| unusable(format!("sslrootcert {file}: {error}")))?;
            let mut trusted = RootCertStore::empty();
            if trusted.add_parsable_certificates(certificates).0 == 0 {
                return Err(unusable(format!("sslrootcert {file} holds no certificate")));
            }
            trusted
        }
    };
    let tls = tls::client(trusted).map_err(|error| unusable(error.to_string()))?;
    Ok((configs, MakeRustlsConnect::new(tls)))
}

/// The address of each host that one of several names: `postgres://USER@ONE,OTHER`.
fn each_host(address: &str) -> impl Iterator<Item = String> {
    let (scheme, rest) = address.split_once("://").unwrap_or((address, ""));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    hosts.split(',').map(move |host| format!("{scheme}://{user}{host}{path}"))
}

/// Sets what an address leaves open.
fn complete(config: &mut Config) {
    if config.get_target_session_attrs() == TargetSessionAttrs::Any {
        // Of several hosts, the one that takes writes.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    config.tcp_user_timeout(UNACKNOWLEDGED_TIMEOUT);
    if config.get_application_name().is_none() {
        config.application_name("workspaces");
    }
}

/// How long there is until there is a session: the time of one host, or of each that `host=` lists,
/// which are tried as one.
fn patience(config: &Config) -> Duration {
    let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(u32::MAX);
    config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT).saturating_mul(hosts.max(1))
}

/// The connections of this process to one database. Clones share them.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool,
    pooler: Arc<AtomicBool>,
}

impl Connections {
    pub(super) fn new(address: &str, most: usize) -> Result<Self, DatabaseError> {
        let (configs, tls) = parse(address)?;
        let patience = configs.iter().map(patience).sum();
        let pooler = Arc::new(AtomicBool::new(false));
        let connector = Connector { configs, tls, pooler: pooler.clone() };
        // The manager hands its configuration back to the connector, which has its own.
        let options = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(Config::new(), connector, options);
        let pool = Pool::builder(manager)
            .max_size(most)
            .timeouts(Timeouts { wait: Some(POOL_TIMEOUT), create: Some(patience), recycle: Some(POOL_TIMEOUT) })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| DatabaseError::Unusable(error.to_string()))?;
        Ok(Self { pool, pooler })
    }

    /// A connection for statements that belong together.
    pub(super) async fn client(&self) -> Result<Object, Failure> {
        Ok(self.pool.get().await?)
    }

    /// Runs one statement in one round trip: prepared once a session, or, where a pooler gives each
    /// transaction another session, parsed each time.
    pub(super) async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Failure> {
        let client = self.client().await?;
        let rows = async {
            if self.pooler.load(Relaxed) {
                return client.query_typed(sql, parameters).await;
            }
            let types: Vec<_> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
            let values: Vec<_> = parameters.iter().map(|(value, _)| *value).collect();
            let statement = client.prepare_typed_cached(sql, &types).await?;
            client.query(&statement, &values).await
        };
        let failure = match timeout(STATEMENT_TIMEOUT + LOCK_TIMEOUT, rows).await {
            Ok(Ok(rows)) => return Ok(rows),
            Ok(Err(error)) => {
                if Failure::is_from_a_pooler(&error) {
                    self.pooler.store(true, Relaxed);
                }
                Failure::of(&error)
            }
            Err(_) => Failure::Lost("no answer in time".into()),
        };
        if failure.ends_session() {
            // Those that lie idle are at the same host: the next statement looks for one that serves.
            drop(Object::take(client));
            self.pool.retain(|_, _| false);
        }
        Err(failure)
    }
}

/// Makes the pool's connections.
struct Connector {
    /// One a host.
    configs: Vec<Config>,
    tls: MakeRustlsConnect,
    /// Set where there is a pooler in between that gives each transaction another session.
    pooler: Arc<AtomicBool>,
}

/// A session, and the task that moves its bytes.
type Connected = (Client, JoinHandle<()>);
type Connecting<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Connected, Error>> + Send + 'a>>;

impl Connect for Connector {
    fn connect(&self, _: &Config) -> Connecting<'_> {
        Box::pin(async {
            let mut refusal = None;
            for config in &self.configs {
                match timeout(patience(config), self.connect_to(config)).await {
                    Ok(Ok(connected)) => return Ok(connected),
                    Ok(Err(error)) => refusal = Some(error),
                    // One that accepts and then hangs is no reason not to ask the next.
                    Err(_) => {}
                }
            }
            match refusal {
                Some(error) => Err(error),
                // None said anything: the pool's own patience is at its end too, and it has words for that.
                None => std::future::pending().await,
            }
        })
    }
}

impl Connector {
    async fn connect_to(&self, config: &Config) -> Result<Connected, Error> {
        if !self.pooler.load(Relaxed) {
            match self.connect_directly(config).await {
                Ok(Some(connected)) => return Ok(connected),
                Ok(None) => {}
                Err(error) if Failure::is_from_a_pooler(&error) => {}
                Err(error) => return Err(error),
            }
            if !self.pooler.swap(true, Relaxed) {
                tracing::warn!(
                    "there is a pooler before the database: statements are not prepared, and the time-outs are those of the role (ALTER ROLE … SET statement_timeout)"
                );
            }
        }
        open(config, self.tls.clone()).await
    }

    /// A session with the time-outs set; `None` where they do not arrive at the server.
    async fn connect_directly(&self, config: &Config) -> Result<Option<Connected>, Error> {
        let own = config.get_options().unwrap_or_default();
        let options = format!(
            "-c statement_timeout={} -c lock_timeout={} -c idle_in_transaction_session_timeout={} -c workspaces.direct=on {own}",
            STATEMENT_TIMEOUT.as_millis(),
            LOCK_TIMEOUT.as_millis(),
            IDLE_IN_TRANSACTION_TIMEOUT.as_millis(),
        );
        let (client, task) = open(config.clone().options(options), self.tls.clone()).await?;
        let row = client.query_typed_one("SELECT current_setting('workspaces.direct', true) = 'on'", &[]).await?;
        let arrived: Option<bool> = row.try_get(0)?;
        Ok((arrived == Some(true)).then_some((client, task)))
    }
}

async fn open(config: &Config, tls: MakeRustlsConnect) -> Result<Connected, Error> {
    let (client, connection) = config.connect(tls).await?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %describe(&error), "a connection to the database ended");
        }
    });
    Ok((client, task))
}
