//! Taking away from a process what it does not need.

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Denies this process all files that it has not open, all connections and all processes but its own.
///
/// The limit of open files works on each system. Landlock also denies what needs no open file, such as to rename or
/// remove one, where the kernel has it; an older kernel denies a part of it or nothing. Landlock holds for the calling
/// thread: call this before there are others.
///
/// # Errors
///
/// Where the system has the means and refuses them.
pub(crate) fn seal() -> Result<()> {
    #[cfg(target_os = "linux")]
    deny_access().context("Landlock refuses its rules")?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Nofile, none).context("can't limit the open files to 0")
}

/// Denies this thread and its children the file system, TCP, and signals and sockets of other processes. Sets
/// `no_new_privs`.
#[cfg(target_os = "linux")]
fn deny_access() -> Result<landlock::RestrictionStatus, landlock::RulesetError> {
    use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, Scope};

    // The newest with access rights that concern the compiler, of Linux 6.12.
    let abi = ABI::V6;
    Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{fs, net::TcpListener, thread};

    use anyhow::{Result, anyhow};
    use landlock::RulesetStatus;

    #[test]
    fn a_sealed_thread_reaches_no_file_and_no_network() -> Result<()> {
        let kept = std::env::temp_dir().join(format!("sealed-{}", std::process::id()));
        fs::write(&kept, "kept")?;
        let sealed = {
            let kept = kept.clone();
            thread::spawn(move || -> Result<_> {
                let status = super::deny_access()?;
                let denied = [
                    fs::read("/proc/self/status").is_err(),
                    fs::write(&kept, "changed").is_err(),
                    fs::remove_file(&kept).is_err(),
                    TcpListener::bind("127.0.0.1:0").is_err(),
                ];
                Ok((status, denied))
            })
        };
        let (status, denied) = sealed.join().map_err(|_| anyhow!("a panic"))??;
        assert_eq!(fs::read(&kept)?, b"kept");
        fs::remove_file(&kept)?;
        assert!(status.no_new_privs);
        // An older kernel denies less, down to nothing.
        if status.ruleset == RulesetStatus::FullyEnforced {
            assert_eq!(denied, [true; 4]);
        }
        Ok(())
    }
}
