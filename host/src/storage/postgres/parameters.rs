//! Parameters of a libpq address, by what becomes of each.

use percent_encoding::percent_decode_str;

/// Treatment of a parameter of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    /// A parameter for the driver.
    Driver(String),
    /// The file of the authorities to trust; the system's where `None`.
    Authorities(Option<String>),
    /// Ignored: the parameter has no meaning here.
    Ignored,
}

/// Reads one `name=value` of an address. Names and values may be percent-encoded.
///
/// # Errors
///
/// The reason why the parameter can't be honoured, without its value, which may be secret.
pub(super) fn read(pair: &str) -> Result<Parameter, String> {
    let (name, encoded) = pair.split_once('=').ok_or("a parameter has no value: write NAME=VALUE")?;
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
    let name = decode(name).map_err(|_| "the name of a parameter is not UTF-8")?;
    let value = decode(encoded).map_err(|_| format!("{name} is not UTF-8"))?;
    let driver = |name: &str, encoded: &str| Ok(Parameter::Driver(format!("{name}={encoded}")));
    let refuse = |reason: &str| Err(format!("{name} is not supported: {reason}"));
    match (name.as_str(), value.as_str()) {
        ("sslrootcert", "system") => Ok(Parameter::Authorities(None)),
        ("sslrootcert", _) => Ok(Parameter::Authorities(Some(value))),
        ("sslmode", "verify-ca" | "verify-full") => driver("sslmode", "require"),
        ("sslmode", "allow") => driver("sslmode", "prefer"),
        ("keepalives_count", _) => driver("keepalives_retries", encoded),
        ("target_session_attrs", "primary") => driver("target_session_attrs", "read-write"),
        ("target_session_attrs", "read-only" | "standby" | "prefer-standby") => {
            refuse("a standby takes no workspaces: use read-write")
        }
        ("sslmode", "disable" | "prefer" | "require") | ("target_session_attrs", "any" | "read-write") => {
            driver(&name, &value)
        }
        ("sslmode", _) => refuse("it is disable, allow, prefer, require, verify-ca or verify-full"),
        (
            "user"
            | "password"
            | "dbname"
            | "options"
            | "application_name"
            | "sslnegotiation"
            | "host"
            | "hostaddr"
            | "port"
            | "connect_timeout"
            | "tcp_user_timeout"
            | "keepalives"
            | "keepalives_idle"
            | "keepalives_interval"
            | "target_session_attrs"
            | "channel_binding"
            | "load_balance_hosts",
            _,
        ) => driver(&name, encoded),
        ("client_encoding", text) if !["utf8", "utf-8", "auto"].contains(&text.to_ascii_lowercase().as_str()) => {
            refuse("text is always UTF-8")
        }
        ("gssencmode", "require") => refuse("there is no GSSAPI here: use TLS"),
        ("ssl_min_protocol_version", "TLSv1.3") => refuse("TLS 1.2 is accepted too: set the minimum at the server"),
        ("ssl_max_protocol_version", text) if !matches!(text, "" | "TLSv1.3") => {
            refuse("the newest version that both sides know is used")
        }
        ("replication", text) if !matches!(text, "false" | "off" | "no" | "0") => refuse("replication is not SQL"),
        (
            "client_encoding"
            | "fallback_application_name"
            | "gssdelegation"
            | "gssencmode"
            | "gsslib"
            | "krbsrvname"
            | "replication"
            | "sslcompression"
            | "sslsni"
            | "ssl_max_protocol_version"
            | "ssl_min_protocol_version",
            _,
        ) => Ok(Parameter::Ignored),
        ("passfile" | "service" | "servicefile", _) => refuse("write user, password and host into the address"),
        ("sslcert" | "sslkey" | "sslpassword" | "sslcertmode", _) => {
            refuse("the host has no certificate of its own: use a password")
        }
        ("sslcrl" | "sslcrldir", _) => refuse("revocation lists are not read"),
        ("require_auth" | "requirepeer", _) => refuse("the method is not chosen here: use channel_binding=require"),
        _ => Err(format!("{name} is no parameter of libpq")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_of_libpq_is_honoured_ignored_or_refused_by_name() {
        let driver = |text: &str| Ok(Parameter::Driver(text.to_owned()));
        for (pair, expected) in [
            ("sslmode=verify%2Dfull", driver("sslmode=require")),
            ("sslmode=allow", driver("sslmode=prefer")),
            ("keepalives_count=3", driver("keepalives_retries=3")),
            ("target_session_attrs=primary", driver("target_session_attrs=read-write")),
            ("application_name=a%20b", driver("application_name=a%20b")),
            ("options=-c%20search_path%3Dx", driver("options=-c%20search_path%3Dx")),
            ("sslrootcert=system", Ok(Parameter::Authorities(None))),
            ("sslrootcert=%2Fetc%2Fca.pem", Ok(Parameter::Authorities(Some("/etc/ca.pem".into())))),
            ("client_encoding=UTF8", Ok(Parameter::Ignored)),
            ("gssencmode=prefer", Ok(Parameter::Ignored)),
            ("sslsni=1", Ok(Parameter::Ignored)),
        ] {
            assert_eq!(read(pair), expected, "{pair}");
        }
        for pair in [
            "passfile=/secret",
            "service=secret",
            "sslcert=secret",
            "sslkey=secret",
            "sslcrl=secret",
            "require_auth=secret",
            "target_session_attrs=standby",
            "gssencmode=require",
            "sslmode=secret",
            "client_encoding=secret",
            "pasword=secret",
            "replication=database",
        ] {
            let refused = read(pair);
            let name = pair.split('=').next().unwrap_or_default();
            assert!(
                refused.as_ref().is_err_and(|reason| reason.contains(name) && !reason.contains("secret")),
                "{refused:?}"
            );
        }
    }
}
