use std::{borrow::Cow, future::Future, io::IsTerminal as _, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};
use uuid::Uuid;

use super::{DatabaseArguments, PepperArguments, say};
use crate::{
    COMPONENT,
    auth::{
        Auth,
        api_key::{ApiKeys, Pepper, generate},
        jwt::{self, Jwt, KeySource},
    },
    http::{self, server},
    runtime::{Limits, Runtime},
    storage::{Database, NewKey, postgres, sqlite, sweep},
};

/// Serve POST /api/workspaces
#[derive(Args)]
pub(super) struct Serve {
    /// The address to listen at; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Serve a throw-away database in memory, with an organization, two accounts and their keys, and print a curl line to paste
    #[arg(long)]
    demo: bool,
    /// The component to run in place of the one built in
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// The organization whose members may create workspaces for any account
    #[arg(long, env = "WORKSPACES_ADMIN_ORGANIZATION", value_name = "UUID")]
    admin_organization: Option<Uuid>,
    /// What to log, such as debug or warn,workspaces_host=debug
    #[arg(long, env = "WORKSPACES_LOG", default_value = "info")]
    log: Targets,
    #[command(flatten)]
    database: DatabaseArguments,
    /// SQLite: how many creates may share one commit, and so one sync of the disk
    #[arg(long, value_name = "CREATES", default_value_t = sqlite::Options::default().batch)]
    group_commit: usize,
    /// How many connections of clients to hold open at most; fewer where the system allows fewer files
    #[arg(long, value_name = "N", default_value_t = server::CONNECTIONS)]
    max_connections: usize,
    /// PostgreSQL: how many connections to hold at most
    #[arg(long, value_name = "N", default_value_t = postgres::Options::default().connections)]
    connections: usize,
    #[command(flatten)]
    pepper: PepperArguments,
    #[command(flatten)]
    tokens: Option<TokenArguments>,
}

/// Which bearer tokens of an identity provider are taken.
#[derive(Args)]
#[group(requires_all = ["jwt_keys", "jwt_issuer", "jwt_audience"])]
struct TokenArguments {
    /// Take JWTs that these keys signed: a PEM file with a public key, a JWKS file, or a JWKS address (https://…)
    #[arg(long, env = "WORKSPACES_JWT_KEYS", value_name = "FILE|URL", required = false)]
    jwt_keys: KeySource,
    /// The `iss` that a JWT has to have
    #[arg(long, env = "WORKSPACES_JWT_ISSUER", value_name = "ISSUER", required = false)]
    jwt_issuer: String,
    /// The `aud` that a JWT has to have
    #[arg(long, env = "WORKSPACES_JWT_AUDIENCE", value_name = "AUDIENCE", required = false)]
    jwt_audience: String,
    /// The claim of a JWT that holds the caller's account
    #[arg(long, env = "WORKSPACES_JWT_ACCOUNT_CLAIM", value_name = "CLAIM", default_value = "sub")]
    jwt_account_claim: String,
}

impl TokenArguments {
    /// Takes the tokens that `rest` does not know.
    async fn auth(self, rest: Arc<dyn Auth>) -> Result<Arc<dyn Auth>> {
        let options = jwt::Options {
            issuer: self.jwt_issuer,
            audience: self.jwt_audience,
            account_claim: self.jwt_account_claim,
            leeway: jwt::MAX_LEEWAY,
        };
        Ok(Arc::new(Jwt::new(self.jwt_keys, options, rest).await?))
    }
}

