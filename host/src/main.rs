//! The program `workspaces`.

fn main() -> std::process::ExitCode {
    workspaces_host::cli::main()
}
