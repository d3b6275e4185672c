//! `broadcasterd listen`: the messages on a channel, on stdout. It never reads ahead of its own output.

mod loss;

use super::bus::Bus;
use super::time::timeout;
use crate::exit::{Code, Failure};
use crate::output::{escaped_bytes, hex, notice, reader_gone, write_json};
use clap::{Args, ValueEnum};
use loss::Losses;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use system_broadcaster::{ChannelName, ConnectError, Lag, Listener, Message, Overflow, RecvError, RefusalCode};

/// The pause between two attempts to reach a daemon; doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(250);

const RETRY_PAUSE_MAX: Duration = Duration::from_secs(4);

#[derive(Debug, Args)]
pub(super) struct Listen {
    /// The channel, such as com.example.sync
    channel: String,

    /// Exit after this many messages
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,

    /// Exit with code 3 when no message has arrived for this long, such as 500ms or 5s; a plain number is in seconds
    #[arg(short, long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,

    /// What the daemon drops when this listener does not keep up
    #[arg(long, value_name = "POLICY", default_value = "drop-oldest")]
    overflow: Policy,

    /// Exit with code 7 where messages are missing; the output up to there is complete
    #[arg(long)]
    fail_on_loss: bool,

    /// Exit when no daemon can be reached or started, instead of trying again
    #[arg(long)]
    no_retry: bool,

    #[command(flatten)]
    format: Format,
}

/// How a message is printed. Without a choice, as its payload and a newline.
#[derive(Debug, Clone, Copy, Args)]
#[group(multiple = false)]
struct Format {
    /// Print one JSON object for each message and for each gap
    #[arg(long)]
    json: bool,

    /// Print only the payload, byte for byte, without a newline, also on a terminal
    #[arg(long)]
    raw: bool,

    /// Print the payload in hexadecimal, one message per line
    #[arg(long)]
    hex: bool,
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
        let options = bus.options()?.overflow(self.overflow.into());
        let listener = options.listener(&self.channel)?;
        let losses = Losses::watch(self.channel.clone(), options, self.fail_on_loss)?;
        notice(format_args!("listening on {}", listener.channel()));
        let mut source = Source { listener, timeout: self.timeout, retry: !self.no_retry };
        let printed = self.print_all(&mut source, &losses);
        match &printed {
            Err(failure) if failure.code() == Code::Lost => {}
            Ok(Ended::Complete) => drop(losses.report_total(self.count)),
            Ok(Ended::ReaderGone) | Err(_) => drop(losses.report_total(None)),
        }
        printed.map(drop)
    }

    fn print_all(&self, source: &mut Source, losses: &Losses) -> Result<Ended, Failure> {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let mut stdout = io::BufWriter::new(Observed { out: stdout.lock(), losses });
        let mut left = self.count;
        while left != Some(0) {
            // Messages that have arrived go out in one write, before this waits for the next one.
            let next = match source.next_now() {
                Err(RecvError::Empty) => {
                    if reader_gone(stdout.flush())? {
                        return Ok(Ended::ReaderGone);
                    }
                    source.next()
                }
                next => next,
            };
            let written = match next {
                Ok(message) => {
                    left = left.map(|left| left - 1);
                    self.format.write(&mut stdout, &message, terminal)
                }
                Err(RecvError::Lagged(lag)) => {
                    losses.read(lag.count);
                    let written = self.format.write_lag(&mut stdout, &lag, terminal);
                    if self.fail_on_loss {
                        reader_gone(stdout.flush())?;
                        return Err(Failure::new(Code::Lost, missing(&lag)));
                    }
                    written
                }
                Err(error) => {
                    reader_gone(stdout.flush())?;
                    return Err(failure(error));
                }
            };
            if reader_gone(written)? {
                return Ok(Ended::ReaderGone);
            }
        }
        reader_gone(stdout.flush())?;
        Ok(Ended::Complete)
    }
}

/// How the output ended.
enum Ended {
    /// With the last message that was requested.
    Complete,
    ReaderGone,
}

/// The listener, with what to do while there is no daemon.
struct Source {
    listener: Listener,
    timeout: Option<Duration>,
    retry: bool,
}

