//! Logs of many programs, fanned out to any number of readers: types, patterns, and backpressure from the pipe to the slowest reader.
//!
//! `program | log_fanout collect PROGRAM` sends each line of its standard input, and nothing is lost: a reader that is slow slows the
//! program down, by up to a minute. `log_fanout follow [PATTERN]` prints what the pattern covers, such as
//! `com.example.log.*.error`. The records are JSON, so `broadcasterd listen 'com.example.log.**'` can read them too.

use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Duration;
use system_broadcaster::typed::{Json, Schema, TypedListener, TypedRecvError, TypedSender};
use system_broadcaster::{Options, RecvError, Selector};

/// How long a reader may delay the programs.
const PATIENCE: Duration = Duration::from_secs(60);

/// One line of a log.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    program: String,
    level: Level,
    line: u64,
    text: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Error,
    Warning,
    Info,
}

impl Schema for Record {
    const NAME: &'static str = "com.example.log.Record";
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["collect", program] => collect(program, std::io::stdin().lock()),
        ["follow"] => follow("com.example.log.**"),
        ["follow", pattern] => follow(pattern),
        _ => Err("usage: log_fanout collect PROGRAM | log_fanout follow [PATTERN]".into()),
    }
}

/// Sends each line on a channel of its program and level, over one connection.
fn collect(program: &str, lines: impl BufRead) -> Result<(), Box<dyn Error>> {
    let channel = |level| format!("com.example.log.{program}.{level}");
    let [error, warning, info] = ["error", "warning", "info"].map(channel);
    let options = Options::new().purpose("log collector").backpressure(PATIENCE);
    let mut sender: TypedSender<Record, Json> = options.typed_sender(&info)?;
    for (text, line) in lines.lines().zip(1..) {
        let text = text?;
        let (level, channel) = match text.split([' ', ':']).next() {
            Some("ERROR") => (Level::Error, &error),
            Some("WARNING") => (Level::Warning, &warning),
            _ => (Level::Info, &info),
        };
        sender.send_to(channel, &Record { program: program.to_owned(), level, line, text })?;
    }
    sender.sender_mut().confirm()?; // the daemon has accepted every line
    Ok(())
}

/// Prints the records of all channels that the pattern covers.
fn follow(pattern: &str) -> Result<(), Box<dyn Error>> {
    let listener = Options::new().purpose("log reader").listener_on([Selector::pattern(pattern)?])?;
    let mut records: TypedListener<Record, Json> = TypedListener::new(listener);
    let mut out = std::io::stdout().lock();
    writeln!(out, "following {pattern}")?;
    loop {
        match records.recv() {
            Ok(message) => {
                let Record { program, level, line, text } = message.value();
                writeln!(out, "{program}:{line}: {level:?}: {text}")?;
            }
            // Losses, and messages of other types, are reported; the records that follow are printed.
            Err(TypedRecvError::Recv(RecvError::Lagged(lag))) => eprintln!("log_fanout: {lag}"),
            Err(TypedRecvError::Recv(error)) => return Err(error.into()),
            Err(error) => eprintln!("log_fanout: {error}"),
        }
    }
}
