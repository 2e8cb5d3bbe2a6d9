//! Tenants are made of their plans, and made anew of changed ones.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use super::plan::{Compiler, DatabasePlan, TenantPlan};
use crate::{
    COMPONENT, Workspaces,
    auth::{
        Auth,
        api_key::{ApiKeys, Pepper},
        jwt::Jwt,
    },
    gateway::Tenant,
    metrics::Metrics,
    runtime::{Component, Digest, Sandboxes},
    storage::{Database, postgres, sqlite, sweep},
};

/// Databases that are opened at once.
const OPENING: usize = 8;

/// Makes tenants, and keeps what the next ones can share.
pub(super) struct Loader {
    pub(super) sandboxes: Sandboxes,
    pub(super) metrics: Metrics,
    pub(super) compiler: Compiler,
    databases: HashMap<DatabasePlan, Opened>,
    tenants: HashMap<String, (TenantPlan, Arc<Workspaces>)>,
}

/// A database in use; old claims in it are forgotten as long as it is.
struct Opened {
    database: Arc<dyn Database>,
    sweeping: JoinHandle<()>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.sweeping.abort();
    }
}

/// What became of a tenant.
#[derive(Debug, Clone, Serialize)]
pub(in crate::cli) struct Report {
    pub(in crate::cli) tenant: String,
    pub(in crate::cli) outcome: Outcome,
    /// Why, where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum Outcome {
    /// It was not there before.
    Loaded,
    /// Nothing about it has changed.
    Unchanged,
    /// It has another component.
    Swapped,
    /// It was made anew.
    Changed,
    /// It is no longer served.
    Removed,
    /// It could not be loaded, and gets 503; or it could not be changed, and goes on as it was.
    Failed,
}

impl Loader {
    pub(super) fn new(sandboxes: Sandboxes, metrics: Metrics, compiler: Compiler) -> Self {
        Self { sandboxes, metrics, compiler, databases: HashMap::new(), tenants: HashMap::new() }
    }

    /// The database of a tenant that was loaded.
    pub(super) fn database(&self, tenant: &str) -> Option<Arc<dyn Database>> {
        let (plan, _) = self.tenants.get(tenant)?;
        Some(self.databases.get(&plan.database)?.database.clone())
    }

