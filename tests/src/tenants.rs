//! A deployment of many tenants.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{Answer, Deployment, PEPPER, Server};

/// A folder with a configuration file, and a database for each tenant.
pub struct Tenants {
    deployment: Deployment,
}

impl Tenants {
    /// Returns a deployment with a configuration yet to be written.
    ///
    /// # Errors
    ///
    /// Where there is no place for it.
    pub fn new(program: &str) -> Result<Self> {
        let deployment = Deployment::new(program)?;
        let pepper = deployment.folder().join("pepper");
        fs::write(&pepper, PEPPER)?;
        // Without a warning in the log.
        fs::set_permissions(pepper, PermissionsExt::from_mode(0o600))?;
        Ok(Self { deployment })
    }

    /// Returns the folder's deployment, to run commands in.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Makes an account in the database `<name>.db`, and a key for it.
    ///
    /// # Errors
    ///
    /// Where that is not possible.
    pub fn key(&self, name: &str) -> Result<String> {
        let database = format!("sqlite:{name}.db");
        let account = self.deployment.run(&["account", "create", "--database", &database])?;
        self.deployment.run(&["key", "create", &account, "--database", &database])
    }

    /// Writes a file into the folder.
    ///
    /// # Errors
    ///
    /// Where that is not possible.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        // At once, as a deployment does it: nobody reads half of it.
        let (folder, new) = (self.deployment.folder(), format!("{name}.new"));
        fs::write(folder.join(&new), content)?;
        Ok(fs::rename(folder.join(new), folder.join(name))?)
    }

    /// Writes the configuration: the tenants' sections, with a pepper for all.
    ///
    /// # Errors
    ///
    /// Where that is not possible.
    pub fn configure(&self, sections: &str) -> Result<()> {
        self.write("gateway.toml", format!("defaults.key-pepper-file = \"pepper\"\n{sections}"))
    }

    /// Starts the server with its administration, and waits until each tenant is loaded or has failed.
    ///
    /// # Errors
    ///
    /// Where it does not come to listen.
    pub fn serve(&self) -> Result<Server> {
        Self::loaded(self.serve_soon()?)
    }

    /// Waits until each tenant of a server is loaded or has failed.
    ///
    /// # Errors
    ///
    /// Where that takes too long.
    pub fn loaded(server: Server) -> Result<Server> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while String::from_utf8_lossy(&server.ask_admin("GET", "/tenants", &[])?.body).contains("being loaded") {
            ensure!(Instant::now() < deadline, "a tenant is still being loaded");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Starts the server with its administration, and waits no longer than until it listens.
    ///
    /// # Errors
    ///
    /// Where it does not come to listen.
    pub fn serve_soon(&self) -> Result<Server> {
        self.deployment.serve(&["--config", "gateway.toml", "--admin", "127.0.0.1:0"])
    }

    /// `workspaces reload`.
    ///
    /// # Errors
    ///
    /// Where it can't be started.
    pub fn reload(&self, server: &Server) -> Result<Output> {
        self.deployment.output(&["reload", "--json", "--admin", &server.admin()?.to_string()])
    }
}

impl Server {
    /// `POST /api/workspaces` to the tenant under this path.
    ///
    /// # Errors
    ///
    /// Where there is no answer in HTTP.
    pub fn create_at(&self, path: &str, key: &str, body: &str) -> Result<Answer> {
        let headers = [("Content-Type", "application/json"), ("x-api-key", key)];
        self.send("POST", &format!("{path}/api/workspaces"), &headers, body.as_bytes())
    }
}

/// Returns the built-in component with other bytes, see [`variant_of`].
pub fn variant(text: &[u8]) -> Vec<u8> {
    variant_of(workspaces_host::COMPONENT, text)
}

/// Returns a component with other bytes: with a custom section at its end that holds the text's first 100 bytes.
pub fn variant_of(component: &[u8], text: &[u8]) -> Vec<u8> {
    // Lengths of under 128 are one byte of LEB128.
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX).min(100);
    let name = b"variant";
    let mut section = vec![0, length + 8, 7];
    section.extend_from_slice(name);
    section.extend_from_slice(&text[..usize::from(length)]);
    [component, &section].concat()
}
