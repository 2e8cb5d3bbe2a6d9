//! Tenants are made of their plans, and made anew of changed ones.

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    pin::pin,
    sync::Arc,
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
    super::{key, open_database},
    components::{Components, Once, Workshop},
    plan::{Compiler, DatabasePlan, TenantPlan, TokenPlan},
};
use crate::{
    Workspaces,
    auth::{
        Auth,
        api_key::{ApiKeys, Pepper},
        jwt::Jwt,
    },
    gateway::Tenant,
    metrics::Metrics,
    runtime::{Component, Sandboxes},
    storage::{Database, postgres, sqlite},
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
    databases: HashMap<DatabasePlan, Arc<dyn Database>>,
    tenants: HashMap<String, Loaded>,
}

/// A tenant that serves, and the plan that it was made of.
type Loaded = (TenantPlan, Arc<Workspaces>);

/// Parts that all loads have in common.
struct Means {
    sandboxes: Sandboxes,
    metrics: Metrics,
    opening: Semaphore,
    workshop: Workshop,
}

/// Outcome of loading one tenant.
#[derive(Debug, Clone, Serialize)]
pub(in crate::cli) struct Report {
    pub(in crate::cli) tenant: String,
    pub(in crate::cli) outcome: Outcome,
    /// Reason of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum Outcome {
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
    pub(super) fn new(sandboxes: Sandboxes, metrics: Metrics, compiler: Compiler) -> Self {
        let workshop = Workshop::new(sandboxes.clone());
        let means = Means { sandboxes, metrics, opening: Semaphore::new(OPENING), workshop };
        Self { compiler, means: Arc::new(means), databases: HashMap::new(), tenants: HashMap::new() }
    }

    /// Returns the database of a tenant that was loaded.
    pub(super) fn database(&self, tenant: &str) -> Option<Arc<dyn Database>> {
        let (plan, _) = self.tenants.get(tenant)?;
        self.databases.get(&plan.database).cloned()
    }

    /// Makes what the plans say, all tenants side by side. A tenant whose plan is the same goes on as it is, with its
    /// component swapped where the file has changed. One that fails goes on as before, or is there in name alone.
    ///
    /// Calls `made` as soon as a tenant is there or has failed, with its place in `plans`.
    pub(super) async fn load(
        &mut self,
        plans: &[TenantPlan],
        made: impl Fn(usize, &Result<Arc<Workspaces>, String>),
    ) -> (Vec<Tenant>, Vec<Report>) {
        let load = Arc::new(Load::new(self, plans));
        let mut tasks = JoinSet::new();
        for (number, plan) in plans.iter().enumerate() {
            let (load, plan, before) = (load.clone(), plan.clone(), self.tenants.get(&plan.name).cloned());
            // Boxed: the type of all that a load awaits is too deep for the compiler.
            tasks.spawn(async move { (number, Box::pin(load.tenant(plan, before)).await) });
        }
        let mut outcomes: Vec<_> = plans.iter().map(|_| Err("loading it failed".to_owned())).collect();
        while let Some(done) = tasks.join_next().await {
            // A panic is logged as such, and leaves the tenant's outcome as it is.
            let Ok((number, outcome)) = done else { continue };
            let outcome = outcome.map_err(|reason| plans[number].without_secrets(&format!("{reason:#}")));
            made(number, &outcome.as_ref().map(|(_, (_, workspaces))| workspaces.clone()).map_err(Clone::clone));
            outcomes[number] = outcome;
        }
        for (plan, cell) in &load.databases {
            if let Some(Ok(opened)) = cell.get() {
                self.databases.insert(plan.clone(), opened.clone());
            }
        }
        load.components.forget_other_failures(&load.means.workshop);

        let (mut tenants, mut reports, mut loaded) = (Vec::new(), Vec::new(), HashMap::new());
        for (plan, made) in plans.iter().zip(outcomes) {
            let before = self.tenants.remove(&plan.name);
            let (outcome, reason, kept) = match made {
                Ok((outcome, made)) => (outcome, None, Some(made)),
                Err(reason) => (Outcome::Failed, Some(reason), before),
            };
            // Where it stands now: where the plan says, or where it stood when it goes on as before.
            let place = kept.as_ref().map_or(plan, |(plan, _)| plan);
            let serves = match &kept {
                Some((_, workspaces)) => Ok(workspaces.clone()),
                None => Err(reason.clone().unwrap_or_default()),
            };
            tenants.push(place.at(serves));
            loaded.extend(kept.map(|kept| (plan.name.clone(), kept)));
            reports.push(Report { tenant: plan.name.clone(), outcome, reason });
        }
        for (tenant, _) in self.tenants.drain() {
            self.means.metrics.forget(&tenant);
            reports.push(Report { tenant, outcome: Outcome::Removed, reason: None });
        }
        self.tenants = loaded;
        let used: HashSet<_> = self.tenants.values().map(|(plan, _)| &plan.database).collect();
        self.databases.retain(|plan, _| used.contains(plan));
        (tenants, reports)
    }
}

