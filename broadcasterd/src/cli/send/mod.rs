//! `broadcasterd send`: one message, or one for each line. It ends with success only after the daemon has confirmed all of them.

mod pace;

use super::bus::Bus;
use super::time::{answer_timeout, duration, lifetime};
use crate::exit::{Code, Failure};
use crate::output::notice;
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use clap::Args;
use pace::{Pace, Rate};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};
use system_broadcaster::{HISTORY_MAX, SendError, Sender, TIMEOUT_DEFAULT};

/// One byte more than the largest message that any daemon accepts, and a newline.
const READ_BYTES_MAX: u64 = PAYLOAD_BYTES_MAX as u64 + 2;

/// How long each listener that does not keep up may delay what is piped or read from a file.
const BACKPRESSURE_DEFAULT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(override_usage = "\
broadcasterd send [OPTIONS] <CHANNEL> [PAYLOAD]
       broadcasterd send [OPTIONS] <CHANNEL> --file <FILE>
       broadcasterd send [OPTIONS] <CHANNEL> --lines
       broadcasterd send [OPTIONS] <CHANNEL> --clear")]
pub(super) struct Send {
    /// The channel, such as com.example.sync
    channel: String,

    /// Fail when the daemon does not answer for this long, and for the time of --backpressure in addition, such as 500ms or 5s; a plain
    /// number is in seconds [default: 5s]
    #[arg(short, long, value_name = "TIME", value_parser = answer_timeout)]
    timeout: Option<Duration>,

    /// Send nothing before the channel has this many listeners; exit with code 3 when it has fewer for all of --timeout, which includes the
    /// time to connect
    #[arg(short, long, value_name = "N")]
    wait_for: Option<u32>,

    /// Exit with code 9 where fewer listeners than this took a message; lines behind it are not sent, and each takes a round trip
    #[arg(long, value_name = "N")]
    require: Option<u32>,

    /// Wait for listeners that do not keep up, each for this long at most, so that they lose nothing [default: 5s with --lines, --file
    /// or stdin, 0 with a payload]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    backpressure: Option<Duration>,

    /// Never wait for a listener: one that does not keep up loses messages
    #[arg(long, conflicts_with = "backpressure")]
    no_backpressure: bool,

    /// Send at most this many lines per second, such as 100 or 0.5
    #[arg(long, value_name = "N", requires = "lines", conflicts_with_all = ["payload", "file"])]
    rate: Option<Rate>,

    /// Let the daemon retain the message for listeners that join later; exit with code 10 if it does not
    #[arg(long)]
    retain: bool,

    /// Retain the message for this long at most, such as 30s or 1h; a plain number is in seconds. Implies --retain
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    lifetime: Option<Duration>,

    /// Retain the last N messages of the channel, including this one. Implies --retain; with --lines, each line takes a round
    /// trip
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(HISTORY_MAX)))]
    history: Option<u32>,

    #[command(flatten)]
    source: Source,
}

/// Where the messages come from.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Source {
    /// The message; if omitted or `-`, all of stdin is one message
    payload: Option<OsString>,

    /// Send the content of this file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Send each line of stdin as a message, without its newline
    #[arg(short, long)]
    lines: bool,

    /// Clear what is retained on the channel, whichever process has sent it
    #[arg(long, conflicts_with_all = ["retain", "lifetime", "history", "require", "wait_for"])]
    clear: bool,
}

impl Send {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        if self.source.lines {
            let mut lines =
                Lines { send: self, sender: self.sender(bus)?, pace: self.rate.map(Pace::new), in_doubt: 0 };
            return lines.send();
        }
        if self.source.clear {
            self.sender(bus)?.clear_retained()?;
            return Ok(());
        }
        let message = self.source.message()?;
        if self.retains() && message.is_empty() {
            let sentence = "an empty message cannot be retained; --clear clears the channel";
            return Err(Failure::new(Code::Usage, sentence));
        }
        let mut sender = self.sender(bus)?;
        if self.has_receipts() {
            return self.send_one(&mut sender, &message, "the message");
        }
        sender.send(&message)?;
        Ok(sender.confirm()?)
    }

    /// Whether each message takes a round trip, for its receipt.
    fn has_receipts(&self) -> bool {
        self.require.is_some() || self.retains()
    }

    fn retains(&self) -> bool {
        self.retain || self.lifetime.is_some() || self.history.is_some()
    }

    /// Sends a message, and fails unless the daemon retains it and enough listeners took it, if that is requested. An empty line is not
    /// retained.
    fn send_one(&self, sender: &mut Sender, message: &[u8], what: impl fmt::Display) -> Result<(), Failure> {
        let receipt = match self.lifetime {
            _ if !self.retains() || message.is_empty() => sender.send_confirmed(message)?,
            Some(lifetime) => sender.retain_for(message, lifetime)?,
            None => sender.retain(message)?,
        };
        self.require.map_or(Ok(()), |required| taken(receipt.took, required, what))
    }

    /// A sender, once there are as many listeners as requested.
    fn sender(&self, bus: &Bus) -> Result<Sender, Failure> {
        let timeout = self.timeout.unwrap_or(TIMEOUT_DEFAULT);
        let options = bus.options()?.timeout(timeout).backpressure(self.backpressure());
        let options = match self.history {
            Some(messages) => options.history(messages),
            None => options,
        };
        let began = Instant::now();
        let mut sender = options.sender(&self.channel)?;
        let left = timeout.saturating_sub(began.elapsed());
        match self.wait_for.map(|minimum| sender.wait_for_listeners(minimum, left)) {
            Some(Err(SendError::TooFewListeners { minimum, .. })) => {
                let error = SendError::TooFewListeners { minimum, after: timeout };
                Err(Failure::new(Code::TimedOut, format!("{error}: nothing was sent")))
            }
            Some(Err(error)) => Err(error.into()),
            Some(Ok(_)) | None => Ok(sender),
        }
    }

    fn backpressure(&self) -> Duration {
        match self.backpressure {
            Some(longest) => longest,
            None if self.no_backpressure || self.source.clear || self.source.is_payload() => Duration::ZERO,
            None => BACKPRESSURE_DEFAULT,
        }
    }
}

