//! `broadcasterd man` and `completions`: manual pages and shell completions, made from the description of the command line.
//! Neither connects to the bus.

use super::manual;
use crate::exit::{Code, Failure};
use clap::{Args, Command};
use clap_complete::Shell;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write all pages, one for each command, to this directory, which must exist
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(&self, command_line: Command) -> Result<(), Failure> {
        // The page of `help` would repeat what every page contains.
        let mut program = command_line.disable_help_subcommand(true);
        program.build();
        let Some(dir) = &self.dir else {
            let mut page = Vec::new();
            manual::page(&program, &program, &mut page)?;
            return Ok(io::stdout().write_all(&page)?);
        };
        write_pages(&program, &program, dir)
            .map_err(|error| Failure::new(Code::Failed, format!("cannot write pages to {}: {error}", dir.display())))
    }
}

/// Writes the page of `command` and of everything below it.
fn write_pages(command: &Command, program: &Command, dir: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_pages(subcommand, program, dir)?;
    }
    let mut page = Vec::new();
    manual::page(command, program, &mut page)?;
    let name = command.get_display_name().unwrap_or(command.get_name());
    std::fs::write(dir.join(format!("{name}.1")), page)
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, mut command_line: Command) -> Result<(), Failure> {
        let name = command_line.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command_line, name, &mut script);
        let script = String::from_utf8(script).map_err(io::Error::other)?;
        Ok(io::stdout().write_all(with_channel_names(self.shell, script).as_bytes())?)
    }
}

/// Completes the names of open channels as well, in the shells for which that can be added to the generated script.
fn with_channel_names(shell: Shell, script: String) -> String {
    match shell {
        Shell::Bash => script + include_str!("completions/channels.bash"),
        Shell::Fish => script + include_str!("completions/channels.fish"),
        Shell::Zsh => {
            // The last lines of the script call its function: the new one comes before.
            let head = "\nautoload -U is-at-least\n";
            let channels = include_str!("completions/channels.zsh");
            let mut script = script.replacen(head, &format!("{head}{channels}"), 1);
            for argument in ["':channel -- ", "'*::channels -- "] {
                let lines = script.split('\n').map(|line| match line.starts_with(argument) {
                    true => line.replace(":_default'", ":_broadcasterd_channels'"),
                    false => line.to_owned(),
                });
                script = lines.collect::<Vec<_>>().join("\n");
            }
            script
        }
        _ => script,
    }
}

#[cfg(test)]
mod tests {
    use super::super::command_line;
    use super::*;

    fn built() -> Command {
        let mut program = command_line().disable_help_subcommand(true);
        program.build();
        program
    }

    /// Every command but `help`, the program first.
    fn all(command: &Command) -> Vec<&Command> {
        let below = command.get_subcommands().flat_map(all);
        std::iter::once(command).chain(below).collect()
    }

    fn page(command: &Command) -> String {
        let mut page = Vec::new();
        manual::page(command, &built(), &mut page).expect("written to memory");
        String::from_utf8(page).expect("a manual page is text")
    }

    #[test]
    fn zsh_completes_channels_in_six_commands() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Zsh, &mut command_line(), "broadcasterd", &mut script);
        let script = with_channel_names(Shell::Zsh, String::from_utf8(script).expect("text"));
        assert_eq!(script.matches("\n_broadcasterd_channels() {\n").count(), 1);
        assert_eq!(
            script.matches(":_broadcasterd_channels' \\\n").count(),
            6,
            "get, listen, monitor, presence, request and send"
        );
    }

    #[test]
    fn command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn page_of_the_program_lists_every_command() {
        let program = built();
        let page = page(&program);
        for subcommand in program.get_subcommands() {
            let name = subcommand.get_name().replace('-', "\\-");
            assert!(page.contains(&format!("broadcasterd\\-{name}(1)")), "{name} is missing");
        }
    }

    #[test]
    fn every_page_has_the_usual_sections_in_order() {
        for command in all(&built()) {
            let page = page(command);
            let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
            let last = ["EXAMPLES", "\"EXIT STATUS\"", "ENVIRONMENT", "\"SEE ALSO\""];
            assert_eq!(sections[sections.len() - 4..], last, "{}", command.get_name());
            assert!(page.contains("BROADCASTER_SOCKET") && page.contains("timeout: nothing arrived in time"), "{page}");
        }
    }

    #[test]
    fn every_page_refers_to_pages_that_exist() {
        let program = built();
        let names: Vec<String> =
            all(&program).iter().filter_map(|it| it.get_display_name().map(str::to_owned)).collect();
        for command in all(&program) {
            let page = page(command).replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
            let (_, others) = page.split_once(".SH \"SEE ALSO\"\n").expect("a section");
            for other in others.trim().split(", ") {
                let other = other.trim_end_matches("(1)").to_owned();
                assert!(other == "broadcasterd" || names.contains(&other), "{other:?} in {others}");
            }
        }
    }

    #[test]
    fn every_help_has_an_example_that_parses() {
        let program = built();
        for command in all(&program) {
            let help = command.clone().render_help().to_string();
            let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("no example in {help}"));
            let lines = examples.lines().take_while(|line| !line.is_empty());
            let lines: Vec<&str> = lines.filter(|line| !line.starts_with("      ")).collect();
            assert!(!lines.is_empty(), "{help}");
            for line in lines {
                let start = line.find("broadcasterd").unwrap_or_else(|| panic!("{line} runs something else"));
                let parsed = command_line().try_get_matches_from(words(&line[start..]));
                assert!(parsed.is_ok(), "{line}: {}", parsed.err().map_or_else(String::new, |error| error.to_string()));
            }
        }
    }

    /// The words of the first command of this line. A word in quotes is one.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (number, part) in line.split('\'').enumerate() {
            if number % 2 == 1 {
                words.push(part.to_owned());
                continue;
            }
            let end = part.find(['|', '&', '<', '>', ')']);
            words.extend(part[..end.unwrap_or(part.len())].split_whitespace().map(str::to_owned));
            if end.is_some() {
                break;
            }
        }
        words
    }

    #[test]
    fn send_takes_the_channel_before_the_payload_everywhere() {
        let program = built();
        let send = program.find_subcommand("send").expect("a command");
        for text in [send.clone().render_usage().to_string(), page(send)] {
            let (channel, payload) = (text.find("CHANNEL"), text.find("PAYLOAD"));
            assert!(channel.is_some() && channel < payload, "{text}");
        }
    }
}
