//! Loader: makes the tenants of their configurations, and the changed ones anew.

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;
use tokio::{
    sync::{OnceCell, Semaphore},
    task::{JoinSet, block_in_place},
    time::timeout,
    try_join,
};

use super::{
    bundles::BundleWriter,
    cache::Cache,
    compiler::Compiler,
    components::{self, Components, Images, Once, Workshop},
    config::{DatabaseConfig, TenantConfig, TokenConfig},
    database::open_database,
    pepper::key_names,
    pin::SignedAt,
    verdict::Verdict,
};
use crate::{
    Workspaces,
    auth::{
        Auth,
        api_key::{ApiKeys, Pepper},
        jwt::Jwt,
    },
    metrics::Metrics,
    runtime::{Component, Sandboxes},
    storage::{Database, postgres, sqlite},
    tenants::Tenant,
};

/// Databases that are opened at once.
const OPENING: usize = 8;

/// Longest time that a database may take to open: the patience of several hosts.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time that a tenant may take when it has its database and its component.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes tenants, and keeps what the next ones can share.
pub(super) struct Loader {
    pub(super) compiler: Compiler,
    means: Arc<Means>,
    databases: HashMap<DatabaseConfig, Arc<dyn Database>>,
    tenants: HashMap<String, Loaded>,
    /// Names of all tenants of the last load, those that failed too.
    names: HashSet<String>,
}

/// Tenant that serves, with its configuration.
type Loaded = (TenantConfig, Arc<Workspaces>);

/// Parts that all loads have in common.
struct Means {
    sandboxes: Sandboxes,
    metrics: Metrics,
    opening: Semaphore,
    workshop: Workshop,
    bundles: BundleWriter,
    /// Times at which the components that tenants have were signed.
    signed: Mutex<HashMap<String, SignedAt>>,
}

impl Means {
    /// Returns the times at which the components of tenants were signed.
    fn signed(&self) -> MutexGuard<'_, HashMap<String, SignedAt>> {
        self.signed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Outcome of loading one tenant.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TenantReport {
    pub(crate) tenant: String,
    pub(crate) outcome: LoadOutcome,
    /// Reason of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LoadOutcome {
    /// New tenant.
    Loaded,
    /// Tenant without a change.
    Unchanged,
    /// Tenant with another component.
    Swapped,
    /// Tenant that was made anew.
    Changed,
    /// Tenant that is no longer served.
    Removed,
    /// Tenant that could not be loaded, and gets 503; or that could not be changed, and goes on as it was.
    Failed,
}

impl Loader {
    pub(super) fn new(
        sandboxes: Sandboxes,
        metrics: Metrics,
        compiler: Compiler,
        cache: Option<Cache>,
        bundles: BundleWriter,
    ) -> Self {
        let workshop = Workshop::new(sandboxes.clone(), cache);
        let means =
            Means { sandboxes, metrics, opening: Semaphore::new(OPENING), workshop, bundles, signed: Mutex::default() };
        Self {
            compiler,
            means: Arc::new(means),
            databases: HashMap::new(),
            tenants: HashMap::new(),
            names: HashSet::new(),
        }
    }

    /// Loads the built-in component.
    pub(super) fn built_in(&self) -> impl Future<Output = Result<Component>> + Send + use<> {
        let means = self.means.clone();
        async move { means.workshop.built_in().await }
    }

    /// Returns the database of a tenant that was loaded.
    pub(super) fn database(&self, tenant: &str) -> Option<Arc<dyn Database>> {
        let (config, _) = self.tenants.get(tenant)?;
        self.databases.get(&config.database).cloned()
    }

