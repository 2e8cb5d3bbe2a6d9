//! Secrets in what the program is given, so that none is repeated in an error.

use std::{borrow::Cow, path::Path};

use crate::storage::DatabaseError;

/// Shortest part of an address that is taken for a secret; a shorter one would take letters out of words.
const SHORTEST: usize = 3;

/// Returns the secrets of a URL: the password or token before its host, and the values of its query that a password
/// may be. Each as it is written and as it is meant; in parts, since a part of a mistyped address may be quoted.
pub(crate) fn of_address(address: &str) -> Vec<String> {
    let Some((scheme, rest)) = address.split_once("://") else { return Vec::new() };
    let is_database = scheme.starts_with("postgres");
    let (user, query) = (rest.rsplit_once('@').map(|(user, _)| user), rest.split_once('?').map(|(_, query)| query));
    // A database's user is no secret, but a provider may take a token in its place.
    let password = user.and_then(|user| match user.split_once(':') {
        Some((_, password)) => Some(password),
        None => Some(user).filter(|_| !is_database),
    });
    let values = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let values = values.filter(|(key, _)| !is_database || key.contains("pass"));
    let whole = password.into_iter().chain(values.map(|(_, value)| value));
    let mut secrets: Vec<_> = whole
        .flat_map(|secret| std::iter::once(secret).chain(secret.split(['/', '?', '#', '&', '='])))
        .flat_map(|secret| [secret.to_owned(), decoded(secret)])
        .filter(|secret| secret.len() >= SHORTEST)
        .collect();
    // The longest first: a part of one must not keep it from being found.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// Returns the name of a file that may be a secret in its place: a long one without a dot.
pub(crate) fn of_path(path: &Path) -> Option<Cow<'_, str>> {
    let name = path.file_name()?.to_string_lossy();
    (name.len() > LONGEST && !name.contains('.')).then_some(name)
}

/// Shows the path of a file, unless it may be a secret.
pub(crate) fn path(path: &Path) -> Cow<'_, str> {
    match of_path(path) {
        Some(_) => "the file (its name is not shown: it may be a secret)".into(),
        None => path.to_string_lossy(),
    }
}

/// Returns a text without these secrets.
pub(crate) fn hide(text: &str, secrets: &[String]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "…"))
}

/// Returns an error of a database without the secrets of its address.
pub(crate) fn hide_in(error: DatabaseError, address: &str) -> DatabaseError {
    match error {
        DatabaseError::Unusable(text) => DatabaseError::Unusable(hide(&text, &of_address(address))),
        other => other,
    }
}

/// Resolves the escapes of a URL.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.first_chunk::<2>().filter(|_| byte == b'%');
        let escaped = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Longest value that is repeated in an error; a random secret is longer.
pub(crate) const LONGEST: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secrets_of_an_address_are_found_as_written_and_as_meant() {
        for (address, text, expected) in [
            ("postgres://ada:s3cret@db/x", "no s3cret at db", "no … at db"),
            ("postgres://ada:s%2Fcret@db/x", "s%2Fcret s/cret", "… …"),
            ("postgres://ada:pa?sword@db/x", "unknown option `sword@db/x` sword", "unknown option `…@db/x` …"),
            ("postgres://db/x?user=ada&password=s3cret", "s3cret", "…"),
            ("https://token@id/jwks?key=abcdef", "token abcdef id", "… … id"),
            ("postgres://ada@db/x?sslkey=file", "ada db x file", "ada db x file"),
            ("sqlite:acme.db", "acme.db", "acme.db"),
        ] {
            assert_eq!(hide(text, &of_address(address)), expected, "{address}");
        }
    }
}