impl Source {
    /// The next message, if it has arrived.
    fn next_now(&mut self) -> Result<Message, RecvError> {
        match self.listener.try_recv() {
            Err(RecvError::Connecting) => Err(RecvError::Empty),
            Err(RecvError::Connect(error)) if self.retry && is_away(&error) => Err(RecvError::Empty),
            next => next,
        }
    }

    /// Waits for the next message, and for the next daemon if there is none.
    fn next(&mut self) -> Result<Message, RecvError> {
        let began = Instant::now();
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let left = self.timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
            let next = match left {
                Some(left) => self.listener.recv_timeout(left),
                None => self.listener.recv(),
            };
            match (next, self.timeout) {
                (Err(RecvError::TimedOut { .. }), Some(after)) => return Err(RecvError::TimedOut { after }),
                (Err(RecvError::Connect(error)), Some(after))
                    if self.retry && left == Some(Duration::ZERO) && is_away(&error) =>
                {
                    return Err(RecvError::TimedOut { after });
                }
                (Err(RecvError::Connect(error)), _) if self.retry && is_away(&error) => {
                    if pause == RETRY_PAUSE_MIN {
                        notice(format_args!("broadcasterd: {}; trying again", Failure::from(error)));
                    }
                    std::thread::sleep(left.map_or(pause, |left| left.min(pause)));
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
                (next, _) => return next,
            }
        }
    }
}

/// Whether another attempt may find a daemon.
fn is_away(error: &ConnectError) -> bool {
    matches!(
        error,
        ConnectError::NotRunning { .. }
            | ConnectError::NoProgram { .. }
            | ConnectError::Start { .. }
            | ConnectError::TimedOut { .. }
            | ConnectError::Refused { code: RefusalCode::Connections, .. }
            | ConnectError::Io { .. }
    )
}

fn failure(error: RecvError) -> Failure {
    match error {
        RecvError::Connect(ConnectError::Refused { code: RefusalCode::TooSlow, .. }) => too_slow(),
        error => error.into(),
    }
}

fn too_slow() -> Failure {
    let sentence =
        "the daemon has disconnected this listener, as --overflow disconnect requests: its output is read too slowly";
    Failure::new(Code::Refused, sentence)
}

/// Describes what is missing at this point.
fn missing(lag: &Lag) -> String {
    let channel = lag.channel.as_ref().map_or("all channels", ChannelName::as_str);
    match lag.count {
        Some(1) => format!("on {channel}, 1 message was lost: the output is read too slowly"),
        Some(count) => format!("on {channel}, {count} messages were lost: the output is read too slowly"),
        None => format!("on {channel}, messages may be lost: the daemon was replaced"),
    }
}

/// Stdout. Losses are watched during each write.
struct Observed<'a, W> {
    out: W,
    losses: &'a Losses,
}

impl<W: Write> Write for Observed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.losses.during(|| self.out.write_all(bytes).and_then(|()| self.out.flush()))?;
        Ok(bytes.len())
    }

    /// Nothing is left to flush after a write.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Format {
    fn write(self, out: &mut impl Write, message: &Message, terminal: bool) -> io::Result<()> {
        let payload = message.payload();
        if self.json {
            let (key, payload) = match std::str::from_utf8(payload) {
                Ok(text) => ("payload", text.to_owned()),
                Err(_) => ("payload_hex", hex(payload)),
            };
            let object = serde_json::json!({
                "channel": message.channel().as_str(),
                "sender": message.sender().to_string(),
                "pid": message.sender_pid(),
                "sequence": message.sequence(),
                key: payload,
            });
            write_json(out, &object, terminal)
        } else if self.raw {
            out.write_all(payload)
        } else if self.hex {
            writeln!(out, "{}", hex(payload))
        } else if terminal {
            writeln!(out, "{}", escaped_bytes(payload))
        } else {
            out.write_all(payload)?;
            out.write_all(b"\n")
        }
    }

    fn write_lag(self, out: &mut impl Write, lag: &Lag, terminal: bool) -> io::Result<()> {
        if self.json {
            let object =
                serde_json::json!({ "channel": lag.channel.as_ref().map(ChannelName::as_str), "lagged": lag.count });
            write_json(out, &object, terminal)
        } else {
            Ok(())
        }
    }
}
