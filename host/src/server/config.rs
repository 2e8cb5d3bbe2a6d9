//! Configuration of a server, from options or from a file.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    address::AdminAddress, bundles::RecordConfig, cache::CacheConfig, compiler::Compiler, image::Image, pin::Pin,
    secret,
};
use crate::{
    TenantShare, Workspaces,
    auth::jwt::{self, KeySource},
    files,
    runtime::{Pool, SandboxLimits},
    storage::{DatabaseAddress, Quota},
    tenants::Tenant,
};

/// Config of a whole server.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) admin: Option<AdminAddress>,
    pub(crate) admin_token_file: Option<PathBuf>,
    /// Host names of the administration, beside its address.
    pub(crate) admin_hosts: Vec<String>,
    /// The files of the certificate and of its key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) max_connections: Option<usize>,
    /// The page of the API is shown.
    pub(crate) docs: bool,
    /// The configuration is loaded anew when a file has changed.
    pub(crate) watch: bool,
    pub(crate) pool: Pool,
    pub(crate) compiler: Compiler,
    pub(crate) cache: Option<CacheConfig>,
    pub(crate) tenants: Vec<TenantConfig>,
}

impl Config {
    /// Names the parts of another configuration that only a restart puts into effect.
    pub(crate) fn needs_restart(&self, next: &Self) -> Option<String> {
        let parts = [
            ("listen", self.listen != next.listen),
            ("admin", self.admin != next.admin),
            ("admin-token-file", self.admin_token_file != next.admin_token_file),
            ("admin-hosts", self.admin_hosts != next.admin_hosts),
            ("max-connections", self.max_connections != next.max_connections),
            ("docs", self.docs != next.docs),
            ("pool", self.pool != next.pool),
            ("tls", self.tls != next.tls),
            ("compile.cache", self.cache != next.cache),
        ];
        let changed: Vec<_> = parts.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect();
        (!changed.is_empty()).then(|| format!("restart the server for the change of {}", changed.join(", ")))
    }
}

/// Config of one tenant.
#[derive(Clone, PartialEq)]
pub(crate) struct TenantConfig {
    pub(crate) name: String,
    pub(crate) hosts: Vec<String>,
    pub(crate) path: String,
    /// The built-in one where there is none.
    pub(crate) component: Option<PathBuf>,
    /// Image that the component's file is pulled from at each load.
    pub(crate) image: Option<Image>,
    /// Digest and signature that the component has to have.
    pub(crate) pin: Pin,
    /// The harness judges a component before it serves.
    pub(crate) require_verified: bool,
    /// Requests that are recorded.
    pub(crate) record: Option<RecordConfig>,
    pub(crate) database: DatabaseConfig,
    pub(crate) pepper: String,
    pub(crate) administrators: Option<Uuid>,
    pub(crate) tokens: Option<TokenConfig>,
    pub(crate) limits: SandboxLimits,
    pub(crate) share: TenantShare,
    pub(crate) quota: Quota,
}

impl TenantConfig {
    /// Returns a text about the tenant without its secrets.
    pub(crate) fn without_secrets(&self, text: &str) -> String {
        let mut secrets = vec![self.pepper.clone()];
        if let DatabaseAddress::Server(address) = &self.database.address {
            secrets.extend(secret::of_address(address));
        }
        let mut files: Vec<_> = self.component.iter().collect();
        // An address of keys is printed without secrets.
        if let Some(TokenConfig { keys: KeySource::File(file), .. }) = &self.tokens {
            files.push(file);
        }
        secrets.extend(files.into_iter().filter_map(|file| Some(secret::of_path(file)?.into_owned())));
        secret::hide(text, &secrets)
    }

    /// Returns the tenant in its place, still to be loaded.
    pub(crate) fn loading(&self) -> Tenant {
        Tenant::loading(&self.name, &self.hosts, &self.path)
    }

    /// Returns the tenant in its place, with what it serves with.
    pub(crate) fn at(&self, workspaces: Result<Arc<Workspaces>, String>) -> Tenant {
        Tenant::new(&self.name, &self.hosts, &self.path, workspaces)
    }
}

/// Database of a tenant's workspaces and keys. Tenants with the same configuration of it share it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct DatabaseConfig {
    pub(crate) address: DatabaseAddress,
    pub(crate) group_commit: usize,
    pub(crate) connections: usize,
    /// Only tenant of a database in memory.
    pub(crate) owner: Option<String>,
}

impl DatabaseConfig {
    pub(crate) fn new(address: DatabaseAddress, group_commit: usize, connections: usize, tenant: &str) -> Self {
        let owner = (address == DatabaseAddress::Memory).then(|| tenant.to_owned());
        Self { address, group_commit, connections, owner }
    }

    /// Returns the number of files that it takes to have it open.
    pub(crate) fn files(&self) -> usize {
        match self.address {
            DatabaseAddress::Memory => 0,
            // The database and its log, once for the writer and once for the reader, and the log's index.
            DatabaseAddress::File(_) => 5,
            DatabaseAddress::Server(_) => self.connections,
        }
    }
}

/// Bearer tokens that a tenant takes.
#[derive(Clone, PartialEq)]
pub(crate) struct TokenConfig {
    pub(crate) keys: KeySource,
    /// Content of the key file, so that a change of it is a change of the configuration; `None` before it is read, and where it can't be.
    file: Option<Vec<u8>>,
    pub(crate) options: jwt::TokenOptions,
}

impl TokenConfig {
    pub(crate) fn new(keys: KeySource, options: jwt::TokenOptions) -> Self {
        Self { keys, file: None, options }
    }

    /// Returns the path of the key file, if the keys come from one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.keys {
            KeySource::File(path) => Some(path),
            _ => None,
        }
    }

    /// Reads the key file, for a comparison with the configuration before.
    pub(crate) async fn read(&mut self) {
        let KeySource::File(path) = &self.keys else { return };
        let path = path.clone();
        self.file = files::unblocked(move || files::read(&path, jwt::KEY_FILE)).await.flatten().ok();
    }
}
