//! `broadcasterd listen`: the messages on a channel, on stdout or as the input of commands. It never reads ahead of its own output.

mod background;
mod capture;
pub(super) mod exec;
mod loss;
mod output;
mod source;
mod template;

use super::bus::Bus;
use super::time::timeout;
use crate::exit::{Code, Failure};
use crate::output::{notice, reader_gone};
use background::Background;
use clap::{ArgGroup, Args, ValueEnum};
use exec::{Commands, JOBS_MAX};
use loss::{Consumer, Losses};
pub(super) use output::object;
use output::{Format, Output};
use source::Source;
use std::ffi::OsString;
use std::io;
use std::time::Duration;
use system_broadcaster::{ConnectError, HISTORY_MAX, Lag, Message, Overflow, RecvError, RefusalCode, Selector};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("commands").args(["exec", "ready_exec"]).multiple(true))]
pub(super) struct Listen {
    /// The channels, such as com.example.sync, and patterns: `*` stands for one segment of a name, as in 'com.example.*', and a last `**`
    /// for all that follow, as in 'com.**'
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<String>,

    /// Take every CHANNEL as the name of one channel, even if it contains a `*`
    #[arg(long)]
    literal: bool,

    /// Exit after this many messages
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,

    /// Exit with code 3 when no message has arrived for this long, such as 500ms or 5s; a plain number is in seconds
    #[arg(short, long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,

    /// What the daemon drops when this listener does not keep up
    #[arg(long, value_name = "POLICY", default_value = "drop-oldest")]
    overflow: Policy,

    /// Begin with up to this many of the messages that are retained on each channel, 0 for none
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=i64::from(HISTORY_MAX)))]
    replay: u32,

    /// Exit with code 7 where messages are missing; the output up to there is complete
    #[arg(long)]
    fail_on_loss: bool,

    /// Exit when no daemon can be reached or started, instead of trying again
    #[arg(long)]
    no_retry: bool,

    #[command(flatten)]
    format: Format,

    /// Run this command for each message instead of printing it; takes the rest of the line. The message is its stdin. If the sender
    /// requests a reply, its output is the reply, of which up to 64 MiB are kept in memory
    #[arg(long, value_names = ["COMMAND", "ARGUMENT"], num_args = 1.., allow_hyphen_values = true, conflicts_with = "Format")]
    exec: Vec<OsString>,

    /// Run up to this many commands of --exec at the same time; only one keeps their order
    #[arg(
        short, long, value_name = "N", default_value_t = 1, requires = "exec",
        conflicts_with = "Format", value_parser = clap::value_parser!(u16).range(1..=JOBS_MAX)
    )]
    jobs: u16,

    /// Run this line with sh once every later message will be received, such as 'broadcasterd send com.example.sync hello'
    #[arg(long, value_name = "LINE")]
    ready_exec: Option<OsString>,

    /// Exit with code 8 after the first command that fails
    #[arg(long, requires = "commands")]
    exit_on_failure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// Drop the oldest waiting messages
    DropOldest,
    /// Drop new messages
    DropNewest,
    /// Keep only the latest message
    Latest,
    /// End the connection; the command fails
    Disconnect,
}

impl From<Policy> for Overflow {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::DropOldest => Self::DropOldest,
            Policy::DropNewest => Self::DropNewest,
            Policy::Latest => Self::Latest,
            Policy::Disconnect => Self::Disconnect,
        }
    }
}

