//! Addresses of databases, as libpq writes them.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr as _, time::Duration};

use percent_encoding::percent_decode_str;
use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    DatabaseError,
    encryption::Encryption,
    failure::describe,
    parameters::{self, Parameter},
    passfile::{Login, PasswordFile},
    service,
};

/// Timeout for opening a session, where the address has no `connect_timeout` of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout for the acknowledgement of what was sent, where the address has no `tcp_user_timeout`; the server is taken
/// for dead then.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(4);

/// Port of servers, where none is given.
const PORT: &str = "5432";

/// Default folders of sockets, of Debian and of PostgreSQL itself. A password file calls them `localhost`.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Host of an address, with its port and login.
pub(super) struct Server {
    pub(super) config: Config,
    /// Advice for a login that the server refuses.
    pub(super) password_from: String,
}

/// Parameters by name, with their values as libpq means them.
type Parameters = BTreeMap<String, String>;

/// The password file, or the reason why there is none.
type PasswordSource = Result<PasswordFile, String>;

/// Settings of an address, before its hosts are told apart.
#[derive(Default)]
struct Settings {
    /// Parameters for the driver, in its own form.
    driver: String,
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<String>,
    password_file: Option<String>,
    encryption: Encryption,
    acknowledgement: Option<Duration>,
}

/// Reads an address as libpq writes it, with the files that it names: `passfile`, `service`, `sslrootcert`, `sslcert`
/// and `sslkey`. A server's certificate and name are always verified, whichever of `require`, `verify-ca` and
/// `verify-full` is asked for.
///
/// Returns the hosts that it names, each with all else that it says.
pub(super) fn parse(address: &str) -> Result<(Vec<Server>, MakeRustlsConnect), DatabaseError> {
    let unusable = |text: String| DatabaseError::Unusable(format!("the database address can't be used: {text}"));
    let settings = parameters_of(address).and_then(Settings::of).map_err(unusable)?;
    let servers = settings.servers().map_err(unusable)?;
    let tls = settings.encryption.connector().map_err(unusable)?;
    Ok((servers, tls))
}

/// Returns the parameters of an address, and those of the service that it names where it does not say otherwise.
fn parameters_of(address: &str) -> Result<Parameters, String> {
    let mut parameters = split(address)?;
    let file = parameters.remove("servicefile");
    if let Some(service) = parameters.remove("service") {
        for (name, value) in service::read(&service, file.as_deref())? {
            parameters.entry(name).or_insert(value);
        }
    }
    Ok(parameters)
}

/// Splits `SCHEME://USER:PASSWORD@HOST:PORT,HOST:PORT/DBNAME?NAME=VALUE&NAME=VALUE` where libpq does. All parts may be
/// missing, and percent-encoded.
fn split(address: &str) -> Result<Parameters, String> {
    let mut parameters = Parameters::new();
    let mut add = |name: &str, encoded: &str| -> Result<(), String> {
        let value = decode(encoded).map_err(|()| format!("{name} is not UTF-8"))?;
        parameters.insert(name.to_owned(), value);
        Ok(())
    };
    let mut rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let end = rest.find(['@', '/']).unwrap_or(rest.len());
    if let Some(after) = rest[end..].strip_prefix('@') {
        let (user, password) = rest[..end].split_once(':').unwrap_or((&rest[..end], ""));
        add("user", user)?;
        add("password", password)?;
        rest = after;
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for part in authority.split(',') {
        let (host, port) = match part.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or("an IPv6 address has no `]`")?,
            None => part.split_at(part.find(':').unwrap_or(part.len())),
        };
        hosts.push(host);
        ports.push(match port.strip_prefix(':') {
            Some(port) => port,
            None if port.is_empty() => "",
            None => return Err("`:PORT` or `,` is missing after an IPv6 address".into()),
        });
    }
    for (name, encoded) in [("host", hosts.join(",")), ("port", ports.join(",")), ("dbname", database.to_owned())] {
        if encoded.chars().any(|character| character != ',') {
            add(name, &encoded)?;
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, encoded) = pair.split_once('=').ok_or("a parameter has no value: write NAME=VALUE")?;
        add(&decode(name).map_err(|()| "the name of a parameter is not UTF-8")?, encoded)?;
    }
    parameters.retain(|name, value| !(value.is_empty() && ["user", "password"].contains(&name.as_str())));
    Ok(parameters)
}

fn decode(text: &str) -> Result<String, ()> {
    percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| ())
}

