//! The plan of a server, from options or from a file.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use uuid::Uuid;

use super::super::{DatabaseAddress, admin_address::AdminAddress, secret};
use crate::{
    Share, Workspaces,
    auth::jwt::{self, KeySource},
    files,
    gateway::Tenant,
    runtime::{Limits, Pool},
    storage::Quota,
};

/// Plan of a whole server.
#[derive(Clone)]
pub(in crate::cli) struct Plan {
    pub(super) listen: Option<SocketAddr>,
    pub(super) admin: Option<AdminAddress>,
    pub(super) admin_token_file: Option<PathBuf>,
    /// Host names of the administration, beside its address.
    pub(super) admin_hosts: Vec<String>,
    /// The files of the certificate and of its key.
    pub(super) tls: Option<(PathBuf, PathBuf)>,
    pub(super) max_connections: Option<usize>,
    /// Load anew when a file has changed.
    pub(super) watch: bool,
    pub(super) pool: Pool,
    pub(super) compiler: Compiler,
    pub(in crate::cli) tenants: Vec<TenantPlan>,
}

impl Plan {
    /// Names what of another plan comes only with the next start.
    pub(super) fn needs_restart(&self, next: &Self) -> Option<String> {
        let parts = [
            ("listen", self.listen != next.listen),
            ("admin", self.admin != next.admin),
            ("admin-token-file", self.admin_token_file != next.admin_token_file),
            ("admin-hosts", self.admin_hosts != next.admin_hosts),
            ("max-connections", self.max_connections != next.max_connections),
            ("pool", self.pool != next.pool),
            ("tls", self.tls != next.tls),
        ];
        let changed: Vec<_> = parts.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect();
        (!changed.is_empty()).then(|| format!("restart the server for the change of {}", changed.join(", ")))
    }
}

/// Limits of the compilation of one component, in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Compiler {
    /// Bytes of memory.
    pub(in crate::cli) memory: u64,
    /// Time from start to end, and on the processor.
    pub(in crate::cli) time: Duration,
}

impl Default for Compiler {
    /// Fifty times what the built-in component takes.
    fn default() -> Self {
        Self { memory: 512 << 20, time: Duration::from_secs(10) }
    }
}

/// Plan of one tenant.
#[derive(Clone, PartialEq)]
pub(in crate::cli) struct TenantPlan {
    pub(in crate::cli) name: String,
    pub(super) hosts: Vec<String>,
    pub(super) path: String,
    /// The built-in one where there is none.
    pub(super) component: Option<PathBuf>,
    pub(in crate::cli) database: DatabasePlan,
    pub(in crate::cli) pepper: String,
    pub(super) administrators: Option<Uuid>,
    pub(super) tokens: Option<TokenPlan>,
    pub(super) limits: Limits,
    pub(super) share: Share,
    pub(super) quota: Quota,
}

impl TenantPlan {
    /// Returns a text about the tenant without its secrets.
    pub(super) fn without_secrets(&self, text: &str) -> String {
        let mut secrets = vec![self.pepper.clone()];
        if let DatabaseAddress::Server(address) = &self.database.address {
            secrets.extend(secret::of_address(address));
        }
        let mut files: Vec<_> = self.component.iter().collect();
        // An address of keys is printed without secrets.
        if let Some(TokenPlan { keys: KeySource::File(file), .. }) = &self.tokens {
            files.push(file);
        }
        secrets.extend(files.into_iter().filter_map(|file| Some(secret::of_path(file)?.into_owned())));
        secret::hide(text, &secrets)
    }

    /// Returns the tenant in its place, still to be loaded.
    pub(super) fn loading(&self) -> Tenant {
        Tenant::loading(&self.name, &self.hosts, &self.path)
    }

    /// The tenant in its place, with what it serves with.
    pub(super) fn at(&self, workspaces: Result<Arc<Workspaces>, String>) -> Tenant {
        Tenant::new(&self.name, &self.hosts, &self.path, workspaces)
    }
}

/// Database of a tenant's workspaces and keys. Tenants with the same plan share it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in crate::cli) struct DatabasePlan {
    pub(in crate::cli) address: DatabaseAddress,
    pub(super) group_commit: usize,
    pub(super) connections: usize,
    /// Only tenant of a database in memory.
    pub(super) owner: Option<String>,
}

impl DatabasePlan {
    pub(super) fn new(address: DatabaseAddress, group_commit: usize, connections: usize, tenant: &str) -> Self {
        let owner = (address == DatabaseAddress::Memory).then(|| tenant.to_owned());
        Self { address, group_commit, connections, owner }
    }

    /// Returns the number of files that it takes to have it open.
    pub(super) fn files(&self) -> usize {
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
pub(in crate::cli) struct TokenPlan {
    pub(super) keys: KeySource,
    /// Content of the key file, so that another one is another plan; `None` before it is read, and where it can't be.
    file: Option<Vec<u8>>,
    pub(super) options: jwt::Options,
}

impl TokenPlan {
    pub(super) fn new(keys: KeySource, options: jwt::Options) -> Self {
        Self { keys, file: None, options }
    }

    /// Reads the key file, for a comparison with the plan before.
    pub(super) async fn read(&mut self) {
        let KeySource::File(path) = &self.keys else { return };
        let path = path.clone();
        self.file = files::unblocked(move || files::read(&path, jwt::KEY_FILE)).await.flatten().ok();
    }
}
