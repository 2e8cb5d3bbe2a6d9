//! Parameters of a libpq address, by what becomes of each.

use std::time::Duration;

/// Treatment of a parameter of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    /// A parameter for the driver, by the driver's name.
    Driver(&'static str, String),
    /// Names of hosts, with commas between them.
    Hosts(String),
    /// IP addresses of hosts, with commas between them.
    Addresses(String),
    /// Ports of hosts, with commas between them.
    Ports(String),
    PasswordFile(String),
    /// The file of the authorities to trust; the system's where `None`.
    Authorities(Option<String>),
    Certificate(String),
    Key(String),
    /// A certificate is never shown.
    NoCertificate,
    /// The name of the server is not sent in the clear.
    NoServerName,
    /// TLS 1.3 alone.
    WithoutTls12,
    /// TLS 1.2 alone.
    WithoutTls13,
    /// Timeout for the acknowledgement of what was sent.
    Acknowledgement(Duration),
    /// Ignored: the parameter has no meaning here, or this is what happens anyway.
    Ignored,
}

/// Reads one parameter of an address or a service. An empty value stands for the default.
///
/// # Errors
///
/// The reason why the parameter can't be honoured, without its value, which may be secret.
pub(super) fn read(name: &str, value: &str) -> Result<Parameter, String> {
    use Parameter::{Driver, Ignored};
    let driver = |name, value: &str| Ok(Driver(name, value.to_owned()));
    let refuse = |reason: &str| Err(format!("{name} is not supported: {reason}"));
    let one_of = |values: &str| Err(format!("{name} is one of {values}"));
    match (name, value) {
        // No value, which libpq takes for the default too; but not for a name that is none.
        (known, "") if is_known(known) => Ok(Ignored),

        ("host", _) => Ok(Parameter::Hosts(value.into())),
        ("hostaddr", _) => Ok(Parameter::Addresses(value.into())),
        ("port", _) => Ok(Parameter::Ports(value.into())),
        ("user", _) => driver("user", value),
        ("password", _) => driver("password", value),
        ("dbname", _) => driver("dbname", value),
        ("options", _) => driver("options", value),
        ("application_name", _) => driver("application_name", value),
        ("passfile", _) => Ok(Parameter::PasswordFile(value.into())),
        ("connect_timeout", _) => driver("connect_timeout", value),
        ("tcp_user_timeout", _) => match value.parse() {
            Ok(milliseconds) => Ok(Parameter::Acknowledgement(Duration::from_millis(milliseconds))),
            Err(_) => Err(format!("{name} is a number of milliseconds")),
        },
        ("keepalives", _) => driver("keepalives", value),
        ("keepalives_idle", _) => driver("keepalives_idle", value),
        ("keepalives_interval", _) => driver("keepalives_interval", value),
        ("keepalives_count", _) => driver("keepalives_retries", value),

        ("sslmode", "allow" | "prefer") => driver("sslmode", "prefer"),
        ("sslmode", "require" | "verify-ca" | "verify-full") | ("ssl", "true") => driver("sslmode", "require"),
        ("sslmode", "disable") => driver("sslmode", "disable"),
        ("sslmode", _) => one_of("disable, allow, prefer, require, verify-ca and verify-full"),
        ("ssl", _) => one_of("true: write sslmode"),
        ("sslnegotiation", "postgres" | "direct") => driver("sslnegotiation", value),
        ("sslnegotiation", _) => one_of("postgres and direct"),
        ("sslrootcert", "system") => Ok(Parameter::Authorities(None)),
        ("sslrootcert", _) => Ok(Parameter::Authorities(Some(value.into()))),
        ("sslcert", _) => Ok(Parameter::Certificate(value.into())),
        ("sslkey", _) if is_of_an_engine(value) => refuse("keys are not read from OpenSSL's engines: name a file"),
        ("sslkey", _) => Ok(Parameter::Key(value.into())),
        ("sslpassword", _) => refuse("encrypted keys are not read: write the key without its password"),
        ("sslcertmode", "allow") => Ok(Ignored),
        ("sslcertmode", "disable") => Ok(Parameter::NoCertificate),
        ("sslcertmode", "require") => refuse("let the server ask, with clientcert in pg_hba.conf"),
        ("sslcertmode", _) => one_of("disable and allow"),
        ("sslsni", "1") => Ok(Ignored),
        ("sslsni", "0") => Ok(Parameter::NoServerName),
        ("sslsni", _) => one_of("0 and 1"),
        ("ssl_min_protocol_version", "TLSv1" | "TLSv1.1" | "TLSv1.2") => Ok(Ignored),
        ("ssl_min_protocol_version", "TLSv1.3") => Ok(Parameter::WithoutTls12),
        ("ssl_max_protocol_version", "TLSv1.2") => Ok(Parameter::WithoutTls13),
        ("ssl_max_protocol_version", "TLSv1.3") => Ok(Ignored),
        ("ssl_max_protocol_version", "TLSv1" | "TLSv1.1") => refuse("the oldest version here is TLSv1.2"),
        ("ssl_min_protocol_version" | "ssl_max_protocol_version", _) => one_of("TLSv1.2 and TLSv1.3"),
        // There is no compression in TLS 1.3, nor in this library's TLS 1.2.
        ("sslcompression", _) => Ok(Ignored),
        ("sslcrl" | "sslcrldir", _) => refuse("revocation lists are not read"),
        ("sslkeylogfile", _) => refuse("the keys of sessions are never written to a file"),

        ("channel_binding", "disable" | "prefer" | "require") => driver("channel_binding", value),
        ("channel_binding", _) => one_of("disable, prefer and require"),
        ("require_auth", _) => refuse("the method is not chosen here: use channel_binding=require"),
        ("requirepeer", _) => refuse("the owner of a socket is not looked at: protect its folder"),
        ("scram_client_key" | "scram_server_key", _) => refuse("a password is needed for SCRAM"),
        ("gssencmode", "require") => refuse("there is no GSSAPI here: use TLS"),
        ("gssencmode" | "gssdelegation" | "gsslib" | "krbsrvname", _) => Ok(Ignored),
        ("oauth_issuer" | "oauth_client_id" | "oauth_client_secret" | "oauth_scope", _) => {
            refuse("there is no login with OAuth here: use a password or a certificate")
        }

        ("target_session_attrs", "any") => driver("target_session_attrs", "any"),
        ("target_session_attrs", "read-write" | "primary") => driver("target_session_attrs", "read-write"),
        ("target_session_attrs", "read-only" | "standby" | "prefer-standby") => {
            refuse("a standby takes no workspaces: use read-write")
        }
        ("target_session_attrs", _) => one_of("any, read-write and primary"),
        // Of all hosts one alone takes writes: there is nothing to balance.
        ("load_balance_hosts", "disable" | "random") => Ok(Ignored),
        ("load_balance_hosts", _) => one_of("disable and random"),
        ("client_encoding", text) => match text.to_ascii_lowercase().as_str() {
            "utf8" | "utf-8" | "unicode" | "auto" => Ok(Ignored),
            _ => refuse("text is always UTF-8"),
        },
        ("replication", "false" | "off" | "no" | "0") => Ok(Ignored),
        ("replication", _) => refuse("replication is not SQL"),
        ("min_protocol_version", "3.0") | ("max_protocol_version", "3.0" | "3.2" | "latest") => Ok(Ignored),
        ("min_protocol_version", _) => refuse("the protocol is 3.0, which every server speaks"),
        ("max_protocol_version", _) => one_of("3.0, 3.2 and latest"),
        // The host's own name stands where `application_name` is missing.
        ("fallback_application_name", _) => Ok(Ignored),
        _ => Err(format!("{} is no parameter of libpq", name.escape_default())),
    }
}

