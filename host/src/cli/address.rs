//! Databases, as options name them.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, ensure};

use super::{
    parse::Unrepeated,
    pepper::{self, PepperArguments},
    secret,
    serve::{config, plan::TenantPlan},
};
use crate::storage::{
    Database, DatabaseError,
    postgres::{self, Postgres},
    sqlite::{self, Sqlite},
};

/// The option that names a database.
#[derive(clap::Args)]
pub(super) struct AddressArguments {
    /// The database: sqlite:PATH, sqlite::memory: or postgres://USER@HOST/NAME (several hosts, commas between, for a server with standbys)
    #[arg(long, env = "WORKSPACES_DATABASE", default_value = "sqlite:workspaces.db", hide_env_values = true, value_parser = Unrepeated(DatabaseAddress::read))]
    pub(super) database: DatabaseAddress,
}

/// Returns the options of a command's connection: `serve` and `migrate` check the role's rights.
fn commands() -> postgres::Options {
    postgres::Options { check: false, ..Default::default() }
}

/// The database of a command: by its address, or a tenant's.
#[derive(clap::Args)]
pub(super) struct DatabaseArguments {
    #[command(flatten)]
    address: AddressArguments,
    /// Use the database and the key pepper of a tenant of this file, as `serve --config` does
    #[arg(long, value_name = "FILE", requires = "tenant")]
    config: Option<PathBuf>,
    /// The tenant of that file
    #[arg(long, value_name = "NAME", requires = "config")]
    tenant: Option<String>,
}

impl DatabaseArguments {
    /// Opens the database for a command that writes: a file that is not there is made.
    pub(super) async fn open(&self) -> Result<Arc<dyn Database>> {
        Ok(self.address()?.open(&sqlite::Options::default(), &commands()).await?)
    }

    /// Opens the database for a command that looks at what is there.
    pub(super) async fn open_existing(&self) -> Result<Arc<dyn Database>> {
        let sqlite = sqlite::Options { create: false, ..Default::default() };
        Ok(self.address()?.open(&sqlite, &commands()).await?)
    }

    /// Returns the database's address.
    ///
    /// # Errors
    ///
    /// A file that can't be used, or has no such tenant.
    pub(super) fn address(&self) -> Result<DatabaseAddress> {
        let Some(tenant) = self.tenant()? else { return Ok(self.address.database.clone()) };
        let address = tenant.database.address;
        ensure!(address != DatabaseAddress::Memory, "the tenant's database is in the memory of its server");
        Ok(address)
    }

    /// Returns the secret that the tenant's keys are hashed with, else that of the options, if there is one.
    ///
    /// # Errors
    ///
    /// As [`address`](Self::address), and [`PepperArguments::given`].
    pub(super) fn pepper(&self, options: &PepperArguments) -> Result<Option<String>> {
        match self.tenant()? {
            Some(tenant) => Ok(Some(tenant.pepper)),
            None => options.given(),
        }
    }

    fn tenant(&self) -> Result<Option<TenantPlan>> {
        let (Some(file), Some(name)) = (&self.config, &self.tenant) else { return Ok(None) };
        let tenants = config::read(file)?.tenants;
        let names = tenants.iter().map(|tenant| tenant.name.as_str()).take(20).collect::<Vec<_>>().join(", ");
        let found = tenants.into_iter().find(|tenant| tenant.name == *name);
        Ok(Some(found.with_context(|| format!("{} has no tenant {name}: it has {names}", file.display()))?))
    }
}

/// Kind and place of a database.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum DatabaseAddress {
    File(PathBuf),
    Memory,
    Server(String),
}

impl DatabaseAddress {
    pub(super) async fn open(
        &self,
        sqlite: &sqlite::Options,
        postgres: &postgres::Options,
    ) -> Result<Arc<dyn Database>, DatabaseError> {
        Ok(match self {
            Self::File(path) => Arc::new(Sqlite::open_with(path, sqlite)?),
            Self::Memory => Arc::new(Sqlite::in_memory()?),
            Self::Server(address) => {
                let connected = Postgres::connect(address, postgres).await;
                Arc::new(connected.map_err(|error| secret::hide_in(error, address))?)
            }
        })
    }

    /// Returns the address as the log shows it: an absolute path, or hosts and a name, without a password.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Memory => ":memory:".into(),
            Self::File(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string(),
            Self::Server(address) => {
                let rest = address.split_once("://").map_or("", |(_, rest)| rest);
                let (credentials, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
                match credentials.contains('?') {
                    // The parts can't be told apart for sure.
                    true => "postgres".into(),
                    false => format!("postgres://{}", rest.split('?').next().unwrap_or_default()),
                }
            }
        }
    }

    /// Reads the option or variable. A line break behind it, as files end with, is no part of it.
    fn read(text: &str) -> Result<Self, String> {
        let address = Self::parse(pepper::without_line_break(text));
        address.ok_or_else(|| {
            "--database (WORKSPACES_DATABASE) is sqlite:PATH, sqlite::memory: or postgres://…".to_owned()
        })
    }

    pub(super) fn parse(address: &str) -> Option<Self> {
        if address.starts_with("postgres://") || address.starts_with("postgresql://") {
            return Some(Self::Server(address.into()));
        }
        match address.strip_prefix("sqlite:")? {
            "" => None,
            ":memory:" => Some(Self::Memory),
            path => Some(Self::File(path.into())),
        }
    }
}