/// Load in progress: parts that its tenants share are made once, by the first that needs them.
struct Load {
    means: Arc<Means>,
    databases: HashMap<DatabasePlan, Once<Arc<dyn Database>>>,
    components: Components,
}

impl Load {
    fn new(loader: &Loader, plans: &[TenantPlan]) -> Self {
        let database = |plan: &TenantPlan| {
            let opened = loader.databases.get(&plan.database).cloned().map(Ok);
            (plan.database.clone(), OnceCell::new_with(opened))
        };
        Self {
            means: loader.means.clone(),
            databases: plans.iter().map(database).collect(),
            components: Components::new(loader.compiler, plans),
        }
    }

    async fn tenant(&self, mut plan: TenantPlan, before: Option<Loaded>) -> Result<(Outcome, Loaded)> {
        if let Some(tokens) = &mut plan.tokens {
            tokens.read().await;
        }
        let (database, component) =
            try_join!(self.database(&plan.database), self.components.load(&self.means.workshop, &plan.component))?;
        let set_up = timeout(SET_UP_TIMEOUT, self.set_up(plan, before, database, component)).await;
        set_up.with_context(|| format!("the tenant was not set up within {SET_UP_TIMEOUT:?}"))?
    }

    async fn set_up(
        &self,
        plan: TenantPlan,
        before: Option<Loaded>,
        database: Arc<dyn Database>,
        component: Component,
    ) -> Result<(Outcome, Loaded)> {
        let outcome = if before.is_some() { Outcome::Changed } else { Outcome::Loaded };
        if let Some((_, workspaces)) = before.filter(|(before, _)| *before == plan) {
            if workspaces.component().digest() == component.digest() {
                return Ok((Outcome::Unchanged, (plan, workspaces)));
            }
            let swapped = workspaces.swap(component).await;
            swapped.map_err(|reason| anyhow!("the new component is not taken: {reason}"))?;
            return Ok((Outcome::Swapped, (plan, workspaces)));
        }
        let pepper = plan.pepper.as_bytes();
        let others = database.keys_of_another_pepper(&Pepper::new(pepper).check()).await?;
        ensure!(
            others.is_empty(),
            "the database has keys that were hashed with another pepper, and would refuse them: {}: start with the pepper they were made with, or revoke them first",
            key::names(&others)
        );
        let mut auth: Arc<dyn Auth> = Arc::new(ApiKeys::new(database.clone(), pepper, plan.administrators));
        if let Some(TokenPlan { keys, options, .. }) = plan.tokens.clone() {
            auth = Arc::new(aside(Jwt::new(keys, options, database.clone(), auth)).await?);
        }
        let workspaces = Workspaces::builder(database.for_tenant(&plan.name, plan.quota), auth)
            .sandboxes(self.means.sandboxes.clone())
            .loaded_component(component)
            .limits(plan.limits.clone())
            .share(plan.share.clone())
            .metrics(self.means.metrics.clone(), &plan.name)
            .build()?;
        workspaces.rehearse().await.map_err(|reason| anyhow!("the component is not taken: {reason}"))?;
        Ok((outcome, (plan, Arc::new(workspaces))))
    }

    /// Opens a database that is not open, once.
    async fn database(&self, plan: &DatabasePlan) -> Result<Arc<dyn Database>> {
        let cell = self.databases.get(plan).context("not a database of this load")?;
        let opened = cell.get_or_init(|| async {
            let _place = self.means.opening.acquire().await;
            match timeout(OPEN_TIMEOUT, aside(open(plan.clone()))).await {
                Ok(opened) => opened,
                Err(_) => Err(format!("the database did not open within {OPEN_TIMEOUT:?}")),
            }
        });
        opened.await.clone().map_err(|reason| anyhow!("{reason}"))
    }
}

async fn open(plan: DatabasePlan) -> Result<Arc<dyn Database>, String> {
    let sqlite = sqlite::Options { batch: plan.group_commit, ..Default::default() };
    let postgres = postgres::Options { connections: plan.connections, ..Default::default() };
    open_database(&plan.address, &sqlite, &postgres).await.map_err(|error| error.to_string())
}

/// Runs a future that blocks its thread at times, to read a file for one, without holding up other tasks.
async fn aside<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| block_in_place(|| future.as_mut().poll(context))).await
}
