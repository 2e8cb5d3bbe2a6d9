pub(super) mod admin;
mod components;
pub(super) mod config;
mod demo;
pub(super) mod guard;
mod load;
pub(super) mod plan;
mod reload;
mod started;

use std::{
    collections::HashSet,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    time::sleep,
};
use uuid::Uuid;

use self::{
    admin::{Admin, AdminListener},
    demo::Demo,
    guard::{Guard, Token},
    load::Loader,
    plan::{Compiler, DatabasePlan, Plan, TenantPlan, TokenPlan},
    reload::{Reloader, Stamps},
    started::Addresses,
};
use super::{
    AddressArguments, DatabaseAddress,
    admin_address::AdminAddress,
    log::LogArguments,
    parse::{Unrepeated, socket_address},
    pepper::PepperArguments,
    terminal::Lines,
    tls::{self, TlsArguments},
};
use crate::{
    Share,
    auth::{
        api_key::generate,
        jwt::{self, KeySource},
    },
    files,
    gateway::{Gateway, Tenant},
    http::{self, server, tls::Tls},
    metrics::Metrics,
    runtime::{Limits, Pool, Sandboxes},
    storage::{Quota, postgres, sqlite},
};

/// Serve POST /api/workspaces
#[derive(Args)]
pub(super) struct Serve {
    /// Serve the tenants of this file; the options below, but for addresses, connections and the log, are for one tenant without a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["demo", "component"])]
    config: Option<PathBuf>,
    /// The address to listen at, by default 127.0.0.1:8080; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", value_parser = socket_address)]
    listen: Option<SocketAddr>,
    /// The address of the administration (metrics, tenants, reload), or a socket as unix:PATH; by default none; keep it
    /// from strangers
    #[arg(long, env = "WORKSPACES_ADMIN", hide_env_values = true, value_name = "ADDRESS")]
    admin: Option<AdminAddress>,
    /// A file with a token that each request to the administration has to bring
    #[arg(long, env = "WORKSPACES_ADMIN_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// A host name under which the administration is used, beside its address; may be given again
    #[arg(long, value_name = "NAME")]
    admin_host: Vec<String>,
    /// Maximum of client connections open at once, by default 2048; fewer where the system allows fewer files
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Serve a throw-away database in memory, with an organization, two accounts and their keys, and print a curl line to paste
    #[arg(long)]
    demo: bool,
    /// The component to run in place of the one built in
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// The organization whose members may create workspaces for any account
    #[arg(long, env = "WORKSPACES_ADMIN_ORGANIZATION", hide_env_values = true, value_name = "UUID")]
    admin_organization: Option<Uuid>,
    #[command(flatten)]
    log: LogArguments,
    #[command(flatten)]
    database: AddressArguments,
    /// SQLite: how many creates may share one commit, and so one sync of the disk
    #[arg(long, value_name = "CREATES", default_value_t = sqlite::Options::default().batch)]
    group_commit: usize,
    /// PostgreSQL: how many connections to hold at most
    #[arg(long, value_name = "N", default_value_t = postgres::Options::default().connections)]
    connections: usize,
    #[command(flatten)]
    pepper: PepperArguments,
    #[command(flatten)]
    tokens: Option<TokenArguments>,
    #[command(flatten)]
    tls: Option<TlsArguments>,
    /// The demo's own, made once.
    #[arg(skip)]
    demo_pepper: OnceLock<String>,
}

/// Bearer tokens of an identity provider.
#[derive(Args)]
#[group(requires_all = ["jwt_keys", "jwt_issuer", "jwt_audience"])]
struct TokenArguments {
    /// Take JWTs that these keys signed: a PEM file with a public key, a JWKS file, or a JWKS address (https://…)
    #[arg(long, env = "WORKSPACES_JWT_KEYS", hide_env_values = true, value_name = "FILE|URL", required = false, value_parser = Unrepeated(key_source))]
    jwt_keys: KeySource,
    /// The `iss` that a JWT has to have
    #[arg(long, env = "WORKSPACES_JWT_ISSUER", hide_env_values = true, value_name = "ISSUER", required = false)]
    jwt_issuer: String,
    /// The `aud` that a JWT has to have
    #[arg(long, env = "WORKSPACES_JWT_AUDIENCE", hide_env_values = true, value_name = "AUDIENCE", required = false)]
    jwt_audience: String,
    /// The claim of a JWT that holds the caller's account
    #[arg(long, env = "WORKSPACES_JWT_ACCOUNT_CLAIM", hide_env_values = true, value_name = "CLAIM", default_value = jwt::ACCOUNT_CLAIM)]
    jwt_account_claim: String,
    /// Maximum age of keys from an address while they can't be fetched again, 1s at least; then tokens get 503
    #[arg(long, env = "WORKSPACES_JWT_KEYS_MAX_AGE", hide_env_values = true, value_name = "TIME", default_value = "1h", value_parser = keys_max_age)]
    jwt_keys_max_age: Duration,
    /// Make an account for the subject of a JWT that has none, the first time that it comes
    #[arg(long, env = "WORKSPACES_JWT_CREATE_ACCOUNTS", hide_env_values = true)]
    jwt_create_accounts: bool,
}

