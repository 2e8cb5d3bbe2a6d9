//! Many tenants behind one address.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    Workspaces,
    metrics::{Meter, Metrics},
};

/// The tenants of a host, found by host name and path. They can be replaced while requests come; one
/// in progress stays with the tenant it was for.
pub struct Tenants {
    table: RwLock<Arc<Table>>,
    /// Number of tenants that could write at the last check, and its time. Locked during a check.
    ready: Mutex<Option<(Instant, (usize, usize))>>,
}

/// Tenant with its place in a tenants.
#[derive(Clone)]
pub struct Tenant {
    name: String,
    hosts: Vec<String>,
    path: String,
    /// Counter of the answers that it gets while it serves nothing.
    meter: Option<Meter>,
    /// Empty while the tenant is being loaded. Clones share it.
    loaded: Arc<OnceLock<Result<Arc<Workspaces>, String>>>,
    /// Reason why its last change was not taken, while it serves as before.
    refused: Option<String>,
}

/// Two tenants that the same request would be for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tenants {first} and {second} are both at {}{path}", host.as_deref().unwrap_or("every host "))]
pub struct Conflict {
    /// The one.
    pub first: String,
    /// The other.
    pub second: String,
    /// The host name that both have; `None` where both take every host.
    pub host: Option<String>,
    /// The path under it.
    pub path: String,
}

/// Tenants by host, then by path; under no host those that take every host.
#[derive(Default)]
struct Table {
    paths: HashMap<Option<String>, HashMap<String, Arc<Tenant>>>,
    tenants: Vec<Arc<Tenant>>,
}

/// Time for which the result of a check is the answer.
const ASKED: Duration = Duration::from_millis(500);

impl Tenants {
    /// Returns a table of these tenants.
    ///
    /// # Errors
    ///
    /// A [`Conflict`] between two of them.
    pub fn new(tenants: Vec<Tenant>) -> Result<Self, Conflict> {
        Ok(Self { table: RwLock::new(Arc::new(Table::new(tenants)?)), ready: Mutex::new(None) })
    }

    /// Puts these in the place of the tenants so far, all at once.
    ///
    /// # Errors
    ///
    /// A [`Conflict`] between two of them; those so far stay.
    pub fn replace(&self, tenants: Vec<Tenant>) -> Result<(), Conflict> {
        let table = Arc::new(Table::new(tenants)?);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(())
    }