    /// Makes what the configs say, all tenants side by side. A tenant whose config is the same goes on as it is, with its
    /// component swapped where the file has changed. One that fails goes on as before, or is there in name alone.
    ///
    /// Calls `made` as soon as a tenant is there or has failed, with its place in `configs`.
    pub(super) async fn load(
        &mut self,
        configs: &[TenantConfig],
        made: impl Fn(usize, &Result<Arc<Workspaces>, String>),
    ) -> (Vec<Tenant>, Vec<TenantReport>) {
        let load = Arc::new(Load::new(self, configs));
        let mut tasks = JoinSet::new();
        for (number, config) in configs.iter().enumerate() {
            let (load, config, before) = (load.clone(), config.clone(), self.tenants.get(&config.name).cloned());
            // Boxed: the type of all that a load awaits is too deep for the compiler.
            tasks.spawn(async move { (number, Box::pin(load.tenant(config, before)).await) });
        }
        let mut outcomes: Vec<_> = configs.iter().map(|_| Err("loading it failed".to_owned())).collect();
        while let Some(done) = tasks.join_next().await {
            // A panic is logged as such, and leaves the tenant's outcome as it is.
            let Ok((number, outcome)) = done else { continue };
            let outcome = outcome.map_err(|reason| configs[number].without_secrets(&format!("{reason:#}")));
            made(number, &outcome.as_ref().map(|(_, (_, workspaces))| workspaces.clone()).map_err(Clone::clone));
            outcomes[number] = outcome;
        }
        for (config, cell) in &load.databases {
            if let Some(Ok(opened)) = cell.get() {
                self.databases.insert(config.clone(), opened.clone());
            }
        }
        load.components.forget_other_failures(&load.means.workshop);

        let (mut tenants, mut reports, mut loaded) = (Vec::new(), Vec::new(), HashMap::new());
        for (config, made) in configs.iter().zip(outcomes) {
            let before = self.tenants.remove(&config.name);
            let (outcome, reason, kept) = match made {
                Ok((outcome, made)) => (outcome, None, Some(made)),
                Err(reason) => (LoadOutcome::Failed, Some(reason), before),
            };
            // Where it stands now: where the config says, or where it stood when it goes on as before.
            let place = kept.as_ref().map_or(config, |(config, _)| config);
            let serves = match &kept {
                Some((_, workspaces)) => Ok(workspaces.clone()),
                None => Err(reason.clone().unwrap_or_default()),
            };
            let refused = reason.clone().filter(|_| serves.is_ok());
            tenants.push(place.at(serves).refused(refused).metrics(&self.means.metrics));
            loaded.extend(kept.map(|kept| (config.name.clone(), kept)));
            reports.push(TenantReport { tenant: config.name.clone(), outcome, reason });
        }
        let names: HashSet<_> = configs.iter().map(|config| config.name.clone()).collect();
        for tenant in self.names.difference(&names) {
            self.means.metrics.forget(tenant);
            self.means.signed().remove(tenant);
            reports.push(TenantReport { tenant: tenant.clone(), outcome: LoadOutcome::Removed, reason: None });
        }
        (self.tenants, self.names) = (loaded, names);
        let used: HashSet<_> = self.tenants.values().map(|(config, _)| &config.database).collect();
        self.databases.retain(|config, _| used.contains(config));
        (tenants, reports)
    }
}

/// Load in progress: parts that its tenants share are made once, by the first that needs them.
struct Load {
    means: Arc<Means>,
    databases: HashMap<DatabaseConfig, Once<Arc<dyn Database>>>,
    components: Components,
}

impl Load {
    fn new(loader: &Loader, configs: &[TenantConfig]) -> Self {
        let database = |config: &TenantConfig| {
            let opened = loader.databases.get(&config.database).cloned().map(Ok);
            (config.database.clone(), OnceCell::new_with(opened))
        };
        let is_start = loader.names.is_empty();
        let images = if is_start { Images::PullOrLoad } else { Images::Pull };
        Self {
            means: loader.means.clone(),
            databases: configs.iter().map(database).collect(),
            components: Components::new(loader.compiler, configs, images),
        }
    }

    async fn tenant(&self, mut config: TenantConfig, before: Option<Loaded>) -> Result<(LoadOutcome, Loaded)> {
        if let Some(tokens) = &mut config.tokens {
            tokens.read().await;
        }
        let (database, components::Loaded { component, signed_at, pulled }) =
            try_join!(self.database(&config.database), self.components.load(&self.means.workshop, &config))?;
        let (name, newest) = (config.name.clone(), self.means.signed().get(&config.name).copied());
        let is_older = signed_at.zip(newest).is_some_and(|(signed_at, newest)| signed_at < newest);
        ensure!(!is_older, "the component was signed before the one that is served, and is not taken");
        let set_up = timeout(SET_UP_TIMEOUT, self.set_up(config, before, database, component)).await;
        let set_up = set_up.with_context(|| format!("the tenant was not set up within {SET_UP_TIMEOUT:?}"))??;
        match signed_at {
            Some(time) => self.means.signed().insert(name, time),
            None => self.means.signed().remove(&name),
        };
        if let Some(pulled) = pulled {
            pulled.keep().await;
        }
        Ok(set_up)
    }

