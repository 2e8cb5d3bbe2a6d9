//! The address of a database, as operators write it.

#[cfg(feature = "sqlite")]
use std::path::PathBuf;
use std::{fmt, sync::Arc};

#[cfg(feature = "postgres")]
use super::postgres::{self, Postgres};
#[cfg(feature = "sqlite")]
use super::sqlite::{self, Sqlite};
use super::{Database, DatabaseError};

/// Opens the database at an address, with the default options; see [`DatabaseAddress::parse`].
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # async fn example() -> Result<(), workspaces_host::storage::DatabaseError> {
/// let database = workspaces_host::storage::open("sqlite::memory:").await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`DatabaseError::Unusable`] for text that is no address, and the errors of the database itself.
pub async fn open(address: &str) -> Result<Arc<dyn Database>, DatabaseError> {
    let address = DatabaseAddress::parse(address).map_err(|error| DatabaseError::Unusable(error.to_string()))?;
    address
        .open(
            #[cfg(feature = "sqlite")]
            &sqlite::SqliteOptions::default(),
            #[cfg(feature = "postgres")]
            &postgres::PostgresOptions::default(),
        )
        .await
}

/// Address of a database.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum DatabaseAddress {
    /// An SQLite file.
    #[cfg(feature = "sqlite")]
    File(PathBuf),
    /// An SQLite database in memory.
    #[cfg(feature = "sqlite")]
    Memory,
    /// A PostgreSQL server, by its libpq URL.
    #[cfg(feature = "postgres")]
    Server(String),
}

/// Text that is no address. The message never repeats an address that may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(String);

const FORM: &str = "a database is sqlite:PATH, sqlite::memory: or postgres://USER@HOST/NAME";

fn invalid<T>(reason: impl fmt::Display) -> Result<T, InvalidAddress> {
    Err(InvalidAddress(format!("{reason}: {FORM}")))
}

impl DatabaseAddress {
    /// Parses an address: `sqlite:PATH`, `sqlite::memory:` or `postgres://USER@HOST/NAME`.
    ///
    /// A path may follow `sqlite://` too, as other libraries write it: `sqlite://relative.db`, `sqlite:///absolute.db`
    /// and `sqlite:////absolute.db`. In a path `%3F` stands for `?`, and `%25` for `%`. Of the parameters,
    /// `mode=rwc`, `mode=memory` and `cache` are taken; the last one changes nothing.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`], which says how it is written.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let Some((scheme, rest)) = text.split_once(':') else { return Err(InvalidAddress(FORM.into())) };
        match scheme.to_ascii_lowercase().as_str() {
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" if rest.starts_with("//") => Ok(Self::Server(text.into())),
            #[cfg(feature = "sqlite")]
            "sqlite" => parse_sqlite(rest),
            #[cfg(not(feature = "postgres"))]
            "postgres" | "postgresql" => invalid("this program is built without PostgreSQL"),
            #[cfg(not(feature = "sqlite"))]
            "sqlite" => invalid("this program is built without SQLite"),
            "sqlite3" | "file" => invalid("an SQLite database is written sqlite:PATH"),
            scheme if scheme.contains('+') => invalid("the name of a driver, with its `+`, is left out"),
            _ => {
                let _ = rest;
                Err(InvalidAddress(FORM.into()))
            }
        }
    }

    /// Opens the database.
    ///
    /// # Errors
    ///
    /// As [`Sqlite::open_with`](super::sqlite::Sqlite::open_with) and
    /// [`Postgres::connect`](super::postgres::Postgres::connect).
    pub async fn open(
        &self,
        #[cfg(feature = "sqlite")] sqlite: &sqlite::SqliteOptions,
        #[cfg(feature = "postgres")] postgres: &postgres::PostgresOptions,
    ) -> Result<Arc<dyn Database>, DatabaseError> {
        Ok(match self {
            #[cfg(feature = "sqlite")]
            Self::File(path) => {
                let (path, options) = (path.clone(), sqlite.clone());
                // It reads files, and may wait for another process.
                let opened = tokio::task::spawn_blocking(move || Sqlite::open_with(&path, &options)).await;
                Arc::new(opened.map_err(|error| DatabaseError::Unusable(error.to_string()))??)
            }
            #[cfg(feature = "sqlite")]
            Self::Memory => Arc::new(Sqlite::in_memory()?),
            #[cfg(feature = "postgres")]
            Self::Server(address) => Arc::new(Postgres::connect(address, postgres).await?),
        })
    }
}

