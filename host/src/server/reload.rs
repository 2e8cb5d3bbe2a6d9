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
    Source,
    admin::{Reloaded, Waiter},
    config::Config,
    load::{LoadOutcome, Loader, TenantReport},
    pin::signature_of,
};
use crate::{
    files,
    http::tls::{CertificateError, Tls},
    tenants::Tenants,
};

/// Interval at which watched files are looked at.
const WATCH: Duration = Duration::from_secs(1);

/// Reload of the configuration, its components and the certificate, into a running server.
pub(super) struct Reloader {
    pub(super) source: Arc<Source>,
    /// The configuration that the server was started with.
    pub(super) started: Config,
    pub(super) config: Config,
    /// Its files as they were before they were read: a change after that is another.
    pub(super) read: Stamps,
    pub(super) loader: Loader,
    pub(super) tenants: Arc<Tenants>,
    pub(super) tls: Option<Arc<Tls>>,
    /// True where the certificate in the file is not valid yet. With `watch`, it is read again until it is valid.
    pub(super) certificate_is_early: bool,
}

/// Returns whether a certificate was not loaded because it is not valid yet.
fn is_early(loaded: &Result<(), CertificateError>) -> bool {
    matches!(loaded, Err(CertificateError::NotYetValid { .. }))
}

/// Files, each as it was found; `None` where there was none.
pub(super) type Stamps = HashMap<PathBuf, Option<Stamp>>;

/// Marks of a file that change with its content: device, inode, size, and the time of the last change in seconds and
/// nanoseconds. The time of modification does not change where a file is copied with its times.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([u64; 3], [i64; 2]);

/// Returns the stamps of a configuration's files. Blocks its thread, within the timeout of one file; without
/// an answer there are none.
pub(super) fn stamps(file: Option<&Path>, config: &Config) -> Stamps {
    let components = config.tenants.iter().filter_map(|tenant| tenant.component.as_deref());
    let signatures = config.tenants.iter().filter(|tenant| tenant.pin.signed_by.is_some());
    let signatures = signatures.filter_map(|tenant| tenant.component.as_deref().map(signature_of));
    let certificate = config.tls.iter().flat_map(|(certificate, key)| [certificate.as_path(), key]);
    let keys = config.tenants.iter().filter_map(|tenant| tenant.tokens.as_ref()?.file());
    let files: Vec<_> = file
        .into_iter()
        .chain(components)
        .chain(certificate)
        .chain(keys)
        .map(Path::to_owned)
        .chain(signatures)
        .collect();
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
                _ = watch.tick(), if self.config.watch => {
                    self.retry_certificate().await;
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

    /// Reads a certificate again that was not valid yet when it was loaded.
    async fn retry_certificate(&mut self) {
        let Some(tls) = self.tls.clone().filter(|_| self.certificate_is_early) else { return };
        let Ok(reloaded) = files::unblocked(move || tls.reload()).await else { return };
        self.certificate_is_early = is_early(&reloaded);
        if reloaded.is_ok() {
            tracing::info!("certificate loaded, it is valid now");
        }
    }

    /// Looks at the files of the configuration; `None` without an answer.
    async fn look(&self) -> Option<Stamps> {
        let (file, config) = (self.source.file.clone(), self.config.clone());
        let found = files::unblocked(move || stamps(file.as_deref(), &config)).await.ok()?;
        (!found.is_empty()).then_some(found)
    }

    async fn reload(&mut self) -> Result<Reloaded, String> {
        let (source, tls, before) = (self.source.clone(), self.tls.clone(), self.config.clone());
        let read = files::unblocked(move || {
            let certificate = tls.map_or(Ok(()), |tls| tls.reload());
            let file = source.file.as_deref();
            let old = stamps(file, &before);
            let config = (source.read)();
            let new = config.as_ref().map(|config| stamps(file, config)).unwrap_or_default();
            (certificate, old, config, new)
        });
        let (certificate, old, config, mut new) = read.await.map_err(|error| error.to_string())?;
        self.certificate_is_early = is_early(&certificate);
        if let Err(error) = &certificate {
            tracing::error!(reason = %error, "certificate not loaded, the previous one stays");
        }
        self.read.clone_from(&old);
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::error!(reason, "configuration not loaded, everything goes on as before");
                return Err(reason);
            }
        };
        let notice = self.started.needs_restart(&config);
        if let Some(notice) = &notice {
            tracing::warn!("{notice}");
        }
        for (file, stamp) in &mut new {
            *stamp = old.get(file).copied().unwrap_or(*stamp);
        }
        self.loader.compiler = config.compiler;
        let (tenants, reports) = self.loader.load(&config.tenants, |_, _| {}).await;
        if let Err(conflict) = self.tenants.replace(tenants) {
            let reason = conflict.to_string();
            tracing::error!(reason, "configuration not loaded");
            return Err(reason);
        }
        for TenantReport { tenant, outcome, reason } in &reports {
            match (outcome, reason) {
                (LoadOutcome::Unchanged, _) => {}
                (_, Some(reason)) => tracing::error!(tenant, reason, "tenant not loaded, the previous one goes on"),
                (outcome, None) => tracing::info!(tenant, ?outcome, "loaded"),
            }
        }
        self.config = config;
        self.read = new;
        match certificate {
            Ok(()) => Ok(Reloaded { reports, notice }),
            Err(error) => Err(format!("the tenants are loaded, but the certificate stays as it was: {error}")),
        }
    }
}