    /// Makes what the plans say. A tenant whose plan is the same goes on as it is, with its component
    /// swapped where the file has changed. One that fails goes on as before, or is there in name alone.
    pub(super) async fn load(&mut self, plans: &[TenantPlan]) -> (Vec<Tenant>, Vec<Report>) {
        let databases = self.open(plans).await;
        let components = self.components(plans).await;
        let (mut tenants, mut reports, mut loaded) = (Vec::new(), Vec::new(), HashMap::new());
        for plan in plans {
            let before = self.tenants.remove(&plan.name);
            let made = self.make(plan, before.as_ref(), &databases[&plan.database], &components[&plan.component]).await;
            let (report, kept) = match (made, before) {
                (Ok((outcome, workspaces)), _) => (Ok(outcome), Some((plan.clone(), workspaces))),
                (Err(reason), before) => (Err(reason), before),
            };
            let (outcome, reason) = match report {
                Ok(outcome) => (outcome, None),
                Err(reason) => (Outcome::Failed, Some(format!("{reason:#}"))),
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
        let removed =
            self.tenants.drain().map(|(tenant, _)| Report { tenant, outcome: Outcome::Removed, reason: None });
        reports.extend(removed);
        self.tenants = loaded;
        let used: HashSet<_> = self.tenants.values().map(|(plan, _)| &plan.database).collect();
        self.databases.retain(|plan, _| used.contains(plan));
        (tenants, reports)
    }

    async fn make(
        &self,
        plan: &TenantPlan,
        before: Option<&(TenantPlan, Arc<Workspaces>)>,
        database: &Result<Arc<dyn Database>, String>,
        component: &Result<Component, String>,
    ) -> Result<(Outcome, Arc<Workspaces>)> {
        let database = database.as_ref().map_err(|reason| anyhow!("{reason}"))?;
        let component = component.as_ref().map_err(|reason| anyhow!("{reason}"))?;
        if let Some((_, workspaces)) = before.filter(|(before, _)| before == plan) {
            if workspaces.component().digest() == component.digest() {
                return Ok((Outcome::Unchanged, workspaces.clone()));
            }
            let swapped = workspaces.swap(component.clone()).await;
            swapped.map_err(|reason| anyhow!("the new component is not taken: {reason}"))?;
            return Ok((Outcome::Swapped, workspaces.clone()));
        }
        let pepper = plan.pepper.as_bytes();
        ensure!(
            !database.has_keys_of_another_pepper(&Pepper::new(pepper).check()).await?,
            "the database holds keys that were hashed with another pepper, and would refuse them: start with the WORKSPACES_KEY_PEPPER they were made with, or revoke them first"
        );
        let mut auth: Arc<dyn Auth> = Arc::new(ApiKeys::new(database.clone(), pepper, plan.administrators));
        if let Some(tokens) = &plan.tokens {
            auth = Arc::new(Jwt::new(tokens.keys.clone(), tokens.options.clone(), auth).await?);
        }
        let workspaces = Workspaces::builder(database.clone(), auth)
            .sandboxes(self.sandboxes.clone())
            .loaded_component(component.clone())
            .limits(plan.limits.clone())
            .share(plan.share.clone())
            .metrics(self.metrics.clone(), &plan.name)
            .build()?;
        workspaces.rehearse().await.map_err(|reason| anyhow!("the component is not taken: {reason}"))?;
        let outcome = if before.is_some() { Outcome::Changed } else { Outcome::Loaded };
        Ok((outcome, Arc::new(workspaces)))
    }

    /// Opens each database that is not open, once, some at a time.
    async fn open(&mut self, plans: &[TenantPlan]) -> HashMap<DatabasePlan, Result<Arc<dyn Database>, String>> {
        let mut databases = HashMap::new();
        let (mut opening, places) = (JoinSet::new(), Arc::new(Semaphore::new(OPENING)));
        for plan in plans.iter().map(|plan| &plan.database) {
            if databases.contains_key(plan) {
                continue;
            }
            if let Some(opened) = self.databases.get(plan) {
                databases.insert(plan.clone(), Ok(opened.database.clone()));
                continue;
            }
            databases.insert(plan.clone(), Err("not opened".to_owned()));
            let (plan, places) = (plan.clone(), places.clone());
            opening.spawn(async move {
                let _place = places.acquire().await;
                let sqlite = sqlite::Options { batch: plan.group_commit, ..Default::default() };
                let postgres = postgres::Options { connections: plan.connections };
                let database = plan.address.open(&sqlite, &postgres).await.map_err(|error| error.to_string());
                (plan, database)
            });
        }
        while let Some(opened) = opening.join_next().await {
            let Ok((plan, database)) = opened else { continue };
            if let Ok(database) = &database {
                let swept = database.clone();
                let sweeping = tokio::spawn(async move { sweep(&*swept).await });
                self.databases.insert(plan.clone(), Opened { database: database.clone(), sweeping });
            }
            databases.insert(plan, database);
        }
        databases
    }

    /// Loads each component, once.
    async fn components(&self, plans: &[TenantPlan]) -> HashMap<Option<PathBuf>, Result<Component, String>> {
        let mut components = HashMap::new();
        for file in plans.iter().map(|plan| &plan.component) {
            if !components.contains_key(file) {
                let component = match file {
                    None => self.sandboxes.compile(COMPONENT).map_err(|error| error.to_string()),
                    Some(file) => self.component(file).await.map_err(|error| format!("{error:#}")),
                };
                components.insert(file.clone(), component);
            }
        }
        components
    }

    async fn component(&self, file: &Path) -> Result<Component> {
        let name = file.display();
        let wasm = fs::read(file).with_context(|| format!("can't read the component {name}"))?;
        if let Some(component) = self.sandboxes.find(&Digest::of(&wasm)) {
            return Ok(component);
        }
        let compiled = self.compiler.compile(&wasm).await.with_context(|| format!("can't load {name}"))?;
        #[allow(unsafe_code, reason = "there is no other way to take compiled code")]
        // SAFETY: it is what this program's own `compile` wrote into a pipe that nobody else can reach.
        let component = unsafe { self.sandboxes.load(&wasm, &compiled) };
        component.with_context(|| format!("can't load {name}"))
    }
}
