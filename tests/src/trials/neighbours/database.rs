//! Databases of other tenants that hang or are gone.

use std::{fs, io};

use anyhow::{Context as _, Result};
use rusqlite::Connection;

use super::{Adversary, Scene, Setup, setup::section, stranger};
use crate::postgres::{self, Postgres};

/// Clients of the tenant.
const CLIENTS: usize = 64;

pub(super) fn all() -> Result<Vec<Box<dyn Adversary>>> {
    let mut all: Vec<Box<dyn Adversary>> = vec![Box::new(Locked::default()), Box::new(Removed::default())];
    if postgres::available()? {
        all.push(Box::new(Frozen { clients: CLIENTS, ..Frozen::default() }));
        all.push(Box::new(Frozen { clients: stranger::CONNECTIONS, are_strangers: true, ..Frozen::default() }));
    }
    Ok(all)
}

/// A SQLite file that another process has locked.
#[derive(Default)]
pub(super) struct Locked {
    key: String,
}

impl Locked {
    /// Locks the file until the result is dropped.
    pub(super) fn lock(setup: &Setup) -> Result<Connection> {
        let lock = Connection::open(setup.tenants.deployment().folder().join("locked.db"))?;
        lock.execute_batch("BEGIN EXCLUSIVE")?;
        Ok(lock)
    }
}

impl Adversary for Locked {
    fn name(&self) -> String {
        format!("database: locked file, {CLIENTS} clients")
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        self.key = setup.tenant("locked", "")?;
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        let _lock = Self::lock(scene.setup)?;
        scene.create(CLIENTS, "/locked", &|| self.key.clone())
    }
}

/// A SQLite file that is removed under the server, with its log.
#[derive(Default)]
struct Removed {
    key: String,
}

impl Adversary for Removed {
    fn name(&self) -> String {
        format!("database: removed, {CLIENTS} clients")
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        self.key = setup.tenant("removed", "")?;
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        for end in ["", "-wal", "-shm"] {
            let file = scene.setup.tenants.deployment().folder().join(format!("removed.db{end}"));
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| file.display().to_string());
                }
                _ => {}
            }
        }
        scene.create(CLIENTS, "/removed", &|| self.key.clone())
    }
}

/// A PostgreSQL server that takes connections and answers nothing.
#[derive(Default)]
struct Frozen {
    clients: usize,
    /// Makes up their keys, and limits the connections to their number.
    are_strangers: bool,
    postgres: Option<Postgres>,
    key: String,
}

impl Adversary for Frozen {
    fn name(&self) -> String {
        match self.are_strangers {
            false => format!("database: PostgreSQL that hangs, {} clients", self.clients),
            true => format!("database: PostgreSQL that hangs, {0} strangers of at most {0} connections", self.clients),
        }
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        let postgres = Postgres::start()?;
        let (url, deployment) = (postgres.url(), setup.tenants.deployment());
        deployment.run(&["database", "migrate", "--database", &url])?;
        let account = deployment.run(&["account", "create", "--database", &url])?;
        self.key = deployment.run(&["key", "create", &account, "--database", &url])?;
        if self.are_strangers {
            setup.arguments.extend(["--max-connections".into(), self.clients.to_string()]);
        }
        setup.sections += &section("frozen", &format!("database = \"{url}\""));
        self.postgres = Some(postgres);
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        let postgres = self.postgres.as_ref().context("not prepared")?;
        postgres.pause()?;
        let times = scene.create(self.clients, "/frozen", &|| match self.are_strangers {
            true => stranger::made_up_key(),
            false => self.key.clone(),
        });
        postgres.resume()?;
        times
    }
}
