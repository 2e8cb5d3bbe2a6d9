//! Check of what a configuration names: it opens each file, database and address, and changes nothing.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use rustix::fs::{Access, access};
use tokio::{sync::OnceCell, task::JoinSet, time::timeout};

use super::{
    address::AdminAddress,
    components::{Components, Images, Once, Workshop},
    config::{Config, DatabaseConfig, TenantConfig},
    config_file::{Document, Finding, Severity},
    database::open_database,
    guard::Token,
    pepper::key_names,
};
use crate::{
    Workspaces,
    auth::{
        api_key::{ApiKeys, Pepper},
        jwt::{self, KeySource},
    },
    files,
    http::tls::Tls,
    private,
    runtime::Sandboxes,
    storage::{
        Database, DatabaseAddress, postgres,
        sqlite::{self, Sqlite},
    },
};

/// Maximum time that a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time before its end from which a certificate is remarked on.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Remark on a key: its path, and what was found.
type Remark = (Vec<String>, Severity, String);

/// Returns the path of a key.
fn path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

/// Opens what a configuration names, and returns what is wrong with it, in the order of the file. With `offline`, servers
/// of databases and of keys are left out.
pub(crate) async fn check(document: &Document, config: &Config, offline: bool) -> Vec<Finding> {
    let mut remarks = listeners(config);
    remarks.extend(tenants(config, offline).await);
    let finding = |(key, severity, message): Remark| {
        let key: Vec<_> = key.iter().map(String::as_str).collect();
        document.finding_at(severity, &key, message)
    };
    remarks.into_iter().map(finding).collect()
}

/// Checks the files of the two listeners.
fn listeners(config: &Config) -> Vec<Remark> {
    let mut remarks = Vec::new();
    if let Some(AdminAddress::Unix(socket)) = &config.admin
        && let Err(reason) = folder_of(socket)
    {
        remarks.push((path(&["admin"]), Severity::Error, reason));
    }
    if let Some((certificate, key)) = &config.tls {
        match Tls::check(certificate, key) {
            Err(error) => remarks.push((path(&["tls"]), Severity::Error, error.to_string())),
            Ok(Some(left)) if left < EXPIRES_SOON => {
                let days = left.as_secs() / (24 * 60 * 60);
                let message = format!("the certificate expires in {days} days: renew it");
                remarks.push((path(&["tls", "certificate"]), Severity::Warning, message));
            }
            Ok(_) => {}
        }
        remarks.extend(readable_by_others(&["tls", "key"], key));
    }
    if let Some(file) = &config.admin_token_file {
        if let Err(error) = Token::read(file) {
            remarks.push((path(&["admin-token-file"]), Severity::Error, format!("{error:#}")));
        }
        remarks.extend(readable_by_others(&["admin-token-file"], file));
    }
    remarks
}

/// Remarks on a file that every user of the system can read.
fn readable_by_others(key: &[&str], file: &Path) -> Option<Remark> {
    let mode = private::mode_for_others(file)?;
    let message = format!("every user of the system can read {}: `chmod o-rwx` it (mode {mode:o})", file.display());
    Some((path(key), Severity::Warning, message))
}

/// Parts that the checks of all tenants share.
struct Shared {
    offline: bool,
    workshop: Workshop,
    components: Components,
    databases: HashMap<DatabaseConfig, Once<Option<Arc<dyn Database>>>>,
}

/// Checks the tenants beside each other. A component or a database that several have is opened once.
async fn tenants(config: &Config, offline: bool) -> Vec<Remark> {
    let sandboxes = match Sandboxes::new(config.pool.clone()) {
        Ok(sandboxes) => sandboxes,
        Err(error) => return vec![(path(&["pool"]), Severity::Error, error.to_string())],
    };
    let databases = config.tenants.iter().map(|tenant| (tenant.database.clone(), OnceCell::new())).collect();
    let components =
        Components::new(config.compiler, &config.tenants, if offline { Images::Load } else { Images::Pull });
    let shared = Arc::new(Shared { offline, workshop: Workshop::new(sandboxes, None), components, databases });
    let mut checks = JoinSet::new();
    for (number, tenant) in config.tenants.iter().cloned().enumerate() {
        let shared = shared.clone();
        checks.spawn(async move { (number, shared.tenant(&tenant).await) });
    }
    let mut remarks = checks.join_all().await;
    remarks.sort_by_key(|(number, _)| *number);
    remarks.into_iter().flat_map(|(_, remarks)| remarks).collect()
}

impl Shared {
    async fn tenant(&self, tenant: &TenantConfig) -> Vec<Remark> {
        let (component, database, keys) =
            tokio::join!(Box::pin(self.component(tenant)), Box::pin(self.database(tenant)), self.keys(tenant));
        let remarks = component.into_iter().chain(database).chain(keys);
        let named = |(key, severity, message): (&str, Severity, String)| {
            let key = ["tenants", &tenant.name].into_iter().chain(key.split('.'));
            (key.map(str::to_owned).collect(), severity, tenant.without_secrets(&message))
        };
        remarks.map(named).collect()
    }

    /// Compiles the component and tries it within the tenant's limits, as the server does before its first request.
    async fn component(&self, tenant: &TenantConfig) -> Vec<(&'static str, Severity, String)> {
        let rehearsed = async {
            let component = self.components.load(&self.workshop, tenant).await?.component;
            let nowhere = Arc::new(Sqlite::in_memory()?);
            let nobody = Arc::new(ApiKeys::new(nowhere.clone(), tenant.pepper.as_bytes(), None));
            let workspaces = Workspaces::builder(nowhere, nobody)
                .sandboxes(self.workshop.sandboxes().clone())
                .loaded_component(component)
                .limits(tenant.limits.clone())
                .require_verified(tenant.require_verified)
                .build()?;
            workspaces.rehearse().await.map_err(|reason| anyhow!("the component is not taken: {reason}"))
        };
        match rehearsed.await {
            Ok::<_, anyhow::Error>(()) => Vec::new(),
            Err(error) => vec![("component", Severity::Error, format!("{error:#}"))],
        }
    }

