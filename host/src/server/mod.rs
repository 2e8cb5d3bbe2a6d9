//! Server that `serve` runs: the configuration, the tenants with their components and databases, the administration.

pub(crate) mod address;
pub(crate) mod admin;
pub(crate) mod bundles;
pub(crate) mod cache;
pub(crate) mod check;
pub(crate) mod compiler;
mod components;
pub(crate) mod config;
pub(crate) mod config_file;
pub(crate) mod database;
mod demo;
pub(crate) mod guard;
pub(crate) mod image;
mod load;
pub(crate) mod pepper;
pub(crate) mod pin;
mod reload;
pub(crate) mod seal;
pub(crate) mod secret;
mod started;
mod verdict;

use std::{collections::HashSet, future::Future, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use listenfd::ListenFd;
use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    task::block_in_place,
    time::sleep,
};

use self::{
    admin::{Admin, AdminListener},
    bundles::BundleWriter,
    cache::Cache,
    config::Config,
    demo::Demo,
    guard::{Guard, Token},
    load::Loader,
    reload::{Reloader, Stamps},
    started::Addresses,
};
use crate::{
    files,
    http::{self, RouteOptions, limits, server, tls::Tls},
    metrics::Metrics,
    runtime::Sandboxes,
    tenants::{Tenant, Tenants},
    terminal::Lines,
};

/// Name of the tenant of a server without a configuration file.
pub(crate) const ONLY_TENANT: &str = "default";

/// Default address for clients.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

/// Source of the configuration.
pub(crate) struct Source {
    /// Configuration file, if there is one: it can be watched for changes.
    pub(crate) file: Option<PathBuf>,
    /// Function that reads the configuration, at the start and at each reload. It may block its thread.
    pub(crate) read: Box<dyn Fn() -> Result<Config> + Send + Sync>,
    /// Flag for a first try: accounts, keys and an organization are set up.
    pub(crate) demo: bool,
    /// Flag for scripts: the addresses, and what the demo has set up, are printed as JSON.
    pub(crate) json: bool,
}

