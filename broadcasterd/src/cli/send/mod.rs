//! `broadcasterd send`: one message, or one for each line. It ends with success only after the daemon has confirmed all of them.

mod pace;

use super::bus::Bus;
use super::time::answer_timeout;
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
use system_broadcaster::{SendError, Sender, TIMEOUT_DEFAULT};

/// One byte more than the largest message that any daemon accepts, and a newline.
const READ_BYTES_MAX: u64 = PAYLOAD_BYTES_MAX as u64 + 2;

#[derive(Debug, Args)]
#[command(override_usage = "\
broadcasterd send [OPTIONS] <CHANNEL> [PAYLOAD]
       broadcasterd send [OPTIONS] <CHANNEL> --file <FILE>
       broadcasterd send [OPTIONS] <CHANNEL> --lines")]
pub(super) struct Send {
    /// The channel, such as com.example.sync
    channel: String,

    /// Fail when the daemon does not answer for this long, such as 500ms or 5s; a plain number is in seconds [default: 5s]
    #[arg(short, long, value_name = "TIME", value_parser = answer_timeout)]
    timeout: Option<Duration>,

    /// Send at most this many lines per second, such as 100 or 0.5
    #[arg(long, value_name = "N", requires = "lines", conflicts_with_all = ["payload", "file"])]
    rate: Option<Rate>,

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
}

impl Send {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let options = bus.options()?.timeout(self.timeout.unwrap_or(TIMEOUT_DEFAULT));
        if self.source.lines {
            return send_lines(&mut options.sender(&self.channel)?, self.rate.map(Pace::new));
        }
        let message = self.source.message()?;
        let mut sender = options.sender(&self.channel)?;
        sender.send(&message)?;
        Ok(sender.confirm()?)
    }
}

impl Source {
    /// The one message.
    fn message(&self) -> Result<Vec<u8>, Failure> {
        if let Some(file) = &self.file {
            let unreadable = |error| Failure::new(Code::Usage, format!("cannot read {}: {error}", file.display()));
            return within_limit(File::open(file).and_then(read_message).map_err(unreadable)?, "the file");
        }
        let stdin = io::stdin();
        match &self.payload {
            Some(payload) if payload != OsStr::new("-") => Ok(payload.as_encoded_bytes().to_vec()),
            None if stdin.is_terminal() => {
                let remedy = "add a payload, --file or --lines, or pipe the message to stdin";
                Err(Failure::new(Code::Usage, format!("there is no message to send: {remedy}")))
            }
            Some(_) | None => within_limit(read_message(stdin.lock())?, "stdin"),
        }
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

/// Lines that have arrived are sent and confirmed together; a line that is typed is sent at once. If lines may be lost because the daemon
/// was replaced, the following ones are still sent.
fn send_lines(sender: &mut Sender, mut pace: Option<Pace>) -> Result<(), Failure> {
    let mut stdin = io::BufReader::with_capacity(64 * 1024, io::stdin().lock());
    let (mut line, mut number, mut in_doubt) = (Vec::new(), 0_u64, 0_u64);
    loop {
        number += 1;
        line.clear();
        if stdin.by_ref().take(READ_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            in_doubt += confirm(sender)?;
            return match in_doubt {
                0 => Ok(()),
                count => Err(SendError::InDoubt { count }.into()),
            };
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        line = within_limit(line, format_args!("line {number}"))?;
        if let Some(pace) = &mut pace {
            in_doubt += wait_for(pace, sender)?;
        }
        sender.feed(&line)?;
        if !stdin.buffer().contains(&b'\n') {
            in_doubt += confirm(sender)?;
        }
    }
}

/// Waits until the next line may go. The lines before it do not wait for it. Returns how many messages may be lost.
fn wait_for(pace: &mut Pace, sender: &mut Sender) -> Result<u64, Failure> {
    let mut in_doubt = 0;
    if !pace.wait(Instant::now()).is_zero() {
        in_doubt = confirm(sender)?;
        thread::sleep(pace.wait(Instant::now()));
    }
    pace.pass(Instant::now());
    Ok(in_doubt)
}

/// Waits until the daemon has everything; returns how many messages may be lost.
fn confirm(sender: &mut Sender) -> Result<u64, Failure> {
    let mut in_doubt = 0;
    loop {
        match sender.confirm() {
            Ok(()) => return Ok(in_doubt),
            // Messages that were sent on the next connection are still to be confirmed.
            Err(error @ SendError::InDoubt { count }) => {
                notice(format_args!("broadcasterd: {error}; continuing"));
                in_doubt += count;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
