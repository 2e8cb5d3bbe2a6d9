//! The command line: values that may be secret, and errors that repeat what was typed.

use std::{
    borrow::Cow,
    env,
    ffi::OsStr,
    io::{Write as _, stderr},
    process::ExitCode,
};

use clap::{
    Arg, ArgMatches, Command, CommandFactory as _,
    builder::TypedValueParser,
    error::{ContextKind, ContextValue, Error, ErrorKind},
    parser::ValueSource,
};

use crate::{
    server::secret::LONGEST,
    storage::DatabaseAddress,
    terminal::{error_json, escape, is_unsafe},
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

/// Options that say what a tenant of a file says itself.
const OF_TENANTS: [&str; 12] = [
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
    "record",
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
    // A script for a shell and a page for `man` have a form of their own.
    let made_for_others = || {
        let command = matches.subcommand_name().filter(|name| ["completions", "manual"].contains(name))?;
        is_typed("json").then(|| ("json", command.to_owned()))
    };
    let of_backend = || {
        let address = leaf.try_get_one::<DatabaseAddress>("database").ok().flatten()?;
        let (option, kind) = match address {
            DatabaseAddress::Server(_) => ("group_commit", "a PostgreSQL database"),
            _ => ("connections", "an SQLite database"),
        };
        is_typed(option).then(|| (option, kind.to_owned()))
    };
    match ignored.or_else(of_backend).or_else(made_for_others) {
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
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if error.use_stderr()
        && arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
    {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ");
        // An error that nobody reads has an exit code all the same.
        let _ = stderr().write_all(error_json(message, code).as_bytes());
    } else if error.use_stderr() && arguments.iter().any(|argument| argument.contains(is_unsafe)) {
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
        text.lines().for_each(crate::terminal::print_error_line);
    } else {
        // A reader that is gone is no reason for another exit code.
        let _ = error.print();
    }
    ExitCode::from(code)
}

/// Rewrites an error about arguments so that it does not quote what may be a secret: a URL with a user or a query, or
/// an argument that is none and was perhaps meant to be the value of one.
pub(super) fn without_secrets(mut error: Error) -> Error {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(text)) = error.get(kind) {
            let is_option = kind == ContextKind::InvalidArg && text.starts_with('-');
            // Of `--option=value` the option alone.
            let shown = if is_option { text.split('=').next().unwrap_or_default() } else { harmless(text) };
            let shown = ContextValue::String(shown.to_owned());
            error.insert(kind, shown);
        }
    }
    error
}

fn harmless(text: &str) -> &str {
    if text.len() <= LONGEST && !text.contains(['@', '?', '=']) { text } else { "…" }
}
