//! Databases, as options name them.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, ensure};

use super::{parse::Unrepeated, pepper::PepperArguments};
use crate::{
    server::{config::TenantConfig, config_file, database::open_database, pepper},
    storage::{Database, DatabaseAddress, postgres, sqlite},
};

/// The option that names a database.
#[derive(clap::Args)]
pub(super) struct AddressArguments {
    /// The database: sqlite:PATH, sqlite::memory: or postgres://USER@HOST/NAME (several hosts, commas between, for a server with standbys)
    #[arg(long, env = "WORKSPACES_DATABASE", default_value = "sqlite:workspaces.db", hide_env_values = true, value_parser = Unrepeated(read_address))]
    pub(super) database: DatabaseAddress,
}

/// Returns the options of a command's connection: `serve` and `migrate` check the role's rights.
fn commands() -> postgres::PostgresOptions {
    postgres::PostgresOptions { check: false, sweep: false, ..Default::default() }
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
    /// Opens the database for a command that writes: a file that is missing is created.
    pub(super) async fn open(&self) -> Result<Arc<dyn Database>> {
        self.open_for(sqlite::Access::Create).await
    }

    /// Opens the database for a command that changes what is there.
    pub(super) async fn open_existing(&self) -> Result<Arc<dyn Database>> {
        self.open_for(sqlite::Access::Write).await
    }

    /// Opens the database for a command that only reads.
    pub(super) async fn open_to_read(&self) -> Result<Arc<dyn Database>> {
        self.open_for(sqlite::Access::Read).await
    }

    /// Opens the database with this access to its file.
    pub(super) async fn open_for(&self, access: sqlite::Access) -> Result<Arc<dyn Database>> {
        let sqlite = sqlite::SqliteOptions { access, ..Default::default() };
        Ok(open_database(&self.address()?, &sqlite, &commands()).await?)
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

    fn tenant(&self) -> Result<Option<TenantConfig>> {
        let (Some(file), Some(name)) = (&self.config, &self.tenant) else { return Ok(None) };
        let tenants = config_file::read(file)?.tenants;
        let names = tenants.iter().map(|tenant| tenant.name.as_str()).take(20).collect::<Vec<_>>().join(", ");
        let found = tenants.into_iter().find(|tenant| tenant.name == *name);
        Ok(Some(found.with_context(|| format!("{} has no tenant {name}: it has {names}", file.display()))?))
    }
}

/// Reads the option or variable. A line break behind it, as files end with, is no part of it.
fn read_address(text: &str) -> Result<DatabaseAddress, String> {
    DatabaseAddress::parse(pepper::without_line_break(text))
        .map_err(|error| format!("--database (WORKSPACES_DATABASE): {error}"))
}
