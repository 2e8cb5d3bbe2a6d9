//! Loading anew, while requests come.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::Signal,
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    Serve,
    admin::{Reloaded, Waiter},
    load::{Loader, Outcome, Report},
    plan::Plan,
};
use crate::{files, gateway::Gateway, http::tls::Tls};

/// Interval at which watched files are looked at.
const WATCH: Duration = Duration::from_secs(1);

/// Reads the plan again when it is told to, and has the gateway follow it.
pub(super) struct Reloader {
    pub(super) serve: Arc<Serve>,
    /// The plan that the server was started with.
    pub(super) started: Plan,
    pub(super) plan: Plan,
    /// Its files as they were before they were read: a change after that is another.
    pub(super) read: Stamps,
    pub(super) loader: Loader,
    pub(super) gateway: Arc<Gateway>,
    pub(super) tls: Option<Arc<Tls>>,
}

/// Files, each as it was found; `None` where there was none.
pub(super) type Stamps = HashMap<PathBuf, Option<Stamp>>;

/// Marks of a file that change with its content: device, inode, size, and the time of the last change in seconds and
/// nanoseconds. The time of modification does not change where a file is copied with its times.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([u64; 3], [i64; 2]);

/// Returns the stamps of the files that a plan is made of. Blocks its thread, within the timeout of one file; without
/// an answer there are none.
pub(super) fn stamps(config: Option<&Path>, plan: &Plan) -> Stamps {
    let components = plan.tenants.iter().filter_map(|tenant| tenant.component.as_deref());
    let files: Vec<_> = config.into_iter().chain(components).map(Path::to_owned).collect();
    let stamp = |file: PathBuf| {
        let found = fs::metadata(&file).ok();
        let stamp =
            found.map(|found| Stamp([found.dev(), found.ino(), found.size()], [found.ctime(), found.ctime_nsec()]));
        (file, stamp)
    };
    files::within_timeout(move || files.into_iter().map(stamp).collect()).unwrap_or_default()
}

impl Reloader {
    /// Follows SIGHUP, the administration, and the files where they are watched. Never returns.
    pub(super) async fn run(mut self, mut hangup: Signal, mut waiters: mpsc::Receiver<Waiter>) {
        let mut last = self.read.clone();
        let mut watch = interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let waiter = tokio::select! {
                _ = hangup.recv() => None,
                Some(waiter) = waiters.recv() => Some(waiter),
                _ = watch.tick(), if self.plan.watch => {
                    let Some(now) = self.look().await else { continue };
                    // Changed, and no more since the last look: nobody is writing it now.
                    let is_ready = now != self.read && now == last;
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

    /// Looks at the files of the plan; `None` without an answer.
    async fn look(&self) -> Option<Stamps> {
        let (config, plan) = (self.serve.config.clone(), self.plan.clone());
        let found = files::unblocked(move || stamps(config.as_deref(), &plan)).await.ok()?;
        (!found.is_empty()).then_some(found)
    }

    async fn reload(&mut self) -> Result<Reloaded, String> {
        let (serve, tls, before) = (self.serve.clone(), self.tls.clone(), self.plan.clone());
        let read = files::unblocked(move || {
            let certificate = tls.map_or(Ok(()), |tls| tls.reload());
            let config = serve.config.as_deref();
            let old = stamps(config, &before);
            let plan = serve.plan();
            let new = plan.as_ref().map(|plan| stamps(config, plan)).unwrap_or_default();
            (certificate, old, plan, new)
        });
        let (certificate, old, plan, mut new) = read.await.map_err(|error| error.to_string())?;
        if let Err(error) = &certificate {
            tracing::error!(%error, "the certificate stays as it was");
        }
        self.read.clone_from(&old);
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(reason, "not loaded: everything goes on as before");
                return Err(reason);
            }
        };
        let notice = self.started.needs_restart(&plan);
        if let Some(notice) = &notice {
            tracing::warn!("{notice}");
        }
        for (file, stamp) in &mut new {
            *stamp = old.get(file).copied().unwrap_or(*stamp);
        }
        self.loader.compiler = plan.compiler;
        let (tenants, reports) = self.loader.load(&plan.tenants, |_, _| {}).await;
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
        self.read = new;
        match certificate {
            Ok(()) => Ok(Reloaded { reports, notice }),
            Err(error) => Err(format!("the tenants are loaded, but the certificate stays as it was: {error}")),
        }
    }
}