/// Serves until the process gets SIGINT or SIGTERM.
///
/// # Errors
///
/// A configuration that can't be used, an address that can't be listened at, or no tenant that can be served.
pub(crate) async fn run(source: Source, metrics: Metrics) -> Result<()> {
    let (shutdown, hangup) = (shutdown()?, signal(SignalKind::hangup())?);
    let (mut shutdown, source) = (pin!(shutdown), Arc::new(source));
    let reader = source.clone();
    let prepared = tokio::select! {
        prepared = files::unblocked(move || prepare(&reader)) => prepared??,
        () = &mut shutdown => return Ok(()),
    };
    let Prepared { config, tls, token, read } = prepared;
    // Before the databases are opened, which take some.
    let files = open_files();

    let inherited = inherited()?;
    let is_inherited = inherited.is_some();
    let listener = match inherited {
        Some(listener) => listener,
        None => bind(config.listen.unwrap_or(LISTEN), "--listen").await?,
    };
    let admin = match &config.admin {
        Some(address) => Some(AdminListener::bind(address).await?),
        None => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut addresses = Addresses::new(format!("{scheme}://{}", listener.local_addr()?), source.json)?;
    let loading: Vec<_> = config.tenants.iter().map(|tenant| tenant.loading().metrics(&metrics)).collect();
    let tenants = Arc::new(Tenants::new(loading.clone())?);
    let sandboxes = Sandboxes::new(config.pool.clone())?;
    let cache = match config.cache.clone() {
        Some(cache) => {
            let engine = sandboxes.engine_name();
            Some(files::unblocked(move || Cache::open(&cache, engine)).await??)
        }
        None => None,
    };

    let (reload, waiters) = mpsc::channel(1);
    if let Some(admin) = admin {
        addresses.admin = Some(admin.url()?);
        let hosts = config.admin_hosts.clone();
        let guard = Guard { address: admin.address(), hosts, token };
        let routes = Admin { tenants: tenants.clone(), sandboxes: sandboxes.clone(), metrics: metrics.clone(), reload };
        tokio::spawn(admin.serve(routes.routes(guard)));
    }
    let most = config.max_connections.unwrap_or(limits::CONNECTIONS);
    let databases: HashSet<_> = config.tenants.iter().map(|tenant| &tenant.database).collect();
    let reserved = databases.iter().map(|database| database.files()).fold(RESERVED_FILES, usize::saturating_add);
    // Where files are few, half of them are for clients all the same.
    let most = most.min(files.saturating_sub(reserved.min(files / 2))).max(1);

    let routes = http::gateway(tenants.clone(), RouteOptions { docs: config.docs });
    let serving = async {
        // Connections wait in the queue of the service manager's socket until a tenant is loaded.
        if is_inherited {
            tokio::select! {
                () = addresses.announced.notified() => {}
                () = &mut shutdown => return true,
            }
        }
        match &tls {
            Some(tls) => server::serve_tls(listener, tls, routes, most, shutdown).await,
            None => server::serve(listener, routes, most, shutdown).await,
        }
    };
    let mut serving = pin!(serving);
    let bundles = BundleWriter::default();
    let mut loader = Loader::new(sandboxes.clone(), metrics, config.compiler, cache, bundles.clone());
    let start = start(source.demo, &mut loader, &sandboxes, &config, &loading, &addresses);
    let finished = tokio::select! {
        finished = &mut serving => finished,
        started = start => {
            started?;
            tokio::spawn(Reloader { source, started: config.clone(), config, read, loader, tenants, tls: tls.clone(), certificate_is_early: false }.run(hangup, waiters));
            serving.await
        }
    };
    block_in_place(|| bundles.flush());
    match finished {
        true => tracing::info!("stopped"),
        false => tracing::warn!(after = ?limits::DRAIN, "stopped with requests in progress"),
    }
    Ok(())
}

/// Reads the configuration and all files but the components. Blocks its thread.
fn prepare(source: &Source) -> Result<Prepared> {
    let config = (source.read)()?;
    let tls = config.tls.as_ref().map(|(certificate, key)| Tls::read(certificate.clone(), key.clone()));
    let tls = tls.transpose().context("can't serve TLS")?.map(Arc::new);
    let token = config.admin_token_file.as_ref().map(|file| Token::read(file)).transpose()?;
    let read = reload::stamps(source.file.as_deref(), &config);
    Ok(Prepared { config, tls, token, read })
}

/// Content of the files that are read before anything listens.
struct Prepared {
    config: Config,
    tls: Option<Arc<Tls>>,
    /// The administration's.
    token: Option<Token>,
    /// The files as they were before.
    read: Stamps,
}

/// Loads the tenants, while those that are there already serve, and prints the addresses: when all are there or
/// have failed, or after [`ANNOUNCE`] if at least one serves.
///
/// # Errors
///
/// The reasons, if all failed.
async fn start(
    demo: bool,
    loader: &mut Loader,
    sandboxes: &Sandboxes,
    config: &Config,
    tenants: &[Tenant],
    addresses: &Addresses,
) -> Result<()> {
    let is_built_in = config.tenants.iter().any(|tenant| tenant.component.is_none());
    let loading_built_in = is_built_in.then(|| tokio::spawn(loader.built_in()));
    // Before the first tenant. The built-in component is compiled meanwhile.
    sandboxes.self_check().await?;
    // The loader finds it as long as it is kept here, and compiles it again where that failed.
    let _built_in = match loading_built_in {
        Some(loading) => loading.await.ok(),
        None => None,
    };
    let serves = Notify::new();
    let is_one_of_many = tenants.len() > 1;
    let mut announced = false;
    let reports = {
        let mut load = pin!(loader.load(&config.tenants, |number, made| {
            let tenant = &tenants[number];
            match made {
                Ok(_) => serves.notify_one(),
                Err(reason) if is_one_of_many => {
                    tracing::error!(tenant = tenant.name(), reason, "tenant not loaded, its requests get 503");
                }
                Err(_) => {}
            }
            tenant.set_loaded(made.clone());
        }));
        let grace = async {
            sleep(ANNOUNCE).await;
            serves.notified().await;
        };
        tokio::select! {
            biased;
            (_, reports) = &mut load => reports,
            () = grace => {
                addresses.announce(config, tenants);
                announced = true;
                load.await.1
            }
        }
    };
    let failed: Vec<_> = reports.iter().filter_map(|report| Some((&report.tenant, report.reason.as_ref()?))).collect();
    match failed.as_slice() {
        [(_, reason)] if reports.len() == 1 => bail!("{reason}"),
        failed => {
            let reasons = failed.iter().map(|(tenant, reason)| format!("  {tenant}: {reason}"));
            let lines = || Lines(std::iter::once("no tenant could be loaded:".to_owned()).chain(reasons).collect());
            ensure!(failed.len() < reports.len(), lines());
        }
    }
    let demo = match demo {
        true => {
            let (database, pepper) = (loader.database(ONLY_TENANT).context("no database")?, &config.tenants[0].pepper);
            Some(Demo::set_up(&*database, pepper).await?)
        }
        false => None,
    };
    if !announced {
        addresses.announce(config, tenants);
    }
    if let Some(demo) = demo {
        addresses.print(&demo, |demo| demo.lines(&addresses.clients));
    }
    Ok(())
}

/// Longest time for which the server waits for tenants that are still being loaded before it prints its addresses.
const ANNOUNCE: Duration = Duration::from_millis(750);

/// Returns the socket that a service manager has opened for this process (`LISTEN_FDS` of sd_listen_fds(3)), if it has.
fn inherited() -> Result<Option<TcpListener>> {
    let take = || -> Result<_> {
        let Some(listener) = ListenFd::from_env().take_tcp_listener(0)? else { return Ok(None) };
        // The processes that compile components do not get it.
        fcntl_setfd(&listener, FdFlags::CLOEXEC)?;
        listener.set_nonblocking(true)?;
        Ok(Some(TcpListener::from_std(listener)?))
    };
    take().context(
        "can't listen at the socket of LISTEN_FDS: the first of them has to be a stream socket of TCP that listens",
    )
}

async fn bind(address: SocketAddr, option: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("can't listen at {address}: choose another with {option}"))
}

/// Files that are kept for other things than databases and clients' connections, such as the log.
const RESERVED_FILES: usize = 128;

/// Raises the limit of open files as far as it goes, and returns it.
fn open_files() -> usize {
    let asked = getrlimit(Resource::Nofile);
    // What is refused leaves the limit as it was, which is read again.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: asked.maximum, ..asked });
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

/// Installs the handlers of SIGINT and SIGTERM, and returns a future that is ready at the first of them.
fn shutdown() -> Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