impl DatabaseAddress {
    /// Returns the address as the log shows it: an absolute path, or hosts and a name, without a password.
    pub fn shown(&self) -> String {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Memory => ":memory:".into(),
            #[cfg(feature = "sqlite")]
            Self::File(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string(),
            #[cfg(feature = "postgres")]
            Self::Server(address) => {
                let rest = address.split_once("://").map_or("", |(_, rest)| rest);
                let (credentials, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
                match credentials.contains('?') {
                    // The parts can't be told apart for sure.
                    true => "postgres".into(),
                    false => format!("postgres://{}", rest.split('?').next().unwrap_or_default()),
                }
            }
        }
    }
}

impl fmt::Debug for DatabaseAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "sqlite")]
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
            #[cfg(feature = "sqlite")]
            Self::Memory => formatter.write_str("Memory"),
            #[cfg(feature = "postgres")]
            Self::Server(_) => formatter.write_str("Server(…)"),
        }
    }
}

/// Maximum length of a parameter's name that a message repeats. SQLite's own are shorter.
#[cfg(feature = "sqlite")]
const MAX_NAME: usize = 24;

/// Parses what follows `sqlite:`.
#[cfg(feature = "sqlite")]
fn parse_sqlite(rest: &str) -> Result<DatabaseAddress, InvalidAddress> {
    let (path, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let path = decode(path.strip_prefix("//").unwrap_or(path))?;
    let mut in_memory = matches!(path.as_str(), ":memory:" | "/:memory:");
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("mode", "rwc") | ("cache", "private" | "shared") => {}
            ("mode", "memory") => in_memory = true,
            ("mode", "rw" | "ro") => {
                return invalid("leave `mode` out: commands that only read open the file for reading alone");
            }
            (name, _) => {
                // What is no name may be a part of another address, with a password in it.
                let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
                let name = if is_name && name.len() <= MAX_NAME { format!("`{name}` ") } else { String::new() };
                return invalid(format_args!("the parameter {name}is not supported; a `?` in a path is written %3F"));
            }
        }
    }
    match path.trim_start_matches('/') {
        _ if in_memory => Ok(DatabaseAddress::Memory),
        "" => invalid("the path is missing"),
        // However many slashes: one is the root.
        below if path.starts_with('/') => Ok(DatabaseAddress::File(format!("/{below}").into())),
        relative => Ok(DatabaseAddress::File(relative.into())),
    }
}