/// Reads the maximum age of keys.
fn keys_max_age(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(age) if age >= jwt::MIN_KEYS_AGE => Ok(age),
        Ok(_) => Err(format!("give {:?} at least", jwt::MIN_KEYS_AGE)),
        Err(error) => Err(format!("{error}: a time is written as \"90s\" or \"1h\"")),
    }
}

/// Reads the place of the keys; an address may hold a password.
fn key_source(text: &str) -> Result<KeySource, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// Name of the one tenant that options describe.
const ONLY: &str = "default";

/// Default address for clients.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

impl Serve {
    pub(super) async fn run(self) -> Result<()> {
        let metrics = Metrics::default();
        let _log = self.log.install(&metrics)?;
        let (shutdown, hangup) = (shutdown()?, signal(SignalKind::hangup())?);
        let (mut shutdown, serve) = (pin!(shutdown), Arc::new(self));
        let reader = serve.clone();
        let prepared = tokio::select! {
            prepared = files::unblocked(move || reader.prepare()) => prepared??,
            () = &mut shutdown => return Ok(()),
        };
        let Prepared { plan, tls, token, read } = prepared;
        // Before the databases are opened, which take some.
        let files = open_files();

        let listener = bind(serve.listen.or(plan.listen).unwrap_or(LISTEN), "--listen").await?;
        let admin = match serve.admin.as_ref().or(plan.admin.as_ref()) {
            Some(address) => Some(AdminListener::bind(address).await?),
            None => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut addresses = Addresses::new(format!("{scheme}://{}", listener.local_addr()?))?;
        let tenants: Vec<_> = plan.tenants.iter().map(TenantPlan::loading).collect();
        let gateway = Arc::new(Gateway::new(tenants.clone())?);
        let sandboxes = Sandboxes::new(plan.pool.clone())?;

        let (reload, waiters) = mpsc::channel(1);
        if let Some(admin) = admin {
            addresses.admin = Some(admin.url()?);
            let hosts = serve.admin_host.iter().chain(&plan.admin_hosts).cloned().collect();
            let guard = Guard { address: admin.address(), hosts, token };
            let routes =
                Admin { gateway: gateway.clone(), sandboxes: sandboxes.clone(), metrics: metrics.clone(), reload };
            tokio::spawn(admin.serve(routes.routes(guard)));
        }
        let most = serve.max_connections.or(plan.max_connections).unwrap_or(server::CONNECTIONS);
        let databases: HashSet<_> = plan.tenants.iter().map(|tenant| &tenant.database).collect();
        let reserved = databases.iter().map(|database| database.files()).fold(RESERVED_FILES, usize::saturating_add);
        // Where files are few, half of them are for clients all the same.
        let most = most.min(files.saturating_sub(reserved.min(files / 2))).max(1);

        let routes = http::gateway(gateway.clone());
        let serving = async {
            match &tls {
                Some(tls) => server::serve_tls(listener, tls, routes, most, shutdown).await,
                None => server::serve(listener, routes, most, shutdown).await,
            }
        };
        let mut serving = pin!(serving);
        let mut loader = Loader::new(sandboxes.clone(), metrics, plan.compiler);
        let start = serve.start(&mut loader, &sandboxes, &plan, &tenants, &addresses);
        let finished = tokio::select! {
            finished = &mut serving => finished,
            started = start => {
                started?;
                tokio::spawn(Reloader { serve, started: plan.clone(), plan, read, loader, gateway, tls: tls.clone() }.run(hangup, waiters));
                serving.await
            }
        };
        match finished {
            true => tracing::info!("stopped"),
            false => tracing::warn!(after = ?server::DRAIN, "stopped with requests in progress"),
        }
        Ok(())
    }

    /// Reads all files but the components, and blocks its thread for that.
    fn prepare(&self) -> Result<Prepared> {
        let plan = self.plan()?;
        let tls = match (&self.tls, &plan.tls) {
            (Some(arguments), _) => Some(arguments.read()?),
            (None, Some((certificate, key))) => Some(tls::read(certificate.clone(), key.clone())?),
            (None, None) => None,
        };
        let token = self.admin_token_file.as_ref().or(plan.admin_token_file.as_ref());
        let token = token.map(|file| Token::read(file)).transpose()?;
        let read = reload::stamps(self.config.as_deref(), &plan);
        Ok(Prepared { plan, tls, token, read })
    }

    /// Loads the tenants, while those that are there already serve, and prints the addresses: when all are there or
    /// have failed, or after [`ANNOUNCE`] if at least one serves.
    ///
    /// # Errors
    ///
    /// The reasons, if all failed.
    async fn start(
        &self,
        loader: &mut Loader,
        sandboxes: &Sandboxes,
        plan: &Plan,
        tenants: &[Tenant],
        addresses: &Addresses,
    ) -> Result<()> {
        // It takes every sandbox for itself, and so comes before the first tenant.
        sandboxes.self_check().await?;
        let serves = Notify::new();
        let is_one_of_many = tenants.len() > 1;
        let mut announced = false;
        let reports = {
            let mut load = pin!(loader.load(&plan.tenants, |number, made| {
                let tenant = &tenants[number];
                match made {
                    Ok(_) => serves.notify_one(),
                    Err(reason) if is_one_of_many => {
                        tracing::error!(tenant = tenant.name(), reason, "not loaded: it gets 503");
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
                    addresses.announce(plan, tenants);
                    announced = true;
                    load.await.1
                }
            }
        };
        let failed: Vec<_> =
            reports.iter().filter_map(|report| Some((&report.tenant, report.reason.as_ref()?))).collect();
        match failed.as_slice() {
            [(_, reason)] if reports.len() == 1 => bail!("{reason}"),
            failed => {
                let reasons = failed.iter().map(|(tenant, reason)| format!("  {tenant}: {reason}"));
                let lines = || Lines(std::iter::once("no tenant could be loaded:".to_owned()).chain(reasons).collect());
                ensure!(failed.len() < reports.len(), lines());
            }
        }
        let demo = match self.demo {
            true => {
                let (database, pepper) = (loader.database(ONLY).context("no database")?, &plan.tenants[0].pepper);
                Some(Demo::set_up(&*database, pepper).await?)
            }
            false => None,
        };
        if !announced {
            addresses.announce(plan, tenants);
        }
        if let Some(demo) = demo {
            addresses.print(&demo.lines(&addresses.clients));
        }
        Ok(())
    }

    /// Reads the plan, from the file as it is now or from the options.
    fn plan(&self) -> Result<Plan> {
        match &self.config {
            Some(file) => config::read(file),
            None => Ok(Plan {
                listen: None,
                admin: None,
                admin_token_file: None,
                admin_hosts: Vec::new(),
                tls: None,
                max_connections: None,
                watch: false,
                pool: Pool::default(),
                compiler: Compiler::default(),
                tenants: vec![self.only_tenant()?],
            }),
        }
    }

    fn only_tenant(&self) -> Result<TenantPlan> {
        let (address, pepper) = match self.demo {
            true => {
                let random = generate().context("no random bytes")?;
                (DatabaseAddress::Memory, self.demo_pepper.get_or_init(|| random).clone())
            }
            false => (self.database.database.clone(), self.pepper.secret()?),
        };
        let tokens = self.tokens.as_ref().map(|tokens| {
            let TokenArguments { jwt_keys, jwt_issuer, jwt_audience, jwt_account_claim, .. } = tokens;
            let options = jwt::Options {
                account_claim: jwt_account_claim.clone(),
                keys_max_age: tokens.jwt_keys_max_age,
                create_accounts: tokens.jwt_create_accounts,
                ..jwt::Options::new(jwt_issuer, jwt_audience)
            };
            TokenPlan::new(jwt_keys.clone(), options)
        });
        Ok(TenantPlan {
            name: ONLY.into(),
            hosts: Vec::new(),
            path: String::new(),
            component: self.component.clone(),
            database: DatabasePlan::new(address, self.group_commit.max(1), self.connections.max(1), ONLY),
            pepper,
            administrators: self.admin_organization,
            tokens,
            limits: Limits::default(),
            share: Share::default(),
            quota: Quota::default(),
        })
    }
}

/// Content of the files that are read before anything listens.
struct Prepared {
    plan: Plan,
    tls: Option<Arc<Tls>>,
    /// The administration's.
    token: Option<Token>,
    /// The files as they were before.
    read: Stamps,
}

/// Longest time for which the server waits for tenants that are still being loaded before it prints its addresses.
const ANNOUNCE: Duration = Duration::from_millis(750);

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

/// Ready at the first SIGINT or SIGTERM. The handlers stand from here on.
fn shutdown() -> Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
