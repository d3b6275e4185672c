//! Examples, exit codes and variables of each command, for `--help` and the manual pages alike. Nothing here parses arguments.

use crate::exit::Code;
use clap::Command;
use clap_mangen::roff::{Roff, bold, roman};
use std::io::{self, Write};

/// A line for the shell, and what it does.
type Example = (&'static str, &'static str);

/// The examples of a subcommand, or of the program itself.
fn examples(name: &str) -> &'static [Example] {
    match name {
        "broadcasterd" => &[
            ("broadcasterd listen com.example.sync", "Print each message on a channel"),
            ("broadcasterd send com.example.sync hello", "Send a message"),
            ("broadcasterd doctor", "Find out why messages do not arrive"),
        ],
        "run" => &[
            ("broadcasterd run --log debug", "Run the daemon with a detailed log on stderr"),
            ("broadcasterd run --idle-exit 10min", "Exit after ten minutes without connections"),
        ],
        "start" => &[("broadcasterd start", "Make sure that a daemon is running")],
        "listen" => &[
            ("broadcasterd listen com.example.sync", "Print each message on a channel"),
            ("broadcasterd listen com.example.sync 'com.example.log.*'", "Print each message on several channels"),
            ("broadcasterd listen com.example.done -n 1 -t 5min && notify-send done", "Wait for one message"),
            ("broadcasterd listen com.example.sync --json | jq .payload", "Process messages in a script"),
            (
                "broadcasterd listen com.example.log --fail-on-loss > log",
                "Write a log that is complete or ends with code 7",
            ),
            ("broadcasterd listen com.example.sync --exec sh -c 'git pull --quiet'", "Run a command for each message"),
            ("broadcasterd listen com.example.format --exec rustfmt", "Reply to requests with the output of a command"),
            (
                "broadcasterd listen com.example.done -n 1 --ready-exec 'broadcasterd send com.example.sync now'",
                "Send a message and wait for another one, which cannot arrive too early",
            ),
            ("broadcasterd listen com.example.log --replay 100", "Begin with the last messages that are retained"),
            (
                r"broadcasterd listen com.example.log --format '{time} {pid} {payload}\n'",
                "Choose what is printed of each message",
            ),
        ],
        "monitor" => &[
            ("broadcasterd monitor", "Show each message on any channel as it passes"),
            ("broadcasterd monitor --payload com.example.sync", "Show the messages on one channel with their content"),
        ],
        "send" => &[
            ("broadcasterd send com.example.sync hello", "Send one message"),
            ("date | broadcasterd send com.example.time", "Send the output of a command as one message"),
            ("tail -f app.log | broadcasterd send com.example.log --lines", "Send each line as a message"),
            ("broadcasterd send com.example.image --file photo.png", "Send the content of a file"),
            ("broadcasterd send com.example.sync hello --wait-for 1 --timeout 10s", "Send once a listener has joined"),
            ("broadcasterd send com.example.sync hello --require 1", "Fail if no listener takes the message"),
            ("broadcasterd send com.example.log --lines --rate 100 < app.log", "Send 100 lines per second"),
            ("broadcasterd send com.example.theme dark --retain", "Send a value, also to listeners that join later"),
            ("broadcasterd send com.example.theme --clear", "Clear it"),
        ],
        "request" => &[
            ("broadcasterd request com.example.format < main.rs", "Print the first reply to a message"),
            ("broadcasterd request com.example.ping hello --all --json | jq .pid", "List the processes that reply"),
        ],
        "get" => &[
            ("theme=$(broadcasterd get com.example.theme || echo light)", "Use a value in a script"),
            ("broadcasterd get com.example.image > photo.png", "Save a value to a file, byte for byte"),
        ],
        "retained" => &[
            ("broadcasterd retained", "List the channels with retained messages"),
            ("broadcasterd retained --clear com.example.theme com.example.mode", "Clear several channels"),
        ],
        "presence" => &[
            ("broadcasterd presence com.example.sync", "Watch which processes listen to a channel"),
            ("broadcasterd presence com.example.sync --once --json | jq .pid", "List them for a script"),
        ],
        "status" => &[("broadcasterd status --json", "Show the state of the daemon to a script")],
        "stats" => &[
            ("broadcasterd stats", "Show totals and slow listeners"),
            ("broadcasterd stats --metrics", "Print all numbers as OpenMetrics text"),
        ],
        "channels" => &[
            ("broadcasterd channels", "List the open channels with their losses"),
            ("broadcasterd channels --names", "List the names, as the shell completions do"),
        ],
        "peers" => &[("broadcasterd peers", "List all connections, with queues and losses")],
        "top" => &[
            ("broadcasterd top", "Watch the bus until q is pressed"),
            ("broadcasterd top --once --view peers", "Print one screen of connections"),
        ],
        "stop" => &[("broadcasterd stop", "Stop the daemon")],
        "doctor" => &[("broadcasterd doctor", "Diagnose the bus of this user")],
        "restart" => &[("broadcasterd restart", "Use a new version or new settings")],
        "install" => &[
            ("broadcasterd install --now", "Install the service and start it"),
            ("broadcasterd install --dry-run", "Only print the steps"),
        ],
        "uninstall" => &[("broadcasterd uninstall", "Remove the service again")],
        "config" | "show" => &[("broadcasterd config show", "Show each setting and its origin")],
        "path" => &[("$EDITOR \"$(broadcasterd config path)\"", "Edit the config file")],
        "check" => &[("broadcasterd config check", "List all mistakes in the config file")],
        "demo" => &[("broadcasterd demo --messages 10000", "Send 10000 messages from each sender")],
        "man" => &[
            ("broadcasterd man | man -l -", "Read the manual page"),
            ("broadcasterd man --dir ~/.local/share/man/man1", "Install all pages for this user"),
        ],
        "completions" => &[(
            "broadcasterd completions bash > ~/.local/share/bash-completion/completions/broadcasterd",
            "Install completions for bash",
        )],
        _ => &[],
    }
}

