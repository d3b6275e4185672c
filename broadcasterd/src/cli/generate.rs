//! `broadcasterd man` and `completions`: the manual and the shell completions, made from the command line's own description.
//! Neither touches the bus.

use super::Arguments;
use crate::exit::{Code, Failure};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write all pages, one for each subcommand, to this directory; it must be there
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        // A page for `help` would say what each page says by itself.
        let command = Arguments::command().disable_help_subcommand(true);
        let Some(dir) = &self.dir else {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            return Ok(io::stdout().write_all(&page)?);
        };
        clap_mangen::generate_to(command, dir)
            .map_err(|error| Failure::new(Code::Failed, format!("cannot write pages to {}: {error}", dir.display())))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let mut command = Arguments::command();
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        Ok(io::stdout().write_all(&script)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn there_is_a_page_for_each_command_that_people_may_use() {
        let mut command = Arguments::command().disable_help_subcommand(true);
        command.build();
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut page).expect("memory takes it");
        let page = String::from_utf8(page).expect("a manual page is text");
        let names = command.get_subcommands().map(|subcommand| subcommand.get_name().replace('-', "\\-"));
        for name in names {
            assert!(page.contains(&format!("broadcasterd\\-{name}(1)")), "no mention of {name}");
        }
    }
}
