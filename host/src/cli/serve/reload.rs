//! Loading anew, while requests come.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::Signal,
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    Serve,
    admin::Waiter,
    load::{Loader, Outcome, Report},
    plan::Plan,
};
use crate::{gateway::Gateway, http::tls::Tls};

/// How often files are looked at, where they are watched.
const WATCH: Duration = Duration::from_secs(1);

/// Reads the plan again when it is told to, and has the gateway follow it.
pub(super) struct Reloader {
    pub(super) serve: Serve,
    pub(super) plan: Plan,
    /// When its files were changed, before they were read: a change after that is another.
    pub(super) loaded: Times,
    pub(super) loader: Loader,
    pub(super) gateway: Arc<Gateway>,
    pub(super) tls: Option<Arc<Tls>>,
}

/// The times at which files were changed.
pub(super) type Times = HashMap<PathBuf, Option<SystemTime>>;

/// When the files were changed that a plan is made of.
pub(super) fn times(config: Option<&Path>, plan: &Plan) -> Times {
    let components = plan.tenants.iter().filter_map(|tenant| tenant.component.as_deref());
    let time = |file| fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    config.into_iter().chain(components).map(|file| (file.to_owned(), time(file))).collect()
}

impl Reloader {
    /// Follows SIGHUP, the administration, and the files where they are watched. Never returns.
    pub(super) async fn run(mut self, mut hangup: Signal, mut waiters: mpsc::Receiver<Waiter>) {
        let mut last = self.loaded.clone();
        let mut watch = interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let waiter = tokio::select! {
                _ = hangup.recv() => None,
                Some(waiter) = waiters.recv() => Some(waiter),
                _ = watch.tick(), if self.plan.watch => {
                    let now = times(self.serve.config.as_deref(), &self.plan);
                    // Changed, and no more since the last look: nobody is writing it now.
                    let is_ready = now != self.loaded && now == last;
                    last = now;
                    if !is_ready {
                        continue;
                    }
                    None
                }
            };
            let outcome = self.reload().await;
            if let Some(waiter) = waiter {
                let _ = waiter.send(outcome);
            }
        }
    }

    async fn reload(&mut self) -> Result<Vec<Report>, String> {
        let certificate = self.tls.as_ref().map_or(Ok(()), |tls| tls.reload());
        if let Err(error) = &certificate {
            tracing::error!(%error, "the certificate stays as it was");
        }
        self.loaded = times(self.serve.config.as_deref(), &self.plan);
        let plan = match self.serve.plan() {
            Ok(plan) => plan,
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(reason, "not loaded: everything goes on as before");
                return Err(reason);
            }
        };
        if plan.pool != self.plan.pool || plan.listen != self.plan.listen || plan.admin != self.plan.admin {
            tracing::warn!("addresses and the pool change with the next start");
        }
        let mut read = times(self.serve.config.as_deref(), &plan);
        for (file, time) in &mut read {
            *time = self.loaded.get(file).copied().unwrap_or(*time);
        }
        self.loader.compiler = plan.compiler;
        let (tenants, reports) = self.loader.load(&plan.tenants).await;
        if let Err(conflict) = self.gateway.replace(tenants) {
            let reason = conflict.to_string();
            tracing::error!(reason, "not loaded");
            return Err(reason);
        }
        for Report { tenant, outcome, reason } in &reports {
            match (outcome, reason) {
                (Outcome::Unchanged, _) => {}
                (_, Some(reason)) => tracing::error!(tenant, reason, "not loaded: it goes on as before"),
                (outcome, None) => tracing::info!(tenant, ?outcome, "loaded"),
            }
        }
        self.plan = plan;
        self.loaded = read;
        match certificate {
            Ok(()) => Ok(reports),
            Err(error) => Err(format!("the tenants are loaded, but the certificate stays as it was: {error}")),
        }
    }
}
