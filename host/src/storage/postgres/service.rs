//! Connection service files: named sections of parameters, as libpq reads them from `pg_service.conf`.

use std::{
    env,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::files::{self, Limit};

/// Maximum size of a service file; a section has some hundred bytes.
const SERVICE_FILE: Limit = Limit::fixed(1 << 20);

/// Reads the parameters of a service: from the file that the address names, else from that of `PGSERVICEFILE`, else from
/// `~/.pg_service.conf`, and after these from `pg_service.conf` in the folder of `PGSYSCONFDIR`.
///
/// # Errors
///
/// The reason, with the file and what to change in it, without a value, which may be secret.
pub(super) fn read(service: &str, file: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let named = file.map(PathBuf::from).or_else(|| env::var_os("PGSERVICEFILE").map(PathBuf::from));
    let own = || env::home_dir().map(|home| home.join(".pg_service.conf"));
    let (first, may_be_missing) = (named.clone().or_else(own), named.is_none());
    let system = env::var_os("PGSYSCONFDIR").map(|folder| Path::new(&folder).join("pg_service.conf"));
    let mut searched = Vec::new();
    for (file, may_be_missing) in first.map(|file| (file, may_be_missing)).into_iter().chain(system.map(|f| (f, true)))
    {
        let shown = file.display();
        let bytes = match files::read(&file, SERVICE_FILE) {
            Err(error) if may_be_missing && error.kind() == ErrorKind::NotFound => Vec::new(),
            read => read.map_err(|error| format!("the service file {shown} can't be read: {error}"))?,
        };
        let text = String::from_utf8(bytes).map_err(|_| format!("the service file {shown} is not UTF-8"))?;
        let section = section(&text, service).map_err(|reason| format!("the service file {shown}, {reason}"))?;
        if let Some(parameters) = section {
            return Ok(parameters);
        }
        searched.push(shown.to_string());
    }
    let searched = if searched.is_empty() { "no file".into() } else { searched.join(", ") };
    Err(format!(
        "the service {service} is not defined in {searched}: add the section [{service}], or name its file with servicefile="
    ))
}

/// Returns the parameters of a section; `None` where no line begins it.
fn section(text: &str, service: &str) -> Result<Option<Vec<(String, String)>>, String> {
    let lines = text.lines().zip(1..).map(|(line, number)| (line.trim(), number));
    let mut lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let header = format!("[{service}]");
    if !lines.any(|(line, _)| line == header) {
        return Ok(None);
    }
    let parameter = |(line, number): (&str, usize)| match line.split_once('=') {
        _ if line.starts_with("ldap") => {
            Err(format!("line {number}: parameters are not read from LDAP: write them here"))
        }
        Some(("service" | "servicefile", _)) => Err(format!("line {number}: a service can't name another one")),
        Some((name, _)) if name.ends_with(' ') => Err(format!("line {number}: write NAME=VALUE, without spaces")),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(format!("line {number}: write NAME=VALUE")),
    };
    lines.take_while(|(line, _)| !line.starts_with('[')).map(parameter).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_has_its_own_lines_alone() {
        let text =
            "# host=comment\n[other]\nhost=other\n\n[w]\n  host=db \r\n#port=1\npassword=a=b # c\n\n[last]\nuser=x\n";
        let pairs = |pairs: &[(&str, &str)]| {
            Ok(Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()))
        };
        assert_eq!(section(text, "w"), pairs(&[("host", "db"), ("password", "a=b # c")]));
        assert_eq!(section(text, "last"), pairs(&[("user", "x")]));
        assert_eq!(section(text, "none"), Ok(None));
        assert_eq!(section("", "w"), Ok(None));
    }

    #[test]
    fn a_line_that_is_no_parameter_is_named_without_its_value() {
        for line in ["secret", "service=secret", "servicefile=secret", "ldap://secret", "password = secret"] {
            let refused = section(&format!("[w]\nhost=db\n{line}\n"), "w");
            let named = |reason: &String| reason.contains("line 3") && !reason.contains("secret");
            assert!(refused.as_ref().is_err_and(named), "{line}: {refused:?}");
        }
    }
}