impl Settings {
    fn of(parameters: Parameters) -> Result<Self, String> {
        let mut settings = Self::default();
        let list = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        for (name, value) in parameters {
            let encryption = &mut settings.encryption;
            match parameters::read(&name, &value)? {
                Parameter::Driver(name, value) => settings.add_for_driver(name, &value),
                Parameter::Hosts(hosts) => settings.hosts = list(hosts),
                Parameter::Addresses(addresses) => settings.addresses = list(addresses),
                Parameter::Ports(ports) => settings.ports = list(ports),
                Parameter::PasswordFile(file) => settings.password_file = Some(file),
                Parameter::Authorities(file) => encryption.authorities = file,
                Parameter::Certificate(file) => encryption.certificate = Some(file),
                Parameter::Key(file) => encryption.key = Some(file),
                Parameter::NoCertificate => encryption.is_anonymous = true,
                Parameter::NoServerName => encryption.sends_name = false,
                Parameter::WithoutTls12 => encryption.takes_1_2 = false,
                Parameter::WithoutTls13 => encryption.takes_1_3 = false,
                Parameter::Acknowledgement(timeout) => settings.acknowledgement = Some(timeout),
                Parameter::Ignored => {}
            }
        }
        Ok(settings)
    }

    fn add_for_driver(&mut self, name: &str, value: &str) {
        let value = value.replace('\\', r"\\").replace('\'', r"\'");
        self.driver += &format!("{name}='{value}' ");
    }

    /// Returns a configuration for each host, with its password.
    fn servers(&self) -> Result<Vec<Server>, String> {
        let common = Config::from_str(&self.driver).map_err(|error| describe(&error))?;
        let count = if self.addresses.is_empty() { self.hosts.len() } else { self.addresses.len() };
        if count == 0 {
            return Err("it names no host: write postgres://USER@HOST/NAME, or host=, hostaddr= or service=".into());
        }
        if !self.hosts.is_empty() && self.hosts.len() != count {
            return Err(format!("hostaddr= has {count} addresses for {} hosts", self.hosts.len()));
        }
        if self.ports.len() > 1 && self.ports.len() != count {
            return Err(format!("port= has {} ports for {count} hosts", self.ports.len()));
        }
        let password_file = match common.get_password() {
            Some(_) => Err(String::new()),
            None => PasswordFile::read(self.password_file.as_deref())?,
        };
        (0..count).map(|number| self.server(number, common.clone(), &password_file)).collect()
    }

    fn server(&self, number: usize, mut config: Config, password_file: &PasswordSource) -> Result<Server, String> {
        let address = self.addresses.get(number).map(String::as_str).unwrap_or_default();
        let host = self.hosts.get(number).filter(|host| !host.is_empty()).map_or(address, String::as_str);
        if host.is_empty() {
            return Err("a host has no name".into());
        }
        config.host(host);
        if !address.is_empty() {
            config.hostaddr(address.parse::<IpAddr>().map_err(|_| "hostaddr is a numeric IP address")?);
        }
        let port = self.ports.get(number).or(self.ports.first()).filter(|port| !port.is_empty());
        let port = port.map_or(PORT, String::as_str);
        config.port(port.parse().ok().filter(|port| *port > 0).ok_or("port is a number from 1 to 65535")?);
        self.complete(&mut config);

        let password_from = find_password(&mut config, host, port, password_file);
        Ok(Server { config, password_from })
    }

    /// Sets what an address leaves open.
    fn complete(&self, config: &mut Config) {
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            // Of several hosts, the one that takes writes.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) {
            // As libpq: TLS is not for sockets of this machine.
            config.ssl_mode(SslMode::Disable);
        }
        config.tcp_user_timeout(self.acknowledgement.unwrap_or(UNACKNOWLEDGED_TIMEOUT));
        if config.get_application_name().is_none() {
            config.application_name("workspaces");
        }
    }
}

/// Sets the password of a host from the password file, where the address has none. Returns advice for a login that is
/// refused.
fn find_password(config: &mut Config, host: &str, port: &str, file: &PasswordSource) -> String {
    let file = match (config.get_password(), file) {
        (Some(_), _) => return "the password is the address's own".into(),
        (None, Err(reason)) => return format!("the address has no password, and {reason}"),
        (None, Ok(file)) => file,
    };
    let user = config.get_user().unwrap_or_default();
    let database = config.get_dbname().unwrap_or(user);
    let host = if SOCKET_FOLDERS.contains(&host) { "localhost" } else { host };
    let shown = file.shown();
    match file.password(&Login { host, port, database, user }) {
        Some(password) => {
            config.password(password);
            format!("the password is that of the password file {shown}")
        }
        None => format!(
            "the address has no password, and the password file {shown} has no line for {host}:{port}:{database}:{user}"
        ),
    }
}

