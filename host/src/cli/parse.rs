//! The command line: values that may be secret, and errors that repeat what was typed.

use std::{borrow::Cow, env, ffi::OsStr, net::SocketAddr, process::ExitCode};

use clap::{
    Arg, ArgMatches, Command, CommandFactory as _, builder::TypedValueParser, error::ErrorKind, parser::ValueSource,
};

use super::{
    DatabaseAddress,
    terminal::{escape, is_unsafe},
};

/// Parser of a value that may hold a password: unlike clap's own, its errors do not repeat the value.
#[derive(Clone)]
pub(super) struct Unrepeated<T>(pub(super) fn(&str) -> Result<T, String>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Unrepeated<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, option: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let parsed = value.to_str().ok_or_else(|| "it is not UTF-8".to_owned()).and_then(self.0);
        parsed.map_err(|message| {
            let option = option.and_then(Arg::get_long).map(|name| format!("--{name}: ")).unwrap_or_default();
            command.clone().error(ErrorKind::ValueValidation, format!("{option}{message}"))
        })
    }
}

/// Reads an address to listen at. The host `localhost`, or none, is 127.0.0.1.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let explained = || "an address is HOST:PORT, such as 127.0.0.1:8080, localhost:8080, :8080 or [::]:8080".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(explained)?;
    let host = if matches!(host, "" | "localhost") { "127.0.0.1" } else { host };
    format!("{host}:{port}").parse().map_err(|_| explained())
}

/// Options that say what a tenant of a file says itself.
const OF_TENANTS: [&str; 11] = [
    "database",
    "group_commit",
    "connections",
    "key_pepper",
    "key_pepper_file",
    "admin_organization",
    "jwt_keys",
    "jwt_issuer",
    "jwt_audience",
    "jwt_account_claim",
    "jwt_keys_max_age",
];

/// Options without effect beside `--demo`, which has a database and a pepper of its own.
const OF_DATABASES: [&str; 5] = ["database", "group_commit", "connections", "key_pepper", "key_pepper_file"];

/// Refuses options of the command line that another makes useless. A variable of the environment is no option: it may
/// be there for other commands.
pub(super) fn refuse_ignored(matches: &ArgMatches) -> Result<(), clap::Error> {
    let mut leaf = matches;
    while let Some((_, matches)) = leaf.subcommand() {
        leaf = matches;
    }
    let is_typed =
        |id: &str| leaf.try_contains_id(id).unwrap_or(false) && leaf.value_source(id) == Some(ValueSource::CommandLine);
    let pairs = [("config", &OF_TENANTS[..]), ("demo", &OF_DATABASES)];
    let ignored = pairs.iter().filter(|(by, _)| is_typed(by)).find_map(|(by, options)| {
        let option = options.iter().find(|option| is_typed(option))?;
        Some((*option, format!("--{by}")))
    });
    let of_backend = || {
        let address = leaf.try_get_one::<DatabaseAddress>("database").ok().flatten()?;
        let (option, kind) = match address {
            DatabaseAddress::Server(_) => ("group_commit", "a PostgreSQL database"),
            _ => ("connections", "an SQLite database"),
        };
        is_typed(option).then(|| (option, kind.to_owned()))
    };
    match ignored.or_else(of_backend) {
        None => Ok(()),
        Some((option, by)) => {
            let message = format!("--{} has no effect with {by}: leave one of them out", option.replace('_', "-"));
            Err(super::Arguments::command().error(ErrorKind::ArgumentConflict, message))
        }
    }
}

/// Prints what is wrong with the command line, or the help, and returns the exit code.
pub(super) fn print_usage(error: &clap::Error) -> ExitCode {
    let arguments: Vec<_> = env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    if error.use_stderr() && arguments.iter().any(|argument| argument.contains(is_unsafe)) {
        // clap repeats an argument as it is. Its own line breaks are escaped first, the text's then stay.
        let mut text = Cow::from(error.render().to_string());
        for argument in &arguments {
            let value = argument.split_once('=').map_or("", |(_, value)| value);
            for part in [argument.as_str(), argument.trim_start_matches('-'), value] {
                if part.contains(is_unsafe) {
                    text = text.replace(part, &escape(part)).into();
                }
            }
        }
        text.lines().for_each(super::terminal::print_error_line);
    } else {
        // A reader that is gone is no reason for another exit code.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
