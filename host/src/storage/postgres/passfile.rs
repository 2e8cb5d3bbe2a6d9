//! Password files: a line a server, as libpq reads them from `~/.pgpass`.

use std::{
    env, fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::{
    files::{self, Limit},
    private,
};

/// Maximum size of a password file; a line has some hundred bytes.
const PASSWORD_FILE: Limit = Limit::fixed(1 << 20);

/// A password file, whose text is shown nowhere.
pub(super) struct PasswordFile {
    path: PathBuf,
    text: String,
}

/// Values that a line of a password file is compared with.
pub(super) struct Login<'a> {
    pub(super) host: &'a str,
    pub(super) port: &'a str,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

impl PasswordFile {
    /// Reads the file that the address names, else that of `PGPASSFILE`, else `~/.pgpass`. The last one may be missing
    /// or unfit, as for libpq: the inner error is the reason, for a login that fails without a password.
    ///
    /// # Errors
    ///
    /// A file that is named and can't be used: the reason, with the file and what to change.
    pub(super) fn read(named: Option<&str>) -> Result<Result<Self, String>, String> {
        let named = named.map(PathBuf::from).or_else(|| env::var_os("PGPASSFILE").map(PathBuf::from));
        let unusable =
            |path: &Path, error: io::Error| format!("the password file {} can't be used: {error}", path.display());
        if let Some(path) = named {
            return Self::open(path.clone()).map(Ok).map_err(|error| unusable(&path, error));
        }
        let none = || "there is no ~/.pgpass: write it there, or name a file with passfile=".to_owned();
        let Some(path) = env::home_dir().map(|home| home.join(".pgpass")) else { return Ok(Err(none())) };
        Ok(Self::open(path.clone()).map_err(|error| match error.kind() {
            ErrorKind::NotFound => none(),
            _ => unusable(&path, error),
        }))
    }

    fn open(path: PathBuf) -> io::Result<Self> {
        let text = String::from_utf8(files::read(&path, PASSWORD_FILE)?);
        private::require_owner_alone(&path)?;
        let text = text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not text in UTF-8"))?;
        Ok(Self { path, text })
    }

    /// Returns the password of the first line that fits.
    pub(super) fn password(&self, login: &Login<'_>) -> Option<String> {
        self.text.lines().filter(|line| !line.starts_with('#')).find_map(|line| password(line, login))
    }

    /// Returns the file's path.
    pub(super) fn shown(&self) -> impl fmt::Display {
        self.path.display()
    }
}

/// Returns the password of a line, `host:port:database:user:password`, that fits. A field `*` fits everything; `\`
/// stands before a `:` or `\` that belongs to a field.
fn password(line: &str, login: &Login<'_>) -> Option<String> {
    let mut rest = line;
    for expected in [login.host, login.port, login.database, login.user] {
        let (pattern, after) = field(rest);
        let is_any = rest.starts_with("*:");
        rest = after.filter(|_| is_any || pattern == expected)?;
    }
    let (password, _) = field(rest);
    Some(password).filter(|password| !password.is_empty())
}

/// Returns the first field, without its escapes, and what follows its `:`.
fn field(text: &str) -> (String, Option<&str>) {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            ':' => return (value, text.get(at + 1..)),
            '\\' => value.push(characters.next().map_or('\\', |(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let login = Login { host: "db", port: "5432", database: "w", user: "ada" };
        for (text, expected) in [
            ("db:5432:w:ada:secret", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            ("db:5433:w:ada:wrong\ndb:5432:*:ada:right\n*:*:*:*:late", Some("right")),
            ("# db:5432:w:ada:comment\r\n\r\ndb:5432:w:ada:secret\r\n", Some("secret")),
            (r"db:5432:w:ada:a\:b\\c", Some(r"a:b\c")),
            (r"d\b:5432:w:ada:secret", Some("secret")),
            (r"\*:5432:w:ada:secret", None),
            ("d*:5432:w:ada:secret", None),
            ("db:5432:w:ada:secret:more", Some("secret")),
            ("db:5432:w:ada:", None),
            ("db:5432:w:ada", None),
            ("DB:5432:w:ada:secret", None),
            ("db:5432:w:adam:secret", None),
            (" db:5432:w:ada:secret", None),
            ("", None),
        ] {
            let file = PasswordFile { path: PathBuf::new(), text: text.into() };
            assert_eq!(file.password(&login).as_deref(), expected, "{text}");
        }
        let odd = Login { host: "::1", port: "5432", database: r"a\b", user: "a:b" };
        let file = PasswordFile { path: PathBuf::new(), text: r"\:\:1:5432:a\\b:a\:b:secret".into() };
        assert_eq!(file.password(&odd).as_deref(), Some("secret"));
    }
}
