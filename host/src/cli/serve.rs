use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use uuid::Uuid;

use super::{AddressArguments, limits::LimitArguments, log::LogArguments, parse::Unrepeated, pepper::PepperArguments};
use crate::{
    TenantShare,
    auth::{
        api_key::generate,
        jwt::{self, KeySource},
    },
    metrics::Metrics,
    runtime::SandboxLimits,
    server::{
        self, Source,
        address::{AdminAddress, socket_address},
        bundles::{BUNDLES, RecordConfig, header_name},
        cache::{self, CacheConfig},
        config::{Config, DatabaseConfig, TenantConfig, TokenConfig},
        config_file::{self, ComponentLimits},
        pin::{Pin, PinnedDigest, Signer},
    },
    storage::{DatabaseAddress, Quota, postgres, sqlite},
};

/// Serve POST /api/workspaces
#[derive(Args)]
pub(super) struct Serve {
    /// Serve the tenants of this file; the options below, but for addresses, connections and the log, are for one tenant without a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["demo", "component", "requests_per_instance", "limits", "wasi"])]
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
    /// Show no page of the API at /docs/
    #[arg(long)]
    no_docs: bool,
    /// Serve a throw-away database in memory, with an organization, two accounts and their keys, and print a curl line to paste
    #[arg(long)]
    demo: bool,
    /// The component to run in place of the one built in
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// The digest that the component has to have
    #[arg(long, value_name = "sha256:HEX", requires = "component")]
    component_digest: Option<PinnedDigest>,
    /// The public key of minisign that has to have signed the component, in a file COMPONENT.minisig
    #[arg(long, value_name = "KEY", requires = "component")]
    component_key: Option<Signer>,
    #[command(flatten)]
    limits: LimitArguments,
    /// Keep compiled components in this folder, 1 GiB of them at most, so that the next start does not compile them
    #[arg(long, env = "WORKSPACES_COMPONENT_CACHE", hide_env_values = true, value_name = "FOLDER")]
    component_cache: Option<PathBuf>,
    /// Maximum number of requests that an instance of the component answers; by default each request has a fresh one. More
    /// cost less, and what a request leaves in the component's memory stays there for the next one
    #[arg(long, value_name = "N")]
    requests_per_instance: Option<NonZeroU32>,
    /// The organization whose members may create workspaces for any account
    #[arg(long, env = "WORKSPACES_ADMIN_ORGANIZATION", hide_env_values = true, value_name = "UUID")]
    admin_organization: Option<Uuid>,
    #[command(flatten)]
    log: LogArguments,
    #[command(flatten)]
    database: AddressArguments,
    /// SQLite: how many creates may share one commit, and so one sync of the disk
    #[arg(long, value_name = "CREATES", default_value_t = sqlite::SqliteOptions::default().batch)]
    group_commit: usize,
    /// PostgreSQL: how many connections to hold at most
    #[arg(long, value_name = "N", default_value_t = postgres::PostgresOptions::default().connections)]
    connections: usize,
    #[command(flatten)]
    pepper: PepperArguments,
    #[command(flatten)]
    tokens: Option<TokenArguments>,
    #[command(flatten)]
    tls: Option<TlsArguments>,
    #[command(flatten)]
    record: Option<RecordArguments>,
}

/// Requests that are recorded.
#[derive(Args)]
#[group(requires_all = ["record"])]
struct RecordArguments {
    /// Record requests that fail, each in a file of this folder, for `replay`; the newest 100 are kept
    #[arg(long, value_name = "FOLDER", required = false)]
    record: PathBuf,
    /// Record also one request in so many
    #[arg(long, value_name = "N")]
    record_every: Option<NonZeroU64>,
    /// Record also requests with this header
    #[arg(long, value_name = "NAME", value_parser = header_name)]
    record_header: Option<String>,
    /// Replace the letters and digits of names in recorded requests
    #[arg(long)]
    redact: bool,
}

