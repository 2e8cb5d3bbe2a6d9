//! News of the start: addresses on standard output, and a line in the log.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Serialize;
use tokio::sync::Notify;

use super::config::Config;
use crate::{
    tenants::Tenant,
    terminal::{escape, escape_json, lossy::Lossy, standard_output},
};

/// Addresses at which the server listens, and the output on which it says so.
pub(super) struct Addresses {
    pub(super) clients: String,
    pub(super) admin: Option<String>,
    /// Notified when the addresses are announced: a tenant serves by then.
    pub(super) announced: Notify,
    output: Lossy,
    /// Flag for JSON output.
    json: bool,
}

impl Addresses {
    /// # Errors
    ///
    /// Where there is no standard output.
    pub(super) fn new(clients: String, json: bool) -> Result<Self> {
        // A reader that does not read, or is gone, keeps no server from its clients.
        let output = Lossy::start("output", standard_output()?, drop, drop);
        Ok(Self { clients, admin: None, announced: Notify::new(), output, json })
    }

    /// Prints the addresses, and logs what is served: version, addresses, databases, components, and how many tenants
    /// are up.
    pub(super) fn announce(&self, config: &Config, tenants: &[Tenant]) {
        #[derive(Serialize)]
        struct Listening<'a> {
            listening: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            administration: Option<&'a str>,
        }
        self.announced.notify_one();
        let addresses = Listening { listening: &self.clients, administration: self.admin.as_deref() };
        self.print(&addresses, |Listening { listening, administration }| {
            let administration = administration.map(|admin| format!("administration on {admin}"));
            [format!("listening on {listening}")].into_iter().chain(administration).collect()
        });

        let served: Vec<_> = tenants.iter().filter_map(|tenant| tenant.workspaces().ok()).collect();
        let digest = |workspaces: &crate::Workspaces| workspaces.component().digest().as_str().to_owned();
        let components = served.iter().map(|workspaces| digest(workspaces)).collect();
        let databases = config.tenants.iter().map(|tenant| tenant.database.address.shown()).collect();
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

    /// Prints a value to standard output: as a line of JSON, or in lines for people.
    pub(super) fn print<T: Serialize>(&self, value: &T, lines: impl Fn(&T) -> Vec<String>) {
        let text: String = match self.json {
            true => escape_json(&serde_json::to_string(value).unwrap_or_default()).into_owned() + "\n",
            false => lines(value).iter().map(|line| escape(line) + "\n").collect(),
        };
        self.output.push(text.as_bytes(), true);
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
