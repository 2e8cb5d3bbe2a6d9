//! Real PostgreSQL servers for tests, each in a temporary folder of its own and gone with the value that holds it.
//! Don't keep one in a `static`: those are never dropped, and the server would outlive the tests.
//! Errors carry what the program that failed said, a server's whole log included.

use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::background::{Process, Programs, free_port, installed, on_free_port, until};

/// Programs that a server needs; Debian keeps them off the PATH.
pub(crate) const POSTGRES: [&str; 4] = ["initdb", "pg_basebackup", "postgres", "psql"];

/// Lines for every postgresql.conf. What keeps commits safe, `fsync` above all, is on by default and stays so.
const SETTINGS: [(&str, &str); 4] = [
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "200"),
    ("shared_buffers", "64MB"),
    ("dynamic_shared_memory_type", "mmap"), // in the folder: a killed server leaves nothing in /dev/shm
];

/// A CA, and a certificate for this machine that clients as strict as rustls accept.
const CERTIFICATES: &str = "\
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
[client]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth
";

/// Start of a command that makes a certificate or a request for one.
const REQUEST: &str = "req -config openssl.cnf -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";

/// Returns whether PostgreSQL can be started here. Otherwise says on stderr that the test did not run; in CI that is an
/// error.
pub fn available() -> Result<bool> {
    installed(&POSTGRES, "postgresql")
}

/// A server on a free port of 127.0.0.1, for the user `postgres` without a password.
pub struct Postgres {
    process: Option<Process>,
    port: u16,
    programs: Programs,
    folder: TempDir,
}

impl Postgres {
    /// Starts a server with an empty database, ready for connections.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with settings for its postgresql.conf.
    pub fn start_with(settings: &[(&str, &str)]) -> Result<Self> {
        Self::initialized(settings)?.started()
    }

    /// Starts a server with the deployment's own tables, and with the role of [`service_url`](Self::service_url).
    pub fn deployed() -> Result<Self> {
        let server = Self::start()?;
        server.psql(include_str!("deployment.sql"))?;
        Ok(server)
    }

    /// Starts a server whose pg_hba.conf has these lines.
    pub fn with_logins(lines: &str) -> Result<Self> {
        let server = Self::initialized(&[])?;
        fs::write(server.data().join("pg_hba.conf"), lines)?;
        server.started()
    }

    /// Starts a server that speaks TLS only, and returns the file of the CA that vouches for it as 127.0.0.1 and localhost.
    pub fn tls() -> Result<(Self, PathBuf)> {
        Self::tls_with_logins("hostssl all,replication all 127.0.0.1/32 trust\n")
    }

    /// Starts such a server with these lines in its pg_hba.conf. The CA vouches for clients too.
    pub fn tls_with_logins(lines: &str) -> Result<(Self, PathBuf)> {
        let server = Self::initialized(&[("ssl", "on"), ("ssl_ca_file", "ca.crt")])?;
        let data = server.data();
        fs::write(data.join("openssl.cnf"), CERTIFICATES)?;
        server
            .openssl(&format!("{REQUEST} -keyout ca.key -out ca.crt -subj /CN=tests -x509 -extensions ca -days 2"))?;
        server.certify("server", "localhost", "server")?;
        fs::set_permissions(data.join("server.key"), Permissions::from_mode(0o600))?;
        fs::write(data.join("pg_hba.conf"), lines)?;
        Ok((server.started()?, data.join("ca.crt")))
    }

    /// Makes a certificate for a client, by the CA of [`tls`](Self::tls), and its key: the files' paths.
    pub fn client_certificate(&self, user: &str) -> Result<(PathBuf, PathBuf)> {
        self.certify(user, user, "client")?;
        let file = |extension: &str| self.data().join(user).with_extension(extension);
        fs::set_permissions(file("key"), Permissions::from_mode(0o600))?;
        Ok((file("crt"), file("key")))
    }

    fn certify(&self, file: &str, name: &str, kind: &str) -> Result<()> {
        self.openssl(&format!("{REQUEST} -keyout {file}.key -out {file}.csr -subj /CN={name}"))?;
        self.openssl(&format!(
            "x509 -req -in {file}.csr -out {file}.crt -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
             -extfile openssl.cnf -extensions {kind}"
        ))
    }

    /// Runs OpenSSL in the folder of the server's certificates.
    pub fn openssl(&self, arguments: &str) -> Result<()> {
        let openssl = Programs::find(&["openssl"])?;
        openssl.run(&self.data(), "openssl", &arguments.split_whitespace().collect::<Vec<_>>()).map(drop)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address for clients.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Returns the address for the deployment's service: its role bypasses row-level security and owns no table.
    pub fn service_url(&self) -> String {
        self.url().replace("//postgres@", "//service@")
    }

    /// Returns the folder of its Unix socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the address for the service by its Unix socket, with further parameters.
    pub fn socket_url(&self, parameters: &str) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://service@/postgres?host={folder}&port={}&{parameters}", self.port)
    }

    /// Stops all of its processes where they are, so that it answers nobody and acknowledges nothing.
    pub fn pause(&self) -> Result<()> {
        self.process.as_ref().context("not running")?.signal_all("STOP")
    }

