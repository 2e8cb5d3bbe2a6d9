//! The server with its healthy tenant, and what an adversary adds before it starts.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Client, Server, Tenants, certificate};

/// Bytes of private memory that the server may have: many times what it needs, and its tenants' sandboxes.
const MEMORY: u64 = 2 << 30;

/// Everything that the server is started with.
pub(super) struct Setup {
    pub(super) tenants: Tenants,
    key: String,
    /// Lines of the configuration before its first section.
    pub(super) top: String,
    /// Sections of the configuration that stay from the start to the end.
    pub(super) sections: String,
    /// Further arguments of `serve`.
    pub(super) arguments: Vec<String>,
    /// Makes the standard error a pipe that nobody reads.
    pub(super) unread: bool,
    /// Certificate of a server that speaks TLS.
    certificate: Option<PathBuf>,
}

impl Setup {
    pub(super) fn new(program: &str) -> Result<Self> {
        let tenants = Tenants::new(program)?;
        let key = tenants.key("healthy")?;
        let sections = section("healthy", "");
        Ok(Self { tenants, key, top: String::new(), sections, arguments: vec![], unread: false, certificate: None })
    }

    /// Adds a tenant with a database of its own and further lines; returns an API key of it.
    pub(super) fn tenant(&mut self, name: &str, lines: &str) -> Result<String> {
        self.sections += &section(name, lines);
        self.tenants.key(name)
    }

    /// Has the server speak TLS.
    pub(super) fn speak_tls(&mut self) -> Result<()> {
        let (certificate, key) =
            certificate::certificate(self.tenants.deployment().folder(), "server", &certificate::EC)?;
        let [file, key] = [&certificate, &key].map(|path| path.display().to_string());
        self.arguments.extend(["--tls-certificate".into(), file, "--tls-key".into(), key]);
        self.certificate = Some(certificate);
        Ok(())
    }

    /// Writes the configuration, with further sections.
    pub(super) fn configure(&self, further: &str) -> Result<()> {
        let Self { top, sections, .. } = self;
        self.tenants.write("gateway.toml", format!("{top}\ndefaults.key-pepper-file = \"pepper\"\n{sections}{further}"))
    }

    /// Starts the server, with the log that it has by default.
    pub(super) fn serve(&self) -> Result<Server> {
        self.configure("")?;
        let arguments = ["--config", "gateway.toml", "--admin", "127.0.0.1:0", "--log", "info"];
        let mut command = self.tenants.deployment().server(&arguments);
        command.args(&self.arguments).stderr(if self.unread { Stdio::piped() } else { Stdio::null() });
        let server = Server::start(&mut command)?;
        limit_memory(&server)?;
        Ok(server)
    }

    /// Returns a client of the healthy tenant.
    pub(super) fn healthy(&self, server: &Server, timeout: Duration) -> Result<Client> {
        let client = Client::new(server.address(), &self.key).under("/healthy").within(timeout);
        match &self.certificate {
            None => Ok(client),
            Some(certificate) => client.trusting(certificate),
        }
    }
}

/// Limits what the server may take: one that takes all memory would end others on the machine with it.
fn limit_memory(server: &Server) -> Result<()> {
    let process = server.id().to_string();
    let status = Command::new("prlimit").args(["--pid", &process, &format!("--data={MEMORY}")]).status();
    ensure!(status.context("prlimit of util-linux")?.success(), "prlimit failed");
    Ok(())
}

/// Returns the section of a tenant under the path of its name, with a database of its own unless the lines give one.
pub(super) fn section(name: &str, lines: &str) -> String {
    let database = match lines.contains("database =") {
        true => String::new(),
        false => format!("database = \"sqlite:{name}.db\"\n"),
    };
    format!("[tenants.{name}]\npath = \"/{name}\"\n{database}{lines}\n")
}
