//! The command line: what can be asked for, and who does it.

mod config;
mod demo;
mod doctor;
mod generate;
mod listen;
mod monitor;
mod run;
mod send;
mod service;
mod start;
mod stats;
mod status;
mod table;
mod top;

use crate::exit::{CODES_HELP, Failure};
use clap::{Args, Parser, Subcommand};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;
use system_broadcaster::Options;

/// A broadcast channel by name between all processes of one user
///
/// Every message that is sent on a channel reaches everybody who listens on it. The daemon starts itself on first use.
#[derive(Debug, Parser)]
#[command(name = "broadcasterd", version, after_help = CODES_HELP, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    bus: Bus,
    #[command(subcommand)]
    command: Command,
}

/// Which bus.
#[derive(Debug, Clone, Args)]
struct Bus {
    /// Use the bus at this socket instead of the user's own [env: BROADCASTER_SOCKET=]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Bus {
    /// The path, whatever directory a started daemon stands in.
    fn socket(&self) -> Result<Option<PathBuf>, Failure> {
        Ok(self.socket.as_ref().map(std::path::absolute).transpose()?)
    }

    /// How to connect; a daemon that has to be started is this very program.
    fn options(&self) -> Result<Options, Failure> {
        let options = Options::new().program(std::env::current_exe()?);
        Ok(match self.socket()? {
            Some(socket) => options.socket(socket),
            None => options,
        })
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run(run::Run),
    /// Start the daemon in the background, unless it runs
    Start,
    /// Print the messages on a channel
    Listen(listen::Listen),
    /// Show the messages of all channels, or of some, as they pass; never starts a daemon
    Monitor(monitor::Monitor),
    /// Send messages on a channel
    Send(send::Send),
    /// Show the running daemon; never starts one
    Status(status::Status),
    /// Show the running daemon's totals and its slow listeners
    Stats(stats::Totals),
    /// List the channels that somebody has open
    Channels(stats::Channels),
    /// List the connections, each with its process
    Peers(stats::Peers),
    /// Watch the bus: who sends, who listens, who is slow; never starts a daemon
    Top(top::Top),
    /// Stop the running daemon, after it has delivered what it was sent
    Stop,
    /// Name the cause of trouble and the remedy; never starts a daemon and changes nothing
    Doctor(doctor::Doctor),
    /// Start the running daemon again; clients come back by themselves, and listeners are told of one gap
    Restart,
    /// Have systemd or launchd start the daemon for you, on first use
    Install(service::Install),
    /// Take back what `install` did
    Uninstall(service::Uninstall),
    /// Show and check the settings of the daemon
    Config(config::Config),
    /// Show the bus at work: three listeners and two senders, each a process of its own
    Demo(demo::Demo),
    /// Print the manual page, or write all pages to a directory
    Man(generate::Man),
    /// Print the completions for a shell
    Completions(generate::Completions),
}

/// Does what was asked for.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let bus = &arguments.bus;
    match &arguments.command {
        Command::Run(run) => run.run(bus),
        Command::Start => start::run(bus),
        Command::Listen(listen) => listen.run(bus),
        Command::Monitor(monitor) => monitor.run(bus),
        Command::Send(send) => send.run(bus),
        Command::Status(status) => status.run(bus),
        Command::Stats(totals) => totals.run(bus),
        Command::Channels(channels) => channels.run(bus),
        Command::Peers(peers) => peers.run(bus),
        Command::Top(top) => top.run(bus),
        Command::Stop => status::stop(bus),
        Command::Doctor(doctor) => doctor.run(bus),
        Command::Restart => service::restart(bus),
        Command::Install(install) => install.run(bus),
        Command::Uninstall(uninstall) => uninstall.run(bus),
        Command::Config(config) => config.run(),
        Command::Demo(demo) => demo.run(bus),
        Command::Man(man) => man.run(),
        Command::Completions(completions) => completions.run(),
    }
}

/// A time such as `500ms`, `5s` or `2min`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; try 500ms, 5s or 2min"))
}

/// Whether nobody reads our output any more, which is an end like any other.
fn reader_left(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String does not fail
        text
    })
}
