//! Addresses of databases, as libpq writes them.

use std::{str::FromStr as _, time::Duration};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    DatabaseError,
    failure::describe,
    parameters::{self, Parameter},
};
use crate::{
    files::{self, Limit},
    tls,
};

/// Maximum size of a file of authorities; a system's list has a quarter of it.
const AUTHORITIES_FILE: Limit = Limit::fixed(1 << 20);

/// Timeout for opening a session, where the address has no `connect_timeout` of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout for the acknowledgement of what was sent; the server is taken for dead then.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(4);

/// Reads an address as libpq writes it. `sslrootcert` names a file of the authorities to trust in
/// place of the system's; a server's certificate and name are always verified, whichever of
/// `require`, `verify-ca` and `verify-full` is asked for.
///
/// Gives a configuration a host, each with all else that the address says.
pub(super) fn parse(address: &str) -> Result<(Vec<Config>, MakeRustlsConnect), DatabaseError> {
    let unusable = |text: String| DatabaseError::Unusable(format!("the database address can't be used: {text}"));
    let (base, query) = address.split_once('?').unwrap_or((address, ""));
    let (mut kept, mut authorities) = (Vec::new(), None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match parameters::read(pair).map_err(unusable)? {
            Parameter::Driver(pair) => kept.push(pair),
            Parameter::Authorities(file) => authorities = file,
            Parameter::Ignored => {}
        }
    }
    let separator = if kept.is_empty() { "" } else { "?" };
    let query = format!("{separator}{}", kept.join("&"));
    let mut configs = each_host(base)
        .map(|base| Config::from_str(&format!("{base}{query}")))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(describe(&error)))?;
    configs.iter_mut().for_each(complete);

    let trusted = match authorities {
        None => tls::system_authorities(),
        Some(file) => {
            let pem = files::read(file.as_ref(), AUTHORITIES_FILE)
                .map_err(|error| unusable(format!("sslrootcert {file}: {error}")))?;
            let certificates = CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| unusable(format!("sslrootcert {file}: {}", tls::broken(&error))))?;
            let mut trusted = RootCertStore::empty();
            if trusted.add_parsable_certificates(certificates).0 == 0 {
                return Err(unusable(format!("sslrootcert {file} holds no certificate")));
            }
            trusted
        }
    };
    let tls = tls::client(trusted).map_err(|error| unusable(error.to_string()))?;
    Ok((configs, MakeRustlsConnect::new(tls)))
}

/// The address of each host that one of several names: `postgres://USER@ONE,OTHER`.
fn each_host(address: &str) -> impl Iterator<Item = String> {
    let (scheme, rest) = address.split_once("://").unwrap_or((address, ""));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    hosts.split(',').map(move |host| format!("{scheme}://{user}{host}{path}"))
}

/// Sets what an address leaves open.
fn complete(config: &mut Config) {
    if config.get_target_session_attrs() == TargetSessionAttrs::Any {
        // Of several hosts, the one that takes writes.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if !config.get_hosts().is_empty() && config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) {
        // As libpq: TLS is not for sockets of this machine.
        config.ssl_mode(SslMode::Disable);
    }
    config.tcp_user_timeout(UNACKNOWLEDGED_TIMEOUT);
    if config.get_application_name().is_none() {
        config.application_name("workspaces");
    }
}

/// Returns how long a session may take to open: the timeout of one host, or the sum of those that `host=`
/// lists, which are tried as one.
pub(super) fn connect_timeout(config: &Config) -> Duration {
    let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(u32::MAX);
    config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT).saturating_mul(hosts.max(1))
}
