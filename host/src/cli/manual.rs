//! Descriptions of the program for shells and for `man`.

use std::io::{Write as _, stdout};

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Arguments;

/// Print completions for a shell
#[derive(Args)]
#[command(after_help = "\
For bash, and for zsh in a folder of its fpath:
  workspaces completions bash > /etc/bash_completion.d/workspaces
  workspaces completions zsh > ~/.zfunc/_workspaces")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "workspaces", &mut script);
        Ok(stdout().write_all(&script)?)
    }
}

/// Print the manual page
#[derive(Args)]
#[command(after_help = "\
To read it:
  workspaces manual | man -l -")]
pub(super) struct Manual {}

impl Manual {
    pub(super) fn run(self) -> Result<()> {
        let mut program = Arguments::command();
        program.build();
        let mut page = Vec::new();
        let manual = clap_mangen::Man::new(program.clone());
        manual.render(&mut page)?;
        // The commands' options, as sections of the same page.
        for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
            let leaves: Vec<_> = command.get_subcommands().filter(|leaf| leaf.get_name() != "help").collect();
            for leaf in if leaves.is_empty() { vec![command] } else { leaves } {
                let name = leaf.get_bin_name().unwrap_or(leaf.get_name());
                writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
                let about = leaf.get_long_about().or(leaf.get_about()).map(ToString::to_string).unwrap_or_default();
                writeln!(page, "{}", about.replace('\\', "\\\\").replace("\n\n", "\n.PP\n"))?;
                clap_mangen::Man::new(leaf.clone()).render_options_section(&mut page)?;
            }
        }
        Ok(stdout().write_all(&page)?)
    }
}