impl Serve {
    pub(super) async fn run(self) -> Result<()> {
        let format =
            tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
        tracing_subscriber::registry().with(format).with(self.log.clone()).init();
        let shutdown = shutdown()?;

        let (database, pepper, demo): (Arc<dyn Database>, _, _) = if self.demo {
            let database = Arc::new(sqlite::Sqlite::in_memory()?);
            let pepper = generate().context("no random bytes")?;
            let demo = Demo::set_up(&*database, &pepper).await?;
            (database, pepper, Some(demo))
        } else {
            let pepper = self.pepper.secret()?.to_owned();
            let database = self.open().await?;
            ensure!(
                !database.has_keys_of_another_pepper(&Pepper::new(pepper.as_bytes()).check()).await?,
                "the database holds keys that were hashed with another pepper, and would refuse them: start with the WORKSPACES_KEY_PEPPER they were made with, or revoke them first"
            );
            (database, pepper, None)
        };
        let swept = database.clone();
        tokio::spawn(async move { sweep(&*swept).await });
        let keys = Arc::new(ApiKeys::new(database.clone(), pepper.as_bytes(), self.admin_organization));
        let auth = match self.tokens {
            Some(tokens) => tokens.auth(keys).await?,
            None => keys,
        };
        let runtime = Arc::new(load(self.component, auth.clone(), database)?);
        let listener = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("can't listen at {}: choose another with --listen", self.listen))?;
        let address = listener.local_addr()?;
        say(format_args!("listening on http://{address}"))?;
        if let Some(demo) = demo {
            demo.print(address)?;
        }
        let most = self.max_connections.min(open_files().saturating_sub(RESERVED_FILES)).max(1);
        match server::serve(listener, http::router(auth, runtime), most, shutdown).await {
            true => tracing::info!("stopped"),
            false => tracing::warn!(after = ?server::DRAIN, "stopped with requests in progress"),
        }
        Ok(())
    }

    async fn open(&self) -> Result<Arc<dyn Database>> {
        let sqlite = sqlite::Options { batch: self.group_commit.max(1), ..Default::default() };
        let postgres = postgres::Options { connections: self.connections.max(1) };
        Ok(self.database.open_with(&sqlite, &postgres).await?)
    }
}

/// Files that are kept for other things than clients' connections: the database, the log.
const RESERVED_FILES: usize = 128;

/// How many files this process may open, after asking for as many as it may ask for.
fn open_files() -> usize {
    let asked = getrlimit(Resource::Nofile);
    // What is refused leaves the limit as it was, which is read again.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: asked.maximum, ..asked });
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

fn load(file: Option<PathBuf>, auth: Arc<dyn Auth>, database: Arc<dyn Database>) -> Result<Runtime> {
    let (name, component): (_, Cow<'_, [u8]>) = match file {
        None => ("the built-in component".into(), COMPONENT.into()),
        Some(path) => {
            let name = path.display().to_string();
            let component = std::fs::read(&path).with_context(|| format!("can't read the component {name}"))?;
            (name, component.into())
        }
    };
    Runtime::new(&component, Limits::default(), auth, database).with_context(|| format!("can't load {name}"))
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

/// What `--demo` puts in its database.
struct Demo {
    organization: Uuid,
    accounts: [(Uuid, String); 2],
}

impl Demo {
    async fn set_up(database: &dyn Database, pepper: &str) -> Result<Self> {
        let pepper = Pepper::new(pepper.as_bytes());
        let organization = database.create_account(None, Some("Demo organization".into())).await?.id;
        let mut accounts = [const { (Uuid::nil(), String::new()) }; 2];
        for (account, name) in accounts.iter_mut().zip(["Ada", "Grace"]) {
            let id = database.create_account(None, Some(name.into())).await?.id;
            database.add_member(organization, id).await?;
            let key = generate().context("no random bytes")?;
            let stored =
                NewKey { name: "demo".into(), hash: pepper.hash(&key), pepper: pepper.check(), expires_at: None };
            database.create_key(id, stored).await?;
            *account = (id, key);
        }
        Ok(Self { organization, accounts })
    }

    fn print(&self, address: SocketAddr) -> Result<()> {
        let [(ada, key), (grace, other)] = &self.accounts;
        say(format_args!(
            "\nA throw-away database, gone when this stops:\n  organization {}\n  account      {ada}  key {key}\n  account      {grace}  key {other}\n",
            self.organization
        ))?;
        say("Paste this into another terminal:\n")?;
        say(format_args!(
            "curl -i http://{address}/api/workspaces -H 'x-api-key: {key}' -H 'Content-Type: application/json' -d '{{\"name\":\"My first workspace\",\"organization_id\":\"{}\"}}'\n",
            self.organization
        ))
    }
}
