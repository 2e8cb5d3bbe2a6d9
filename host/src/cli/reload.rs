use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{
    server::{address::AdminAddress, admin::ADMIN, guard::read_token},
    terminal,
};

/// Have a running server load its configuration and components anew
///
/// Tenants that are unchanged go on as they are. A new component is compiled and tried before requests come to it;
/// where anything fails, what was there goes on. SIGHUP does the same, with the outcome in the log.
#[derive(Args)]
pub(super) struct Reload {
    /// The server's administration, see `serve --admin`
    #[arg(long, env = "WORKSPACES_ADMIN", hide_env_values = true, default_value = "127.0.0.1:9090")]
    admin: AdminAddress,
    /// The file with the administration's token, see `serve --admin-token-file`
    #[arg(long, env = "WORKSPACES_ADMIN_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Maximum time that a server may take: it compiles what is new.
const PATIENCE: Duration = Duration::from_secs(600);

impl Reload {
    pub(super) fn run(self, json: bool) -> Result<()> {
        let body = self.ask().with_context(|| {
            format!(
                "no answer from a server's administration at {}: start it with --admin, or give its address",
                self.admin
            )
        })?;
        let answer: Value =
            serde_json::from_str(&body).context("the answer is not that of a server's administration")?;
        let reports = answer["tenants"].as_array().map(Vec::as_slice).unwrap_or_default();
        match json {
            true => terminal::print_json(&answer)?,
            false => reports.iter().try_for_each(|report| {
                let [tenant, outcome, reason] = ["tenant", "outcome", "reason"].map(|key| report[key].as_str());
                let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                terminal::print(format_args!("{} {}{reason}", outcome.unwrap_or_default(), tenant.unwrap_or_default()))
            })?,
        }
        if let (Some(notice), false) = (answer["notice"].as_str(), json) {
            terminal::print(notice)?;
        }
        if let Some(message) = answer["message"].as_str() {
            bail!("{message}");
        }
        match reports.iter().filter(|report| report["outcome"] == "failed").count() {
            0 => Ok(()),
            failed => bail!("{failed} of {} tenants failed", reports.len()),
        }
    }

    /// Sends one request, of a form so plain that it needs no HTTP client, and returns the body of the answer.
    fn ask(&self) -> Result<String> {
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let host = match &self.admin {
            AdminAddress::Tcp(address) => address.to_string(),
            AdminAddress::Unix(_) => "localhost".into(),
        };
        let mut stream = self.admin.connect(PATIENCE)?;
        write!(
            stream,
            "POST /reload HTTP/1.1\r\nHost: {host}\r\n{ADMIN}: reload\r\n{authorization}Content-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
        Ok(body.to_owned())
    }
}
