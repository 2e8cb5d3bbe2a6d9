//! The command line: values that may be secret, and errors that repeat what was typed.

use std::{borrow::Cow, env, ffi::OsStr, process::ExitCode};

use clap::{Arg, Command, builder::TypedValueParser, error::ErrorKind};

use super::terminal::{escape, is_unsafe};

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
