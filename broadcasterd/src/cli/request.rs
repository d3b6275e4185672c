//! `broadcasterd request`: a message, and the replies of the listeners. It listens to nothing else.

use super::bus::Bus;
use super::listen::exec::{ERROR_HEADER, EXIT_STATUS_HEADER};
use super::send::payload;
use super::time::answer_timeout;
use crate::exit::{Code, Failure};
use crate::output::{escaped_bytes, hex, notice, timestamp, write_json};
use clap::Args;
use jiff::Zoned;
use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use system_broadcaster::{Reply, TIMEOUT_DEFAULT};

#[derive(Debug, Args)]
pub(super) struct Request {
    /// The channel, such as com.example.format
    channel: String,

    /// The message; if omitted or `-`, all of stdin is the message
    payload: Option<OsString>,

    /// Wait for this many replies
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    /// Wait until each listener that took the message has replied; one reply is enough for success
    #[arg(short, long, conflicts_with = "count")]
    all: bool,

    /// Wait for the daemon and for replies no longer than this, such as 500ms or 5s; a plain number is in seconds [default: 5s]
    #[arg(short, long, value_name = "TIME", value_parser = answer_timeout)]
    timeout: Option<Duration>,

    /// Print one JSON object for each reply
    #[arg(long)]
    json: bool,
}

impl Request {
    pub(super) fn run(&self, bus: &Bus) -> Result<(), Failure> {
        let timeout = self.timeout.unwrap_or(TIMEOUT_DEFAULT);
        let message = payload(self.payload.as_deref(), "add a payload, or pipe the message to stdin")?;
        let began = Instant::now();
        let mut sender = bus.options()?.timeout(timeout.min(TIMEOUT_DEFAULT)).sender(&self.channel)?;
        let mut replies = sender.request(&message, timeout.saturating_sub(began.elapsed()))?;
        let wanted = if self.all { replies.expected() } else { self.count };
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let (mut out, mut count, mut failures) = (stdout.lock(), 0, 0);
        while (self.all || count < wanted)
            && let Some(reply) = replies.next()
        {
            let reply = reply?;
            self.write(&mut out, &reply, terminal)?;
            count += 1;
            if let Some(error) = error_of(&reply) {
                let process =
                    reply.replier_pid().map_or_else(|| "a listener".to_owned(), |pid| format!("process {pid}"));
                notice(format_args!("broadcasterd: {process} has failed: {error}"));
                failures += 1;
            }
        }
        match count {
            0 => Err(Failure::new(Code::TimedOut, format!("no reply within {timeout:?}"))),
            _ if (self.all || count >= wanted) && failures > 0 => Err(Failure::reported(Code::Command)),
            _ if self.all || count >= wanted => Ok(()),
            _ if replies.is_complete() => {
                let reason = format!("{count} of {wanted} replies: the message had {} listeners", replies.expected());
                Err(Failure::new(Code::Listeners, reason))
            }
            _ => Err(Failure::new(Code::TimedOut, format!("{count} of {wanted} replies within {timeout:?}"))),
        }
    }

    /// A reply is written at once: no other may follow for long.
    fn write(&self, out: &mut impl Write, reply: &Reply, terminal: bool) -> io::Result<()> {
        if !self.json {
            match terminal {
                true => write!(out, "{}", escaped_bytes(reply.payload()))?,
                false => out.write_all(reply.payload())?,
            }
            if !reply.payload().ends_with(b"\n") {
                out.write_all(b"\n")?;
            }
            return out.flush();
        }
        let (key, payload) = match std::str::from_utf8(reply.payload()) {
            Ok(text) => ("payload", text.to_owned()),
            Err(_) => ("payload_hex", hex(reply.payload())),
        };
        let mut object = serde_json::json!({
            "time": timestamp(&Zoned::now()),
            "channel": self.channel,
            "replier": reply.replier().to_string(),
            "pid": reply.replier_pid(),
            "size": reply.payload().len(),
            key: payload,
        });
        if let Some(error) = error_of(reply) {
            object["error"] = error.into();
            object["exit_status"] = reply.metadata().header(EXIT_STATUS_HEADER).and_then(number).into();
        }
        write_json(out, &object, terminal)
    }
}

fn number(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Why the listener has failed, if the reply states that.
fn error_of(reply: &Reply) -> Option<Cow<'_, str>> {
    reply.metadata().header(ERROR_HEADER).map(String::from_utf8_lossy)
}
