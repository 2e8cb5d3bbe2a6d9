//! Verdicts of the judge of components that outlive the process: a file beside the component, with a MAC on each line that
//! only the operator can make.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::config::TenantConfig;
use crate::{
    files::{self, Limit},
    harness::{Rule, case},
    hex::hex,
    runtime::{Component, Digest, SandboxLimits},
};

/// Verdict that a component keeps the contract, for one tenant.
pub(super) struct Verdict {
    file: PathBuf,
    limits: SandboxLimits,
    /// MAC of all that the verdict depends on, with the tenant's pepper: whoever can write the component can't make one.
    mac: String,
}

/// Maximum size of the file: a line for each tenant with the component, and those of components before it. One that is
/// larger is begun anew.
const MOST: u64 = 64 << 10;

impl Verdict {
    /// Returns the verdict that is kept, or will be, for a tenant whose component has to be verified. The built-in
    /// component has no file, and is judged at each start.
    pub(super) fn of(config: &TenantConfig, component: &Component) -> Option<Self> {
        let path = config.component.as_deref().filter(|_| config.require_verified)?;
        let limits = config.limits.clone();
        let mut mac = Hmac::<Sha256>::new_from_slice(config.pepper.as_bytes()).ok()?;
        let judged = format!("verified by {} with {limits:?}: {}", gate_version(), component.digest());
        mac.update(judged.as_bytes());
        let mac = hex(&mac.finalize().into_bytes());
        Some(Self { file: file_of(path), limits, mac })
    }

    /// Recalls the verdict, if it was kept. Then the component is not judged again.
    pub(super) async fn recall(&self, component: &Component) -> bool {
        let file = self.file.clone();
        let kept = files::unblocked(move || files::read_text(&file, Limit::fixed(MOST))).await.flatten();
        let is_kept = kept.is_ok_and(|lines| lines.lines().any(|line| line == self.mac));
        if is_kept {
            // The gate finds it, and does not judge the component.
            component.verdicts().lock().await.push((self.limits.clone(), Ok(())));
        }
        is_kept
    }

    /// Keeps the verdict. Where that is not possible, the component is judged again at the next start.
    pub(super) async fn keep(&self) {
        let (file, line) = (self.file.clone(), format!("{}\n", self.mac));
        let kept = files::unblocked(move || {
            let is_full = fs::metadata(&file).is_ok_and(|found| found.len() + line.len() as u64 > MOST);
            let mut options = fs::OpenOptions::new();
            options.create(true).append(!is_full).write(true).truncate(is_full).mode(0o600);
            options.open(&file)?.write_all(line.as_bytes())
        });
        if let Err(error) = kept.await.and_then(|kept| kept) {
            tracing::info!(%error, file = %self.file.display(), "verdict not kept");
        }
    }
}

/// Returns the version of the gate: that of the program, with a digest of the rules and the cases.
fn gate_version() -> String {
    let sentences: Vec<_> = Rule::ALL.iter().map(|rule| rule.sentence()).collect();
    let judged = serde_json::to_vec(&(sentences, case::built_in())).unwrap_or_default();
    format!("{} {}", env!("CARGO_PKG_VERSION"), Digest::of(&judged))
}

/// Returns the file beside a component: `acme.wasm.verified`.
fn file_of(component: &Path) -> PathBuf {
    let mut file = component.as_os_str().to_owned();
    file.push(".verified");
    file.into()
}