/// The certificate of a server that speaks TLS.
#[derive(Args)]
#[group(requires_all = ["tls_certificate", "tls_key"])]
struct TlsArguments {
    /// Speak TLS with this certificate: a PEM file, the certificates between it and its authority behind it
    #[arg(long, env = "WORKSPACES_TLS_CERTIFICATE", hide_env_values = true, value_name = "FILE", required = false)]
    tls_certificate: PathBuf,
    /// The certificate's private key: a PEM file, without a password
    #[arg(long, env = "WORKSPACES_TLS_KEY", hide_env_values = true, value_name = "FILE", required = false)]
    tls_key: PathBuf,
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

impl Serve {
    /// Runs the server until it is stopped.
    pub(super) async fn run(self, json: bool) -> Result<()> {
        let metrics = Metrics::default();
        let _log = self.log.install(&metrics)?;
        let (file, demo) = (self.config.clone(), self.demo);
        // Each reload of the demo's configuration has the same one.
        let pepper = demo.then(generate).transpose().context("no random bytes")?;
        let read = Box::new(move || self.configuration(pepper.as_deref()));
        server::run(Source { file, read, demo, json }, metrics).await
    }

    /// Returns the configuration of the file as it is now, or of the options. Options beside a file come before what it
    /// says.
    fn configuration(&self, demo_pepper: Option<&str>) -> Result<Config> {
        let file = match &self.config {
            Some(file) => config_file::read(file)?,
            None => self.of_options(demo_pepper)?,
        };
        let tls = self.tls.as_ref().map(|tls| (tls.tls_certificate.clone(), tls.tls_key.clone()));
        Ok(Config {
            listen: self.listen.or(file.listen),
            admin: self.admin.clone().or(file.admin),
            admin_token_file: self.admin_token_file.clone().or(file.admin_token_file),
            admin_hosts: self.admin_host.iter().cloned().chain(file.admin_hosts).collect(),
            tls: tls.or(file.tls),
            max_connections: self.max_connections.or(file.max_connections),
            docs: file.docs && !self.no_docs,
            cache: self.component_cache.clone().map(|folder| CacheConfig { folder, size: cache::SIZE }).or(file.cache),
            ..file
        })
    }

    /// Returns the configuration that the options describe, with its one tenant.
    fn of_options(&self, demo_pepper: Option<&str>) -> Result<Config> {
        let ComponentLimits { sandbox, pool, compiler } = self.limits.read()?;
        let tenant = self.only_tenant(demo_pepper, sandbox)?;
        Ok(Config {
            listen: None,
            admin: None,
            admin_token_file: None,
            admin_hosts: Vec::new(),
            tls: None,
            max_connections: None,
            docs: true,
            watch: false,
            pool,
            compiler,
            cache: None,
            tenants: vec![tenant],
        })
    }

    fn only_tenant(&self, demo_pepper: Option<&str>, limits: SandboxLimits) -> Result<TenantConfig> {
        let (address, pepper) = match demo_pepper {
            Some(pepper) => (DatabaseAddress::Memory, pepper.to_owned()),
            None => (self.database.database.clone(), self.pepper.secret()?),
        };
        let tokens = self.tokens.as_ref().map(|tokens| {
            let TokenArguments { jwt_keys, jwt_issuer, jwt_audience, jwt_account_claim, .. } = tokens;
            let options = jwt::TokenOptions {
                account_claim: jwt_account_claim.clone(),
                keys_max_age: tokens.jwt_keys_max_age,
                create_accounts: tokens.jwt_create_accounts,
                ..jwt::TokenOptions::new(jwt_issuer, jwt_audience)
            };
            TokenConfig::new(jwt_keys.clone(), options)
        });
        Ok(TenantConfig {
            name: server::ONLY_TENANT.into(),
            hosts: Vec::new(),
            path: String::new(),
            component: self.component.clone(),
            image: None,
            pin: Pin { digest: self.component_digest.clone(), signed_by: self.component_key.clone() },
            require_verified: false,
            record: self.record.as_ref().map(|record| RecordConfig {
                folder: record.record.clone(),
                every: record.record_every,
                header: record.record_header.clone(),
                redact: record.redact,
                bundles: BUNDLES,
            }),
            database: DatabaseConfig::new(
                address,
                self.group_commit.max(1),
                self.connections.max(1),
                server::ONLY_TENANT,
            ),
            pepper,
            administrators: self.admin_organization,
            tokens,
            limits: SandboxLimits {
                requests_per_instance: self.requests_per_instance.unwrap_or(limits.requests_per_instance),
                ..limits
            },
            share: TenantShare::default(),
            quota: Quota::default(),
        })
    }
}
