//! The program `workspaces`, as the tests start it.

fn main() -> std::process::ExitCode {
    workspaces_host::cli::main()
}
