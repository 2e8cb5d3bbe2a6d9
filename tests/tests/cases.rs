//! The built-in component's verification, each case and each cell as a test of its own: an author's own would look so.

#![allow(clippy::print_stderr, reason = "a runner of tests of its own")]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use workspaces_host::harness::Verify;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let report = match Verify::new(workspaces_host::COMPONENT).default_rules().run() {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let trial = |(name, failure): (String, Option<String>)| {
        Trial::test(name, || failure.map_or(Ok(()), |text| Err(Failed::from(text))))
    };
    libtest_mimic::run(&arguments, report.tests().into_iter().map(trial).collect()).exit_code()
}
