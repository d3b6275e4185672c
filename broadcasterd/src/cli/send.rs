//! `broadcasterd send`: one message, or one per line.

use super::Bus;
use crate::exit::{Code, Failure};
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use system_broadcaster::Sender;

/// One byte more than the largest message that any daemon takes, and a line end.
const READ_BYTES_MAX: u64 = PAYLOAD_BYTES_MAX as u64 + 2;

#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The channel, such as com.example.sync
    channel: String,

    #[command(flatten)]
    source: Source,
}

/// Where the message is, or the messages are.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The message; `-` reads it from stdin
    payload: Option<OsString>,

    /// Send what is in this file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Send each line of stdin as a message, without its line end
    #[arg(short, long)]
    lines: bool,
}

impl Send {
    pub(crate) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let payload = match (&self.source.payload, &self.source.file) {
            (Some(dash), _) if dash == OsStr::new("-") => Some(read_message(io::stdin().lock())?),
            (Some(payload), _) => Some(payload.as_encoded_bytes().to_vec()),
            (None, Some(file)) => Some(
                File::open(file)
                    .and_then(read_message)
                    .map_err(|error| Failure::new(Code::Usage, format!("cannot read {}: {error}", file.display())))?,
            ),
            (None, None) => None,
        };
        let mut sender = bus.options()?.sender(&self.channel)?;
        match payload {
            Some(payload) => Ok(sender.send(&payload)?),
            None => send_lines(&mut sender),
        }
    }
}

/// All that is there, but not more than is needed to see that it is too large.
fn read_message(source: impl Read) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    source.take(READ_BYTES_MAX).read_to_end(&mut message)?;
    Ok(message)
}

/// Lines that are there already go out together; a line that is typed goes out at once.
fn send_lines(sender: &mut Sender) -> Result<(), Failure> {
    let mut stdin = io::BufReader::with_capacity(64 * 1024, io::stdin().lock());
    let mut line = Vec::new();
    loop {
        line.clear();
        if stdin.by_ref().take(READ_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(sender.flush()?);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        sender.feed(&line)?;
        if !stdin.buffer().contains(&b'\n') {
            sender.flush()?;
        }
    }
}