    /// Returns the tenant that a request to this host and path is for, and how many bytes of the path are the
    /// tenant's own: the one with the longest path among those with the host, or else among those that
    /// take every host.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<(Arc<Tenant>, usize)> {
        let table = self.table();
        let own = host.and_then(|host| table.paths.get(&Some(host.trim_end_matches('.').to_ascii_lowercase())));
        own.and_then(|paths| longest(paths, path)).or_else(|| longest(table.paths.get(&None)?, path))
    }

    /// Returns all tenants.
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.table().tenants.clone()
    }

    /// Returns how many tenants could write half a second ago at most, and how many there are.
    pub async fn ready(&self) -> (usize, usize) {
        let mut asked = self.ready.lock().await;
        if let Some((_, ready)) = asked.filter(|(when, _)| when.elapsed() < ASKED) {
            return ready;
        }
        let tenants = self.tenants();
        let mut checks = JoinSet::new();
        for workspaces in tenants.iter().filter_map(|tenant| tenant.workspaces().ok().cloned()) {
            checks.spawn(async move { workspaces.ready().await.is_ok() });
        }
        let ready = (checks.join_all().await.into_iter().filter(|ready| *ready).count(), tenants.len());
        *asked = Some((Instant::now(), ready));
        ready
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns the tenant with the longest of the path's beginnings, whole segments only.
fn longest(paths: &HashMap<String, Arc<Tenant>>, path: &str) -> Option<(Arc<Tenant>, usize)> {
    let mut prefix = path.trim_end_matches('/');
    loop {
        if let Some(tenant) = paths.get(prefix) {
            return Some((tenant.clone(), prefix.len()));
        }
        prefix = &prefix[..prefix.rfind('/')?];
    }
}

impl Table {
    fn new(tenants: Vec<Tenant>) -> Result<Self, Conflict> {
        let mut table = Self::default();
        for tenant in tenants.into_iter().map(Arc::new) {
            let hosts: Vec<_> = match tenant.hosts.as_slice() {
                [] => vec![None],
                hosts => hosts.iter().cloned().map(Some).collect(),
            };
            for host in hosts {
                let paths = table.paths.entry(host.clone()).or_default();
                if let Some(first) = paths.insert(tenant.path.clone(), tenant.clone()) {
                    let (first, second) = (first.name.clone(), tenant.name.clone());
                    return Err(Conflict { first, second, host, path: tenant.path.clone() });
                }
            }
            table.tenants.push(tenant);
        }
        Ok(table)
    }
}

impl Tenant {
    /// Returns a tenant at these host names (every one where there are none) and under this path (`/acme`; the
    /// whole host where it is empty). Where it could not be made there is the reason in its place, and
    /// its requests get 503.
    pub fn new(
        name: impl Into<String>,
        hosts: impl IntoIterator<Item = impl Into<String>>,
        path: impl Into<String>,
        workspaces: Result<Arc<Workspaces>, String>,
    ) -> Self {
        let tenant = Self::loading(name, hosts, path);
        tenant.set_loaded(workspaces);
        tenant
    }

    /// Returns a tenant that is still being loaded: its requests get 503 until [`set_loaded`](Self::set_loaded) is
    /// called.
    pub fn loading(
        name: impl Into<String>,
        hosts: impl IntoIterator<Item = impl Into<String>>,
        path: impl Into<String>,
    ) -> Self {
        let host = |host: String| host.trim_end_matches('.').to_ascii_lowercase();
        let hosts = hosts.into_iter().map(|name| host(name.into())).collect();
        let path = path.into().trim_end_matches('/').to_owned();
        Self { name: name.into(), hosts, path, meter: None, loaded: Arc::default(), refused: None }
    }

    /// Counts the answers to the tenant's requests while it serves nothing. While it serves, its
    /// [`Workspaces`] count.
    #[must_use]
    pub fn metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Some(metrics.meter(&self.name));
        self
    }

    /// Sets the reason why a change of the tenant was not taken, so that it serves as before.
    #[must_use]
    pub fn refused(mut self, reason: Option<String>) -> Self {
        self.refused = reason;
        self
    }

    /// Returns the reason why its last change was not taken.
    pub fn refusal(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Counts the answer to a request while the tenant serves nothing.
    pub(crate) fn count_answer(&self, status: u16, latency: Duration) {
        if let Some(meter) = &self.meter {
            meter.answered(status, latency);
        }
    }

    /// Sets what a tenant that was being loaded serves with, or the reason why it serves nothing. Only the first call
    /// has an effect.
    pub fn set_loaded(&self, workspaces: Result<Arc<Workspaces>, String>) {
        let _ = self.loaded.set(workspaces);
    }

    /// Returns whether it is still being loaded.
    pub fn is_loading(&self) -> bool {
        self.loaded.get().is_none()
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the operation that it serves with.
    ///
    /// # Errors
    ///
    /// Why it serves nothing.
    pub fn workspaces(&self) -> Result<&Arc<Workspaces>, &str> {
        match self.loaded.get() {
            Some(loaded) => loaded.as_ref().map_err(String::as_str),
            None => Err("it is being loaded"),
        }
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tenant")
            .field("name", &self.name)
            .field("hosts", &self.hosts)
            .field("path", &self.path)
            .field("workspaces", &self.workspaces())
            .finish()
    }
}

impl fmt::Debug for Tenants {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Tenants").field(&self.table().tenants).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str, hosts: &[&str], path: &str) -> Tenant {
        Tenant::new(name, hosts.iter().copied(), path, Err("not loaded".into()))
    }

    #[test]
    fn a_tenant_is_found_by_host_before_path_and_by_the_longest_path() -> Result<(), Conflict> {
        let tenants = Tenants::new(vec![
            tenant("all", &[], ""),
            tenant("acme", &[], "/acme"),
            tenant("acme-eu", &[], "/acme/eu"),
            tenant("host", &["Host.example", "other.example."], ""),
            tenant("host-path", &["host.example"], "/acme/"),
        ])?;
        for (host, path, name, prefix) in [
            (None, "/api/workspaces", "all", 0),
            (Some("unknown"), "/", "all", 0),
            (None, "/acme/api/workspaces", "acme", 5),
            (None, "/acme/", "acme", 5),
            (None, "/acme", "acme", 5),
            (None, "/acmes/api", "all", 0),
            (None, "/acme/eu/api", "acme-eu", 8),
            (None, "//acme", "all", 0),
            (Some("host.example"), "/api", "host", 0),
            (Some("HOST.example."), "/api", "host", 0),
            (Some("other.example"), "/acme/api", "host", 0),
            (Some("host.example"), "/acme/api", "host-path", 5),
        ] {
            let found = tenants.find(host, path).map(|(tenant, prefix)| (tenant.name.clone(), prefix));
            assert_eq!(found, Some((name.to_owned(), prefix)), "{host:?} {path}");
        }
        Ok(())
    }

    #[test]
    fn where_no_tenant_takes_every_host_a_stranger_finds_none() -> Result<(), Conflict> {
        let tenants = Tenants::new(vec![tenant("host", &["host.example"], "/a")])?;
        assert!(tenants.find(None, "/a").is_none() && tenants.find(Some("host.example"), "/b").is_none());
        Ok(())
    }

    #[test]
    fn two_tenants_of_one_place_are_refused_and_those_before_stay() -> Result<(), Conflict> {
        let tenants = Tenants::new(vec![tenant("one", &["a.example"], "")])?;
        let conflict = tenants
            .replace(vec![tenant("two", &["a.example"], "/x"), tenant("three", &["b.example", "A.example"], "/x")]);
        assert_eq!(
            conflict.map_err(|conflict| conflict.to_string()),
            Err("the tenants two and three are both at a.example/x".into())
        );
        assert_eq!(tenants.tenants().len(), 1);
        Ok(())
    }
}