/// Decodes `%3F` and the like.
#[cfg(feature = "sqlite")]
fn decode(text: &str) -> Result<String, InvalidAddress> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        match after.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())) {
            Some(digits) => {
                bytes.extend(u8::from_str_radix(digits, 16));
                rest = &after[2..];
            }
            None => return invalid("a `%` in a path is written %25"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    match String::from_utf8(bytes) {
        Ok(path) if !path.contains('\0') => Ok(path),
        _ => invalid("the path is no text in UTF-8"),
    }
}

#[cfg(all(test, feature = "sqlite", feature = "postgres"))]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_others_write_them_are_taken() {
        let file = |path: &str| Ok(DatabaseAddress::File(path.into()));
        for (text, expected) in [
            ("sqlite:workspaces.db", file("workspaces.db")),
            ("sqlite:./a/b.db", file("./a/b.db")),
            ("sqlite:/abs.db", file("/abs.db")),
            ("sqlite://rel.db", file("rel.db")),
            ("sqlite://a/rel.db", file("a/rel.db")),
            ("sqlite:///abs.db", file("/abs.db")),
            ("sqlite:////abs.db", file("/abs.db")),
            ("SQLite:///abs.db?mode=rwc", file("/abs.db")),
            ("sqlite:rel.db?mode=rwc&cache=shared", file("rel.db")),
            ("sqlite:rel.db?", file("rel.db")),
            ("sqlite:a%20b%3F%25.db", file("a b?%.db")),
            ("sqlite:a b#c.db", file("a b#c.db")),
            ("sqlite::memory:", Ok(DatabaseAddress::Memory)),
            ("sqlite://:memory:", Ok(DatabaseAddress::Memory)),
            ("sqlite:///:memory:", Ok(DatabaseAddress::Memory)),
            ("sqlite::memory:?cache=shared", Ok(DatabaseAddress::Memory)),
            ("sqlite:any?mode=memory&cache=private", Ok(DatabaseAddress::Memory)),
            ("sqlite:?mode=memory", Ok(DatabaseAddress::Memory)),
            ("postgres://ada:secret@db/w?x=y", Ok(DatabaseAddress::Server("postgres://ada:secret@db/w?x=y".into()))),
            ("postgresql://db", Ok(DatabaseAddress::Server("postgresql://db".into()))),
        ] {
            assert_eq!(DatabaseAddress::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn other_addresses_are_refused_with_the_right_spelling_and_without_a_password() {
        for (text, part) in [
            ("", "a database is"),
            ("workspaces.db", "a database is"),
            ("/srv/workspaces.db", "a database is"),
            ("sqlite:", "the path is missing"),
            ("sqlite://", "the path is missing"),
            ("sqlite:///", "the path is missing"),
            ("sqlite:a.db?mode=ro", "leave `mode` out"),
            ("sqlite:a.db?mode=rw", "leave `mode` out"),
            ("sqlite:a.db?immutable=1", "`immutable`"),
            ("sqlite:what?.db", "%3F"),
            ("sqlite:100%.db", "%25"),
            ("sqlite:%ff", "UTF-8"),
            ("sqlite:a%00b", "UTF-8"),
            ("sqlite3:a.db", "sqlite:PATH"),
            ("file:a.db?mode=rwc", "sqlite:PATH"),
            ("sqlite+pysqlite:///a.db", "driver"),
            ("postgresql+asyncpg://ada:secret@db/w", "driver"),
            ("postgres:ada:secret@db/w", "a database is"),
            ("mysql://ada:secret@db/w", "a database is"),
            ("ada:secret@db/w", "a database is"),
        ] {
            let refused = DatabaseAddress::parse(text).map_err(|error| error.to_string());
            assert!(
                refused.as_ref().is_err_and(|message| message.contains(part)
                    && message.contains("sqlite:PATH, sqlite::memory: or postgres://")
                    && !message.contains("secret")),
                "{text}: {refused:?}"
            );
        }
        assert_eq!(format!("{:?}", DatabaseAddress::Server("postgres://ada:secret@db".into())), "Server(…)");
    }

    #[test]
    fn fuzzed_addresses_are_parsed_or_refused_without_a_password() {
        let seeds: [&[u8]; 6] = [
            b"sqlite:workspaces.db",
            b"sqlite:///absolute%20path.db?mode=rwc",
            b"sqlite::memory:?cache=shared",
            b"postgres://ada:hunter2@db:5432,other/x?sslmode=verify-full",
            b"postgresql+asyncpg://ada:hunter2@db/x",
            b"mysql://ada:hunter2@db/x",
        ];
        crate::fuzz::fuzz(&seeds, |input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            let has_password = text.contains("://ada:hunter2@") && text.matches("hunter2").count() == 1;
            let said = match DatabaseAddress::parse(text) {
                Ok(address @ DatabaseAddress::Server(_)) => address.shown(),
                // A path holds no password.
                Ok(_) => String::new(),
                Err(error) => error.to_string(),
            };
            assert!(!has_password || !said.contains("hunter2"), "{said}");
        });
    }
}