    /// Opens the database for reading alone, and compares the tenant's pepper with its keys.
    async fn database(&self, tenant: &TenantConfig) -> Vec<(&'static str, Severity, String)> {
        let mut remarks = Vec::new();
        if let DatabaseAddress::File(file) = &tenant.database.address {
            match files::unblocked({
                let file = file.clone();
                move || sqlite_file(&file)
            })
            .await
            {
                Ok(Ok(note)) => remarks.extend(note.map(|note| ("database", Severity::Note, note))),
                Ok(Err(reason)) => return vec![("database", Severity::Error, reason)],
                Err(error) => return vec![("database", Severity::Error, error.to_string())],
            }
            if private::mode_for_others(file).is_some() {
                let message = "every user of the system can read the database: `chmod o-rwx` the file";
                remarks.push(("database", Severity::Warning, message.into()));
            }
        }
        if self.offline && matches!(tenant.database.address, DatabaseAddress::Server(_)) {
            remarks.push(("database", Severity::Note, "not looked at: its server is left out with --offline".into()));
            return remarks;
        }
        let opened = match self.databases.get(&tenant.database) {
            Some(cell) => cell.get_or_init(|| open(&tenant.database)).await.clone(),
            None => Ok(None),
        };
        let database = match opened {
            Ok(Some(database)) => database,
            Ok(None) => return remarks,
            Err(reason) => {
                remarks.push(("database", Severity::Error, reason));
                return remarks;
            }
        };
        let pepper = Pepper::new(tenant.pepper.as_bytes()).check();
        match timeout(ANSWER_TIMEOUT, database.keys_of_another_pepper(&pepper)).await {
            Ok(Ok(keys)) if keys.is_empty() => {}
            Ok(Ok(keys)) => {
                let names = key_names(&keys);
                let message = format!(
                    "the database has keys that were hashed with another pepper: {names}: give the pepper that they were made with, or revoke them"
                );
                remarks.push(("key-pepper-file", Severity::Error, message));
            }
            Ok(Err(error)) => remarks.push(("database", Severity::Error, error.to_string())),
            Err(_) => remarks.push(("database", Severity::Error, no_answer())),
        }
        if let Some(organization) = tenant.administrators
            && let Ok(Ok(members)) = timeout(ANSWER_TIMEOUT, database.memberships(Some(organization))).await
            && members.is_empty()
        {
            let message = "the organization has no members in this database: nobody may create for every account";
            remarks.push(("admin-organization", Severity::Warning, message.into()));
        }
        remarks
    }

    /// Reads the keys of tokens.
    async fn keys(&self, tenant: &TenantConfig) -> Vec<(&'static str, Severity, String)> {
        let Some(tokens) = &tenant.tokens else { return Vec::new() };
        if self.offline && matches!(tokens.keys, KeySource::Address(_)) {
            return vec![("jwt.keys", Severity::Note, "not fetched: addresses are left out with --offline".into())];
        }
        match jwt::check(&tokens.keys).await {
            Ok(None) => Vec::new(),
            Ok(Some(skipped)) => vec![("jwt.keys", Severity::Warning, format!("skipped keys: {skipped}"))],
            Err(reason) => vec![("jwt.keys", Severity::Error, reason)],
        }
    }
}

fn no_answer() -> String {
    format!("no answer within {ANSWER_TIMEOUT:?}")
}

/// Checks that the server can make files in the folder of a path.
fn folder_of(path: &Path) -> Result<(), String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(format!("there is no folder {}: make it", folder.display()));
    }
    writable(folder)
}

fn writable(path: &Path) -> Result<(), String> {
    access(path, Access::WRITE_OK).map_err(|error| format!("this user can't write {}: {error}", path.display()))
}

/// Checks that the server can write an SQLite file, or make it. Returns what it will do with it at its start.
fn sqlite_file(file: &Path) -> Result<Option<String>, String> {
    // SQLite makes files beside it.
    folder_of(file)?;
    if !file.exists() {
        return Ok(Some(format!("the server makes {}", file.display())));
    }
    writable(file)?;
    if is_empty(file) {
        return Ok(Some(format!("{} is empty: the server sets it up", file.display())));
    }
    match Sqlite::schema(file).map_err(|error| error.to_string())? {
        (found, newest) if found < newest => {
            Ok(Some(format!("the server brings it from schema {found} to {newest}, after a copy beside the file")))
        }
        _ => Ok(None),
    }
}

fn is_empty(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.len() == 0)
}

/// Opens a database for reading alone; `None` where there is none to open yet.
async fn open(config: &DatabaseConfig) -> Result<Option<Arc<dyn Database>>, String> {
    match &config.address {
        DatabaseAddress::Memory => return Ok(None),
        DatabaseAddress::File(file) if !file.exists() || is_empty(file) => return Ok(None),
        _ => {}
    }
    let sqlite = sqlite::SqliteOptions { access: sqlite::Access::Read, ..Default::default() };
    let postgres = postgres::PostgresOptions { connections: 1, sweep: false, ..Default::default() };
    match timeout(ANSWER_TIMEOUT, open_database(&config.address, &sqlite, &postgres)).await {
        Ok(opened) => opened.map(Some).map_err(|error| error.to_string()),
        Err(_) => Err(format!("{}: {}", config.address.shown(), no_answer())),
    }
}