    async fn set_up(
        &self,
        config: TenantConfig,
        before: Option<Loaded>,
        database: Arc<dyn Database>,
        component: Component,
    ) -> Result<(LoadOutcome, Loaded)> {
        let outcome = if before.is_some() { LoadOutcome::Changed } else { LoadOutcome::Loaded };
        if let Some((_, workspaces)) = before.filter(|(before, _)| *before == config) {
            if workspaces.component().digest() == component.digest() {
                return Ok((LoadOutcome::Unchanged, (config, workspaces)));
            }
            let verdict = recall(&config, &component).await;
            let swapped = workspaces.swap(component).await;
            swapped.map_err(|reason| anyhow!("the new component is not taken: {reason}"))?;
            keep(verdict, &config).await;
            return Ok((LoadOutcome::Swapped, (config, workspaces)));
        }
        let pepper = config.pepper.as_bytes();
        let others = database.keys_of_another_pepper(&Pepper::new(pepper).check()).await?;
        ensure!(
            others.is_empty(),
            "the database has keys that were hashed with another pepper, and would refuse them: {}: start with the pepper they were made with, or revoke them first",
            key_names(&others)
        );
        let mut auth: Arc<dyn Auth> = Arc::new(ApiKeys::new(database.clone(), pepper, config.administrators));
        if let Some(TokenConfig { keys, options, .. }) = config.tokens.clone() {
            auth = Arc::new(aside(Jwt::new(keys, options, database.clone(), auth)).await?);
        }
        let verdict = recall(&config, &component).await;
        let mut builder = Workspaces::builder(database.for_tenant(&config.name, config.quota), auth)
            .sandboxes(self.means.sandboxes.clone())
            .loaded_component(component)
            .limits(config.limits.clone())
            .require_verified(config.require_verified)
            .share(config.share.clone())
            .metrics(self.means.metrics.clone(), &config.name);
        if let Some(record) = &config.record {
            let recorder = self.means.bundles.recorder(&config.name, record);
            builder = builder.recorder(recorder.with_context(|| format!("can't make {}", record.folder.display()))?);
        }
        let workspaces = builder.build()?;
        workspaces.rehearse().await.map_err(|reason| anyhow!("the component is not taken: {reason}"))?;
        keep(verdict, &config).await;
        Ok((outcome, (config, Arc::new(workspaces))))
    }

    /// Opens a database that is not open, once.
    async fn database(&self, config: &DatabaseConfig) -> Result<Arc<dyn Database>> {
        let cell = self.databases.get(config).context("not a database of this load")?;
        let opened = cell.get_or_init(|| async {
            let _place = self.means.opening.acquire().await;
            match timeout(OPEN_TIMEOUT, aside(open(config.clone()))).await {
                Ok(opened) => opened,
                Err(_) => Err(format!("the database did not open within {OPEN_TIMEOUT:?}")),
            }
        });
        opened.await.clone().map_err(|reason| anyhow!("{reason}"))
    }
}

/// Recalls the verdict on a component. Returns the one that is still to be found, and to be kept.
async fn recall(config: &TenantConfig, component: &Component) -> Option<Verdict> {
    let verdict = Verdict::of(config, component)?;
    if !verdict.recall(component).await {
        return Some(verdict);
    }
    tracing::info!(tenant = &*config.name, component = %component.digest(), "component verified before");
    None
}

/// Keeps a verdict that was found now.
async fn keep(verdict: Option<Verdict>, config: &TenantConfig) {
    if let Some(verdict) = verdict {
        tracing::info!(tenant = &*config.name, "component verified");
        verdict.keep().await;
    }
}

async fn open(config: DatabaseConfig) -> Result<Arc<dyn Database>, String> {
    let sqlite = sqlite::SqliteOptions { batch: config.group_commit, ..Default::default() };
    let postgres = postgres::PostgresOptions { connections: config.connections, ..Default::default() };
    open_database(&config.address, &sqlite, &postgres).await.map_err(|error| error.to_string())
}

/// Runs a future that blocks its thread at times, to read a file for one, without holding up other tasks.
async fn aside<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| block_in_place(|| future.as_mut().poll(context))).await
}