/// Returns whether libpq has a parameter of this name; `service` and `servicefile` are read before.
fn is_known(name: &str) -> bool {
    // One of them by its value alone, the others with any.
    !matches!(read(name, "?"), Err(reason) if reason.ends_with("is no parameter of libpq"))
}

/// Returns whether a key is written `ENGINE:KEY`, and no path.
fn is_of_an_engine(key: &str) -> bool {
    key.split_once(':').is_some_and(|(engine, _)| !engine.contains(['/', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Treatment by its kind alone.
    #[derive(Debug, PartialEq, Eq)]
    enum Kind {
        Honoured,
        Ignored,
        Refused,
    }

    fn kind(name: &str, value: &str) -> Kind {
        match read(name, value) {
            Ok(Parameter::Ignored) => Kind::Ignored,
            Ok(_) => Kind::Honoured,
            Err(_) => Kind::Refused,
        }
    }

    /// Tries every parameter of section 32.1.2 of PostgreSQL 17's manual, and those that 18 adds, with values of each kind.
    /// `service` and `servicefile` are replaced by the parameters of the service before.
    #[test]
    fn each_parameter_of_libpq_is_honoured_ignored_or_refused() {
        use Kind::{Honoured, Ignored, Refused};
        for (name, values) in [
            ("host", &[("db", Honoured), ("", Ignored)][..]),
            ("hostaddr", &[("127.0.0.1", Honoured)]),
            ("port", &[("5433", Honoured)]),
            ("dbname", &[("w", Honoured)]),
            ("user", &[("ada", Honoured)]),
            ("password", &[("secret", Honoured)]),
            ("passfile", &[("/f", Honoured), ("", Ignored)]),
            ("require_auth", &[("scram-sha-256", Refused), ("", Ignored)]),
            ("channel_binding", &[("require", Honoured), ("prefer", Honoured), ("disable", Honoured), ("x", Refused)]),
            ("connect_timeout", &[("3", Honoured)]),
            ("client_encoding", &[("UTF8", Ignored), ("auto", Ignored), ("LATIN1", Refused)]),
            ("options", &[("-c search_path=x", Honoured)]),
            ("application_name", &[("a b", Honoured)]),
            ("fallback_application_name", &[("a", Ignored)]),
            ("keepalives", &[("1", Honoured)]),
            ("keepalives_idle", &[("5", Honoured)]),
            ("keepalives_interval", &[("5", Honoured)]),
            ("keepalives_count", &[("3", Honoured)]),
            ("tcp_user_timeout", &[("1500", Honoured), ("soon", Refused)]),
            ("replication", &[("false", Ignored), ("database", Refused)]),
            ("gssencmode", &[("prefer", Ignored), ("disable", Ignored), ("require", Refused)]),
            (
                "sslmode",
                &[
                    ("disable", Honoured),
                    ("allow", Honoured),
                    ("prefer", Honoured),
                    ("require", Honoured),
                    ("verify-ca", Honoured),
                    ("verify-full", Honoured),
                    ("x", Refused),
                ],
            ),
            ("ssl", &[("true", Honoured), ("x", Refused)]),
            ("sslnegotiation", &[("postgres", Honoured), ("direct", Honoured), ("x", Refused)]),
            ("sslcompression", &[("0", Ignored), ("1", Ignored)]),
            ("sslcert", &[("/f", Honoured)]),
            ("sslkey", &[("/f", Honoured), ("./a:b", Honoured), ("pkcs11:key", Refused)]),
            ("sslpassword", &[("secret", Refused), ("", Ignored)]),
            ("sslcertmode", &[("allow", Ignored), ("disable", Honoured), ("require", Refused), ("x", Refused)]),
            ("sslrootcert", &[("system", Honoured), ("/f", Honoured), ("", Ignored)]),
            ("sslcrl", &[("/f", Refused), ("", Ignored)]),
            ("sslcrldir", &[("/f", Refused), ("", Ignored)]),
            ("sslsni", &[("1", Ignored), ("0", Honoured), ("x", Refused)]),
            ("requirepeer", &[("postgres", Refused)]),
            (
                "ssl_min_protocol_version",
                &[("TLSv1", Ignored), ("TLSv1.2", Ignored), ("TLSv1.3", Honoured), ("x", Refused)],
            ),
            (
                "ssl_max_protocol_version",
                &[("TLSv1.3", Ignored), ("TLSv1.2", Honoured), ("TLSv1.1", Refused), ("", Ignored)],
            ),
            ("krbsrvname", &[("postgres", Ignored)]),
            ("gsslib", &[("gssapi", Ignored)]),
            ("gssdelegation", &[("0", Ignored)]),
            (
                "target_session_attrs",
                &[
                    ("any", Honoured),
                    ("read-write", Honoured),
                    ("primary", Honoured),
                    ("read-only", Refused),
                    ("standby", Refused),
                    ("prefer-standby", Refused),
                    ("x", Refused),
                ],
            ),
            ("load_balance_hosts", &[("disable", Ignored), ("random", Ignored), ("x", Refused)]),
            ("min_protocol_version", &[("3.0", Ignored), ("3.2", Refused), ("latest", Refused)]),
            ("max_protocol_version", &[("3.0", Ignored), ("latest", Ignored), ("x", Refused)]),
            ("sslkeylogfile", &[("/f", Refused)]),
            ("scram_client_key", &[("x", Refused)]),
            ("scram_server_key", &[("x", Refused)]),
            ("oauth_issuer", &[("x", Refused)]),
            ("oauth_client_id", &[("x", Refused)]),
            ("oauth_client_secret", &[("x", Refused)]),
            ("oauth_scope", &[("x", Refused)]),
            ("pasword", &[("secret", Refused), ("", Refused)]),
        ] {
            for (value, expected) in values {
                assert_eq!(kind(name, value), *expected, "{name}={value}");
            }
        }
    }

    #[test]
    fn a_refusal_names_the_parameter_and_never_its_value() {
        for name in [
            "sslpassword",
            "sslcrl",
            "require_auth",
            "requirepeer",
            "target_session_attrs",
            "sslmode",
            "client_encoding",
            "tcp_user_timeout",
            "replication",
            "oauth_client_secret",
            "scram_client_key",
            "min_protocol_version",
            "pasword",
        ] {
            let refused = read(name, "secret");
            let names = |reason: &String| {
                reason.starts_with(name) && !reason.contains("secret:") && !reason.ends_with("secret")
            };
            assert!(refused.as_ref().is_err_and(names), "{refused:?}");
        }
    }

    #[test]
    fn values_of_other_names_are_translated_for_the_driver() {
        for (name, value, expected) in [
            ("sslmode", "verify-full", ("sslmode", "require")),
            ("sslmode", "allow", ("sslmode", "prefer")),
            ("keepalives_count", "3", ("keepalives_retries", "3")),
            ("target_session_attrs", "primary", ("target_session_attrs", "read-write")),
        ] {
            assert_eq!(read(name, value), Ok(Parameter::Driver(expected.0, expected.1.into())), "{name}={value}");
        }
        // The driver would take it for seconds.
        let expected = Ok(Parameter::Acknowledgement(Duration::from_millis(1500)));
        assert_eq!(read("tcp_user_timeout", "1500"), expected);
    }
}
