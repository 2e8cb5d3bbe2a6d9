//! News of the start: addresses on standard output, and a line in the log.

use std::collections::BTreeSet;

use anyhow::Result;

use super::plan::Plan;
use crate::{
    cli::{
        lossy::Lossy,
        terminal::{escape, standard_output},
    },
    gateway::Tenant,
};

/// Addresses at which the server listens, and the output on which it says so.
pub(super) struct Addresses {
    pub(super) clients: String,
    pub(super) admin: Option<String>,
    output: Lossy,
}

impl Addresses {
    /// # Errors
    ///
    /// Where there is no standard output.
    pub(super) fn new(clients: String) -> Result<Self> {
        // A reader that does not read, or is gone, keeps no server from its clients.
        let output = Lossy::start("output", standard_output()?, drop, drop);
        Ok(Self { clients, admin: None, output })
    }

    /// Prints the addresses, and logs what is served: version, addresses, databases, components, and how many tenants
    /// are up.
    pub(super) fn announce(&self, plan: &Plan, tenants: &[Tenant]) {
        let mut lines = vec![format!("listening on {}", self.clients)];
        lines.extend(self.admin.iter().map(|admin| format!("administration on {admin}")));
        self.print(&lines);

        let served: Vec<_> = tenants.iter().filter_map(|tenant| tenant.workspaces().ok()).collect();
        let digest = |workspaces: &crate::Workspaces| workspaces.component().digest().as_str().to_owned();
        let components = served.iter().map(|workspaces| digest(workspaces)).collect();
        let databases = plan.tenants.iter().map(|tenant| tenant.database.address.shown()).collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            address = self.clients,
            admin = self.admin,
            database = one_or_count(&databases),
            component = one_or_count(&components),
            tenants = format!("{} of {}", served.len(), tenants.len()),
            "started"
        );
    }

    /// Prints lines to standard output.
    pub(super) fn print(&self, lines: &[String]) {
        let text: String = lines.iter().map(|line| escape(line) + "\n").collect();
        self.output.push(text.as_bytes());
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        self.output.close();
    }
}

/// Returns the only value, or how many there are: a thousand tenants still start with one line.
fn one_or_count(values: &BTreeSet<String>) -> String {
    match (values.first(), values.len()) {
        (Some(only), 1) => only.clone(),
        (_, count) => count.to_string(),
    }
}
