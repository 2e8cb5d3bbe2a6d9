//! The scene of these tests.

use anyhow::{Context as _, Result};
use rusqlite::Connection;
use serde_json::{Value, json};
use workspaces_tests::{Answer, Deployment, Server};

/// The tables that a create writes.
const TABLES: [&str; 4] = ["accounts", "account_info", "account_workspace_ids", "artist_organization_ids"];

/// A server with people and organizations:
///
/// - `ada` and `grace` are members of `label`; `ada` holds the key.
/// - `mallory` is a member of `rival` alone.
/// - `root` is a member of `admins`, the administrators.
pub(crate) struct Scene {
    pub(crate) deployment: Deployment,
    pub(crate) server: Server,
    pub(crate) ada: String,
    pub(crate) grace: String,
    pub(crate) mallory: String,
    pub(crate) root: String,
    pub(crate) label: String,
    pub(crate) rival: String,
    pub(crate) key: String,
    pub(crate) root_key: String,
}

impl Scene {
    pub(crate) fn new() -> Result<Self> {
        let deployment = Deployment::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
        let account = |name| deployment.run(&["account", "create", "--name", name]);
        let organization = |name| deployment.run(&["organization", "create", "--name", name]);
        let (ada, grace, mallory, root) = (account("Ada")?, account("Grace")?, account("Mallory")?, account("Root")?);
        let (label, rival, admins) = (organization("Label")?, organization("Rival")?, organization("Admins")?);
        for (organization, account) in [(&label, &ada), (&label, &grace), (&rival, &mallory), (&admins, &root)] {
            deployment.run(&["organization", "add-member", organization, account])?;
        }
        let key = deployment.run(&["key", "create", &ada])?;
        let root_key = deployment.run(&["key", "create", &root])?;
        let server = deployment.serve(&["--admin-organization", &admins])?;
        Ok(Self { deployment, server, ada, grace, mallory, root, label, rival, key, root_key })
    }

    pub(crate) fn sql(&self) -> Result<Connection> {
        Ok(Connection::open(self.deployment.database())?)
    }

    /// Returns the rows of the tables that a create writes.
    pub(crate) fn rows(&self) -> Result<[i64; 4]> {
        let connection = self.sql()?;
        let mut counts = [0; 4];
        for (count, table) in counts.iter_mut().zip(TABLES) {
            *count = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        }
        Ok(counts)
    }

    pub(crate) fn create(&self, body: impl AsRef<[u8]>) -> Result<Answer> {
        self.server.create(&self.key, body)
    }

    /// Sends a body that has to be answered with 201, and returns the workspace.
    pub(crate) fn created(&self, body: &Value) -> Result<Value> {
        let answer = self.create(body.to_string())?;
        assert_eq!(answer.status, 201, "{body}: {answer:?}");
        Ok(answer.json()?["workspace"].clone())
    }

    /// Asserts that an answer is an error of this status in the one form of errors, that says so much.
    pub(crate) fn assert_refused(&self, answer: &Answer, status: u16, part: &str) -> Result<()> {
        let body = answer.json()?;
        assert_eq!((answer.status, &body["error"]), (status, &json!(status)), "{answer:?}");
        let message = body["message"].as_str().context("no message")?;
        assert!(message.contains(part), "{message:?} does not say {part:?}");
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(2), "{body}");
        Ok(())
    }
}