/// Variables of every command.
const VARIABLES: [Example; 5] = [
    ("BROADCASTER_SOCKET", "The socket of the bus, instead of the user's own"),
    ("BROADCASTER_SHARED_MEMORY", "If set to 0, messages go through sockets only"),
    ("XDG_RUNTIME_DIR", "Base directory of a socket, after /run/user/UID"),
    ("XDG_STATE_HOME, HOME", "Base directories of a socket, after the runtime directories"),
    ("NO_COLOR", "If set to a non-empty value, output has no colors"),
];

/// Variables of the commands that run or start a daemon.
const DAEMON_VARIABLES: [Example; 4] = [
    ("BROADCASTERD_CONFIG", "The config file, as --config of run"),
    ("BROADCASTERD_IDLE_EXIT", "Time without connections after which the daemon exits, as --idle-exit of run"),
    ("BROADCASTERD_LOG", "Log level, as --log of run"),
    ("BROADCASTER_NO_AUTOSTART", "If set to a non-empty value other than 0, clients do not start a daemon"),
];

/// The commands that never run or start a daemon.
const OBSERVERS: [&str; 11] =
    ["monitor", "status", "stats", "channels", "peers", "get", "retained", "top", "stop", "man", "completions"];

/// Adds the examples to `--help` of each command, and the exit codes to that of the program.
pub(super) fn with_examples(command: Command) -> Command {
    let name = command.get_name().to_owned();
    let mut notes = String::from("Examples:\n");
    for (line, meaning) in examples(&name) {
        notes.push_str(&format!("  {line}\n      {meaning}\n"));
    }
    if name == "broadcasterd" {
        notes.push_str("\nExit codes:\n");
        for (code, meaning) in Code::MEANINGS {
            notes.push_str(&format!("  {}  {meaning}\n", code as u8));
        }
    }
    command.after_help(notes.trim_end().to_owned()).mut_subcommands(with_examples)
}

/// Writes the manual page of one command, which has been built. `program` is the name of the whole.
pub(super) fn page(command: &Command, program: &Command, out: &mut impl Write) -> io::Result<()> {
    let version = program.get_version().unwrap_or_default();
    let man = clap_mangen::Man::new(command.clone()).source(format!("{} {version}", program.get_name()));
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(out)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(out)?;
    }
    let mut roff = Roff::new();
    let name = command.get_name();
    list(&mut roff, "EXAMPLES", examples(name).iter().map(|(line, meaning)| ((*meaning).to_owned(), *line)));
    let codes = Code::MEANINGS.iter().map(|(code, meaning)| ((*code as u8).to_string(), *meaning));
    list(&mut roff, "EXIT STATUS", codes);
    let variables = |variables: &'static [Example]| variables.iter().map(|(name, does)| ((*name).to_owned(), *does));
    let of_daemon = if OBSERVERS.contains(&name) { &[] } else { DAEMON_VARIABLES.as_slice() };
    list(&mut roff, "ENVIRONMENT", variables(&VARIABLES).chain(variables(of_daemon)));
    roff.control("SH", ["SEE ALSO"]);
    let mut pages = vec![bold(program.get_name()), roman("(1)")];
    if name == program.get_name() {
        pages.clear();
    }
    for other in related(name) {
        if !pages.is_empty() {
            pages.push(roman(", "));
        }
        pages.extend([bold(format!("{}-{other}", program.get_name())), roman("(1)")]);
    }
    roff.text(pages);
    roff.to_writer(out)
}

/// The commands whose pages are worth reading after this one.
fn related(name: &str) -> &'static [&'static str] {
    match name {
        "broadcasterd" => &["listen", "send", "doctor", "install", "config"],
        "run" => &["start", "config", "install"],
        "start" => &["run", "stop"],
        "listen" => &["send", "monitor"],
        "monitor" => &["listen", "top"],
        "send" => &["listen", "get", "request", "presence"],
        "get" => &["send", "retained"],
        "retained" => &["get", "send", "stats"],
        "request" => &["send", "presence"],
        "presence" => &["send", "peers"],
        "demo" => &["listen"],
        "status" => &["stats", "doctor"],
        "stats" | "peers" => &["channels", "top", "doctor"],
        "channels" => &["peers", "stats"],
        "top" => &["stats", "monitor"],
        "stop" => &["start", "restart"],
        "doctor" => &["status", "config-check"],
        "restart" => &["stop", "install"],
        "install" => &["uninstall", "restart"],
        "uninstall" => &["install"],
        "config" => &["config-show", "config-check", "run"],
        "show" | "path" | "check" => &["config"],
        "man" => &["completions"],
        "completions" => &["man"],
        _ => &[],
    }
}

/// A section of terms and their explanations.
fn list<'a>(roff: &mut Roff, title: &str, items: impl Iterator<Item = (String, &'a str)>) {
    roff.control("SH", [title]);
    for (term, text) in items {
        roff.control("TP", []).text([bold(term)]).text([roman(text)]);
    }
}