impl Listen {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        exec::check(&self.exec)?;
        let selectors = self.selectors()?;
        let options = bus.options()?.overflow(self.overflow.into()).replay(self.replay);
        let listener = options.listener_on(&selectors)?;
        let background = Background::new()?;
        let commands = Commands::new(background.handle(), bus.socket()?, self.exit_on_failure);
        let losses = Losses::new(selectors.clone(), options, self.consumer(), self.fail_on_loss);
        background.start(losses.clone(), commands.clone())?;
        notice(format_args!("listening on {}", list(&selectors)));
        let runs_commands = !self.exec.is_empty() || self.ready_exec.is_some();
        let waited_for = runs_commands.then(|| commands.clone());
        let mut source = Source { listener, timeout: self.timeout, retry: !self.no_retry, commands: waited_for };
        let started = self.ready_exec.as_ref().map_or(Ok(()), |line| commands.start_ready(&mut source.listener, line));
        let format = self.format.for_selectors(&selectors);
        let received = started.and_then(|()| self.receive(&mut source, &format, &commands, &losses));
        let finished = commands.finish(&mut source.listener);
        match &received {
            Err(failure) if failure.code() == Code::Lost => {}
            Ok(Ended::Complete) => drop(losses.report_total(self.count)),
            Ok(Ended::Early) | Err(_) => drop(losses.report_total(None)),
        }
        received.and(finished)
    }

    /// What to listen to. A `*` makes a pattern, or is a mistake in one: it is not taken for a name silently.
    fn selectors(&self) -> Result<Vec<Selector>, Failure> {
        let selector = |text: &String| match text.contains('*') && !self.literal {
            true => Selector::pattern(text).map_err(|error| {
                Failure::new(Code::Usage, format!("{error}; with --literal, it is the name of a channel"))
            }),
            false => Ok(Selector::name(text).map_err(ConnectError::from)?),
        };
        let mut selectors = Vec::new();
        for text in &self.channels {
            let selector = selector(text)?;
            if !selectors.contains(&selector) {
                selectors.push(selector);
            }
        }
        Ok(selectors)
    }

    fn consumer(&self) -> Consumer {
        if self.exec.is_empty() { Consumer::Reader } else { Consumer::Commands }
    }

    fn receive(
        &self,
        source: &mut Source,
        format: &Format,
        commands: &Commands,
        losses: &Losses,
    ) -> Result<Ended, Failure> {
        let mut sink = match self.consumer() {
            Consumer::Reader => Sink::Output(Output::new(format, losses)),
            Consumer::Commands => Sink::Commands { listen: self, commands, losses },
        };
        let mut left = self.count;
        while left != Some(0) {
            sink.wait_for_room(source);
            // Messages that have arrived go out in one write, before this waits for the next one.
            let next = match source.next_now() {
                Err(RecvError::Empty) => {
                    sink.flush()?;
                    source.next()
                }
                next => next,
            };
            match next {
                Ok(message) => {
                    left = left.map(|left| left - 1);
                    sink.message(source, message)?;
                }
                Err(RecvError::Lagged(lag)) => {
                    losses.read(lag.count);
                    let written = sink.gap(&lag);
                    if self.fail_on_loss {
                        reader_gone(sink.flush())?;
                        return Err(Failure::new(Code::Lost, missing(&lag, self.consumer())));
                    }
                    written?;
                }
                // A command has failed.
                Err(RecvError::Closed) => return Ok(Ended::Early),
                Err(error) => {
                    reader_gone(sink.flush())?;
                    return Err(failure(error, self.consumer()));
                }
            }
        }
        sink.flush()?;
        Ok(Ended::Complete)
    }
}

/// As in `com.example.sync, com.example.log`.
fn list(selectors: &[Selector]) -> String {
    selectors.iter().map(Selector::as_str).collect::<Vec<_>>().join(", ")
}

/// How the output ended, unless it failed.
enum Ended {
    /// With the last message that was requested.
    Complete,
    /// Before, because a command has failed.
    Early,
}

/// Where messages go.
enum Sink<'a> {
    Output(Output<'a>),
    Commands { listen: &'a Listen, commands: &'a Commands, losses: &'a Losses },
}

impl Sink<'_> {
    /// Waits until the next message can be taken. Until then, it waits in the daemon.
    fn wait_for_room(&self, source: &mut Source) {
        if let Self::Commands { listen, commands, losses } = self {
            losses.during(|| commands.wait_for_room(&mut source.listener, usize::from(listen.jobs)));
        }
    }

    fn message(&mut self, source: &mut Source, message: Message) -> Result<(), Failure> {
        match self {
            Self::Output(output) => Ok(output.message(&message)?),
            Self::Commands { listen, commands, .. } => commands.start_for(&mut source.listener, &listen.exec, message),
        }
    }

    fn gap(&mut self, lag: &Lag) -> io::Result<()> {
        match self {
            Self::Output(output) => output.gap(lag),
            Self::Commands { .. } => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Output(output) => output.flush(),
            Self::Commands { .. } => Ok(()),
        }
    }
}

fn failure(error: RecvError, consumer: Consumer) -> Failure {
    match error {
        RecvError::Connect(ConnectError::Refused { code: RefusalCode::TooSlow, .. }) => {
            let did = "the daemon has disconnected this listener, as --overflow disconnect requests";
            Failure::new(Code::Refused, format!("{did}: {}", consumer.cause().replacen("the ", "its ", 1)))
        }
        error => error.into(),
    }
}

/// Describes what is missing at this point.
fn missing(lag: &Lag, consumer: Consumer) -> String {
    let channel = match (&lag.channel, &lag.pattern) {
        (Some(channel), _) => channel.as_str(),
        (None, Some(pattern)) => pattern.as_str(),
        (None, None) => "all channels",
    };
    let cause = consumer.cause();
    match lag.count {
        Some(1) => format!("on {channel}, 1 message was lost: {cause}"),
        Some(count) => format!("on {channel}, {count} messages were lost: {cause}"),
        None => format!("on {channel}, messages may be lost: the daemon was replaced"),
    }
}
