//! The command line: arguments, `--help`, manual pages, and the commands that only send, receive or print. Nothing below depends
//! on it.

mod bus;
mod config;
mod demo;
mod doctor;
mod generate;
mod listen;
mod manual;
mod monitor;
mod presence;
mod request;
mod retained;
mod run;
mod send;
mod service;
mod stats;
mod status;
mod time;
#[cfg(feature = "top")]
mod top;

use crate::daemon::detach;
use crate::exit::Failure;
use bus::Bus;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Broadcast channels between the processes of one user
///
/// Every message sent on a channel reaches every listener of that channel. The daemon starts on first use.
#[derive(Debug, Parser)]
#[command(name = "broadcasterd", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    bus: Bus,
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// The arguments of this process. `--help` and mistakes end the process.
    pub(crate) fn of_process() -> Self {
        Self::from_arg_matches(&command_line().get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// The description of the command line, with examples.
fn command_line() -> clap::Command {
    manual::with_examples(Arguments::command())
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run(run::Run),
    /// Start the daemon in the background unless it is running
    Start,
    /// Print the messages on channels, or run a command for each
    ///
    /// Without a format, each message is its payload and a newline; with several channels or a pattern, the channel and a tab precede it. On a terminal, characters that the terminal would act on are
    /// shown as escapes such as \u{1b}. --raw and --hex preserve the exact bytes, as does output to a pipe or a file.
    ///
    /// A message that is retained on a channel comes first (see send --retain); --replay changes how many there can be. An empty message
    /// clears what was retained.
    ///
    /// A command of --exec gets the payload on stdin, and BROADCASTER_CHANNEL, BROADCASTER_SENDER, BROADCASTER_SENDER_PID,
    /// BROADCASTER_SEQUENCE and BROADCASTER_REPLAYED (true or false) in its environment. If the sender requests a reply, BROADCASTER_REQUEST is 1, and what the command prints to
    /// stdout is the reply, which is sent when the command ends. Otherwise it goes to stdout of this process. The reply of a command that
    /// fails contains what it has printed, and two headers in its metadata: `error`, a description, and `exit-status`, the number that a
    /// shell would report. A command that prints more than a message may have (64 MiB unless configured) fails, and its reply is empty.
    ///
    /// While as many run as --jobs permits, messages wait in the daemon. A command that fails
    /// is reported on stderr, and the exit code is 8 at the end. Every end waits for the commands that run. Ctrl-C and the signals
    /// TERM, HUP and QUIT are passed to them and to the processes that they have started; a second signal kills them.
    Listen(listen::Listen),
    /// Observe messages on all or some channels; never starts a daemon
    ///
    /// Observing never affects delivery: a monitor is not counted as a listener, and messages that it loses are not losses of the
    /// bus. They are reported where they are missing.
    Monitor(monitor::Monitor),
    /// Send messages on a channel
    ///
    /// Succeeds only after the daemon has confirmed every message: listeners then receive it, or a report of its loss. If the daemon
    /// dies before that, the messages that may be lost are reported and the exit code is 7.
    ///
    /// With --lines, --file or stdin, it waits for listeners that do not keep up, for 5 s each, and they lose nothing of it. One that takes
    /// longer is left behind: it loses messages, and delays no sender until it has caught up.
    ///
    /// With --retain, the daemon keeps the message for listeners that join later, until another one takes its place, its --lifetime is over,
    /// the channel is cleared, or the daemon ends. Nothing is written to disk.
    Send(send::Send),
    /// Print the message that is retained on a channel
    ///
    /// This is the newest message that was sent with `send --retain`, byte for byte, without a newline unless the output is a terminal. If
    /// nothing is retained, the exit code is 10. Never starts a daemon.
    Get(retained::Get),
    /// List the channels with retained messages, or clear them; never starts a daemon
    Retained(retained::Retained),
    /// Send a message and print the replies of its listeners
    ///
    /// Prints each reply as it arrives, and a newline unless it ends with one. It ends with the first one. Without a listener it fails at
    /// once, with exit code 9. If fewer replies than requested arrive in time, the exit code is 3. If a reply has the header `error`, as that
    /// of a command of `listen --exec` that has failed, the header is reported on stderr, and the exit code is 8.
    Request(request::Request),
    /// Show which processes listen to a channel, and each that joins or leaves
    ///
    /// Processes that listen with a pattern that covers the channel count; monitors do not. Each line has the process id and what the
    /// listener is for, as it states itself.
    Presence(presence::Presence),
    /// Show the running daemon; never starts one
    Status(status::Status),
    /// Show the daemon's totals and its slow listeners
    Stats(stats::Totals),
    /// List the open channels
    Channels(stats::Channels),
    /// List the connections and their processes
    Peers(stats::Peers),
    /// Watch the bus live, slowest listeners first; never starts a daemon
    #[cfg(feature = "top")]
    Top(top::Top),
    /// Watch the bus live; not a part of this build
    #[cfg(not(feature = "top"))]
    #[command(disable_help_flag = true)]
    Top {
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Stop the daemon after it has delivered what was sent
    Stop,
    /// Diagnose problems and suggest fixes; changes nothing and never starts a daemon
    ///
    /// Each line begins with ok, note, WARN (the bus works, but perhaps not for every client or not for long) or FAIL (the bus does
    /// not work). The line below it suggests a fix. The exit code is 1 if a line begins with FAIL, and 0 otherwise.
    Doctor(doctor::Doctor),
    /// Restart the daemon; clients reconnect, and each listener reports one gap
    Restart,
    /// Let systemd or launchd start the daemon on first use
    Install(service::Install),
    /// Undo `install`
    Uninstall(service::Uninstall),
    /// Show and check the settings of the daemon
    Config(config::Config),
    /// Show the bus at work: three listeners and two senders, each in its own process
    Demo(demo::Demo),
    /// Print the manual page, or write all pages to a directory
    Man(generate::Man),
    /// Print the completions for a shell
    Completions(generate::Completions),
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let bus = &arguments.bus;
    match &arguments.command {
        Command::Run(run) => run.run(bus),
        Command::Start => detach::start(bus.socket()?),
        Command::Listen(listen) => listen.run(bus),
        Command::Monitor(monitor) => monitor.run(bus),
        Command::Send(send) => send.run(bus),
        Command::Get(get) => get.run(bus),
        Command::Retained(retained) => retained.run(bus),
        Command::Request(request) => request.run(bus),
        Command::Presence(presence) => presence.run(bus),
        Command::Status(status) => status.run(bus),
        Command::Stats(totals) => totals.run(bus),
        Command::Channels(channels) => channels.run(bus),
        Command::Peers(peers) => peers.run(bus),
        #[cfg(feature = "top")]
        Command::Top(top) => top.run(bus),
        #[cfg(not(feature = "top"))]
        Command::Top { .. } => Err(Failure::new(
            crate::exit::Code::Usage,
            "this build does not contain `top`: build it with the feature `top`, which is on by default; `stats` and `peers` \
             print the numbers",
        )),
        Command::Stop => status::stop(bus),
        Command::Doctor(doctor) => doctor.run(bus),
        Command::Restart => service::restart(bus),
        Command::Install(install) => install.run(bus),
        Command::Uninstall(uninstall) => uninstall.run(bus),
        Command::Config(config) => config.run(),
        Command::Demo(demo) => demo.run(bus),
        Command::Man(man) => man.run(command_line()),
        Command::Completions(completions) => completions.run(command_line()),
    }
}