/// Fails unless enough listeners took what was sent.
fn taken(took: u32, required: u32, what: impl fmt::Display) -> Result<(), Failure> {
    match took < required {
        false => Ok(()),
        true => {
            let listeners = if took == 1 { "1 listener".to_owned() } else { format!("{took} listeners") };
            let sentence = format!("{what} was sent, and {listeners} took it; --require requests {required}");
            Err(Failure::new(Code::Listeners, sentence))
        }
    }
}

impl Source {
    /// Whether the message is an argument.
    fn is_payload(&self) -> bool {
        self.payload.as_deref().is_some_and(|payload| payload != OsStr::new("-"))
    }

    /// The one message.
    fn message(&self) -> Result<Vec<u8>, Failure> {
        if let Some(file) = &self.file {
            let unreadable = |error| Failure::new(Code::Usage, format!("cannot read {}: {error}", file.display()));
            return within_limit(File::open(file).and_then(read_message).map_err(unreadable)?, "the file");
        }
        payload(self.payload.as_deref(), "add a payload, --file or --lines, or pipe the message to stdin")
    }
}

/// The message that is given as an argument; if there is none, or `-`, all of stdin. `remedy` is for a terminal, from which no message is
/// read.
pub(super) fn payload(argument: Option<&OsStr>, remedy: &str) -> Result<Vec<u8>, Failure> {
    let stdin = io::stdin();
    match argument {
        Some(payload) if payload != OsStr::new("-") => Ok(payload.as_encoded_bytes().to_vec()),
        None if stdin.is_terminal() => Err(Failure::new(Code::Usage, format!("there is no message to send: {remedy}"))),
        Some(_) | None => within_limit(read_message(stdin.lock())?, "stdin"),
    }
}

/// Reads all of `source`, but no more than shows that it is too large.
fn read_message(source: impl Read) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    source.take(READ_BYTES_MAX).read_to_end(&mut message)?;
    Ok(message)
}

/// The message, unless it is larger than any daemon accepts. Its exact size is unknown then, since the rest was not read.
fn within_limit(message: Vec<u8>, source: impl fmt::Display) -> Result<Vec<u8>, Failure> {
    match message.len() as u64 > u64::from(PAYLOAD_BYTES_MAX) {
        false => Ok(message),
        true => Err(Failure::new(
            Code::Usage,
            format!("{source} has more than {PAYLOAD_BYTES_MAX} bytes, the largest message"),
        )),
    }
}

/// The lines of stdin, each a message. If lines may be lost because the daemon was replaced, the following ones are still sent.
struct Lines<'a> {
    send: &'a Send,
    sender: Sender,
    pace: Option<Pace>,
    /// How many lines may be lost.
    in_doubt: u64,
}

impl Lines<'_> {
    /// Lines that have arrived are sent and confirmed together; a line that is typed is sent at once.
    fn send(&mut self) -> Result<(), Failure> {
        let mut stdin = io::BufReader::with_capacity(64 * 1024, io::stdin().lock());
        let (mut line, mut number) = (Vec::new(), 0_u64);
        loop {
            number += 1;
            line.clear();
            if stdin.by_ref().take(READ_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
                self.confirm()?;
                return match self.in_doubt {
                    0 => Ok(()),
                    count => Err(SendError::InDoubt { count }.into()),
                };
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            line = within_limit(line, format_args!("line {number}"))?;
            self.wait()?;
            match self.send.has_receipts() {
                true => self.send.send_one(&mut self.sender, &line, format_args!("line {number}"))?,
                false => self.sender.feed(&line)?,
            }
            if !stdin.buffer().contains(&b'\n') {
                self.confirm()?;
            }
        }
    }

    /// Waits until the next line may go. The lines before it do not wait for it.
    fn wait(&mut self) -> Result<(), Failure> {
        let wait = |pace: &Option<Pace>| pace.as_ref().map_or(Duration::ZERO, |pace| pace.wait(Instant::now()));
        if !wait(&self.pace).is_zero() {
            self.confirm()?;
            thread::sleep(wait(&self.pace));
        }
        if let Some(pace) = &mut self.pace {
            pace.pass(Instant::now());
        }
        Ok(())
    }

    /// Waits until the daemon has everything.
    fn confirm(&mut self) -> Result<(), Failure> {
        loop {
            match self.sender.confirm() {
                Ok(()) => return Ok(()),
                // Messages that were sent on the next connection are still to be confirmed.
                Err(error @ SendError::InDoubt { count }) => {
                    notice(format_args!("broadcasterd: {error}; continuing"));
                    self.in_doubt += count;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