/// Returns how long a session may take to open.
pub(super) fn connect_timeout(config: &Config) -> Duration {
    config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_split_where_libpq_does() {
        for (address, expected) in [
            ("postgres://", &[][..]),
            ("postgres://db", &[("host", "db")]),
            (
                "postgresql://ada:a%3Ab@db:1/w",
                &[("dbname", "w"), ("host", "db"), ("password", "a:b"), ("port", "1"), ("user", "ada")],
            ),
            ("postgres://ada:a?b@db", &[("host", "db"), ("password", "a?b"), ("user", "ada")]),
            ("postgres://ada@/w?host=%2Frun", &[("dbname", "w"), ("host", "/run"), ("user", "ada")]),
            ("postgres://one,two:2,[::1]:3/", &[("host", "one,two,::1"), ("port", ",2,3")]),
            ("postgres://db/?port=2&host=other", &[("host", "other"), ("port", "2")]),
            ("postgres://%2Frun%2Fpg/w", &[("dbname", "w"), ("host", "/run/pg")]),
            ("postgres:///?user=a%40b&options=-c%20a%3Db", &[("options", "-c a=b"), ("user", "a@b")]),
            ("postgres://db?sslmode=require&", &[("host", "db"), ("sslmode", "require")]),
        ] {
            let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(split(address), Ok(expected), "{address}");
        }
        for address in ["postgres://[::1", "postgres://[::1]5", "postgres://db?secret", "postgres://db?a=%ff"] {
            let refused = split(address);
            assert!(refused.as_ref().is_err_and(|reason| !reason.contains("secret")), "{address}: {refused:?}");
        }
    }

    #[test]
    fn each_host_has_its_own_port_and_all_else_of_the_address() -> Result<(), DatabaseError> {
        let address = r"postgres://ada:it%27s%5C@one,two:2/w?connect_timeout=3&hostaddr=127.0.0.1,127.0.0.2";
        let (servers, _) = parse(address)?;
        let seen: Vec<_> =
            servers.iter().map(|Server { config, .. }| (config.get_hosts(), config.get_ports())).collect();
        let (one, two) = ([Host::Tcp("one".into())], [Host::Tcp("two".into())]);
        assert_eq!(seen, [(&one[..], &[5432][..]), (&two[..], &[2][..])]);
        for Server { config, .. } in &servers {
            assert_eq!(config.get_password(), Some(br"it's\".as_slice()));
            assert_eq!((config.get_user(), config.get_dbname()), (Some("ada"), Some("w")));
            assert_eq!((config.get_hostaddrs().len(), connect_timeout(config)), (1, Duration::from_secs(3)));
        }
        Ok(())
    }

    #[test]
    fn what_can_not_be_used_is_refused_without_a_password() {
        for (address, part) in [
            ("postgres://ada:secret@/w", "names no host"),
            ("postgres://ada:secret@one,two/w?port=1,2,3", "3 ports for 2 hosts"),
            ("postgres://ada:secret@one,two/w?hostaddr=::1", "1 addresses for 2 hosts"),
            ("postgres://ada:secret@db:0/w", "port is a number"),
            ("postgres://ada:secret@db:secret/w", "port is a number"),
            ("postgres://ada:secret@db/w?hostaddr=secret", "hostaddr is a numeric"),
            ("postgres://ada:secret@db/w?connect_timeout=secret", "connect_timeout"),
            ("postgres://ada:secret@db/w?sslcert=/nowhere", "sslkey="),
            ("postgres://ada:secret@db/w?sslkey=/nowhere", "sslcert="),
            ("postgres://ada:secret@db/w?sslkey=/nowhere&sslcert=/nowhere", "sslkey /nowhere"),
            ("postgres://ada:secret@db/w?sslrootcert=/nowhere", "sslrootcert /nowhere"),
            ("postgres://ada:secret@db/w?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2", "above"),
            ("postgres://ada@db/w?passfile=/nowhere", "the password file /nowhere"),
            ("postgres://ada:secret@db/w?service=w&servicefile=/nowhere", "the service file /nowhere"),
        ] {
            let refused = parse(address).map(drop).map_err(|error| error.to_string());
            let named = |message: &String| message.contains(part) && !message.contains("secret");
            assert!(refused.as_ref().is_err_and(named), "{address}: {refused:?}");
        }
    }
}