    /// Has its processes go on after `pause`.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().context("not running")?.signal_all("CONT")
    }

    /// Runs SQL and returns the rows, a line each, with `|` between columns. Several statements are one transaction.
    pub fn psql(&self, sql: &str) -> Result<String> {
        let arguments = ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url(), "-c", sql];
        self.programs.run(self.folder.path(), "psql", &arguments)
    }

    /// Ends it at once with all its processes, as a crash of the machine would. Unlike after a loss of power, all that
    /// it wrote stays, synced or not.
    pub fn kill(&mut self) -> Result<()> {
        let lock = Lock::read(&self.data());
        self.process.take().context("not running")?.kill()?;
        lock.release()
    }

    /// Shuts it down: clients are cut off, and a checkpoint is written.
    pub fn stop(&mut self) -> Result<()> {
        self.end("INT")
    }

    /// Starts it again after `kill` or `stop`, on the same data and port.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "still running");
        // The port may be taken for a while, by so little as a client's connection to somewhere else.
        until("the port", || {
            self.process = self.launch(self.port)?;
            Ok(self.process.is_some())
        })
    }

    /// Starts a hot standby, without which this server commits nothing from now on; only the last one made counts.
    pub fn standby(&self) -> Result<Self> {
        let folder = self.programs.folder()?;
        let name = format!("standby_{}", free_port()?);
        let primary = format!("{}?application_name={name}", self.url());
        let arguments = ["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D", "data", "-d", &primary];
        self.programs.run(folder.path(), "pg_basebackup", &arguments)?;
        let standby = Self { process: None, port: 0, programs: self.programs.clone(), folder }.started()?;
        self.await_standbys(&name)?;
        until("the standby to be synchronous", || {
            let sql = format!("SELECT sync_state FROM pg_stat_replication WHERE application_name = '{name}'");
            Ok(self.psql(&sql)? == "sync")
        })?;
        Ok(standby)
    }

    /// Makes a standby the primary, and returns when it takes writes. It waits for no standby of its own.
    pub fn promote(&self) -> Result<()> {
        self.await_standbys("")?;
        ensure!(self.psql("SELECT pg_promote()")? == "t", "not promoted in time");
        until("the end of recovery", || Ok(self.psql("SELECT pg_is_in_recovery()")? == "f"))
    }

    fn await_standbys(&self, names: &str) -> Result<()> {
        self.psql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"))?;
        self.psql("SELECT pg_reload_conf()")?;
        Ok(())
    }

    fn initialized(settings: &[(&str, &str)]) -> Result<Self> {
        let programs = Programs::find(&POSTGRES)?;
        let folder = programs.folder()?;
        let arguments = ["-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "data"];
        programs.run(folder.path(), "initdb", &arguments)?;
        let server = Self { process: None, port: 0, programs, folder };
        let mut file = File::options().append(true).open(server.data().join("postgresql.conf"))?;
        for (name, value) in SETTINGS.iter().chain(settings) {
            writeln!(file, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        Ok(server)
    }

    fn started(mut self) -> Result<Self> {
        let (port, process) = on_free_port(|port| self.launch(port))?;
        (self.port, self.process) = (port, Some(process));
        Ok(self)
    }

    fn launch(&self, port: u16) -> Result<Option<Process>> {
        let folder = self.folder.path();
        let mut command = self.programs.command(folder, "postgres");
        // Not in postgresql.conf, which a standby copies.
        command.args(["-D", "data", "-p", &port.to_string(), "-k"]).arg(folder);
        Process::launch(&mut command, folder.join("log"), "system is ready to accept")
    }

    fn end(&mut self, signal: &str) -> Result<()> {
        let mut process = self.process.take().context("not running")?;
        process.signal_all("CONT")?; // one that is paused hears nothing
        process.signal(signal)?;
        process.wait()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.end("QUIT"); // at once, yet it frees what it holds of the system
    }
}

/// A transaction-mode pooler with four connections to a server.
pub struct PgBouncer {
    _process: Process, // dropped, and so ended, before its folder
    port: u16,
    _folder: TempDir,
}

impl PgBouncer {
    /// Returns whether it can be started here, as `available` tells of PostgreSQL.
    pub fn available() -> Result<bool> {
        installed(&["pgbouncer"], "pgbouncer")
    }

    /// Starts a pooler in front of `server`, for all its users and databases.
    pub fn start(server: &Postgres) -> Result<Self> {
        let programs = Programs::find(&["pgbouncer"])?;
        let folder = programs.folder()?;
        let path = folder.path();
        fs::write(path.join("users"), "\"postgres\" \"\"\n")?; // looks up the others
        let (port, process) = on_free_port(|port| {
            let settings = format!(
                "[databases]\n* = host=127.0.0.1 port={}\n\
                [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                auth_type = trust\nauth_file = users\nauth_user = postgres\n\
                pool_mode = transaction\ndefault_pool_size = 4\n\
                server_tls_sslmode = prefer\nserver_login_retry = 1\n", // 15 seconds are long after a restart
                server.port
            );
            fs::write(path.join("pgbouncer.ini"), settings)?;
            let mut command = programs.command(path, "pgbouncer");
            Process::launch(command.arg("pgbouncer.ini"), path.join("log"), "process up")
        })?;
        Ok(Self { _process: process, port, _folder: folder })
    }

    /// Returns the address for clients.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

/// The file that a running server keeps in its data folder.
pub(crate) struct Lock {
    path: PathBuf,
    contents: String,
}

impl Lock {
    /// Reads the lock of a data folder, which is empty where no server runs.
    pub(crate) fn read(data: &Path) -> Self {
        let path = data.join("postmaster.pid");
        Self { contents: fs::read_to_string(&path).unwrap_or_default(), path }
    }

    /// Frees what a server that was killed holds of the system, as the crash of a whole machine does.
    pub(crate) fn release(self) -> Result<()> {
        // The System V segment that the file's seventh line ends with.
        if let Some(segment) = self.contents.lines().nth(6).and_then(|line| line.split_whitespace().last()) {
            let _ = Command::new("ipcrm").args(["-m", segment]).output();
        }
        // Stale for certain, while its number may soon be another process's, and then the server would not start.
        if self.path.exists() {
            fs::remove_file(self.path)?;
        }
        Ok(())
    }
}
