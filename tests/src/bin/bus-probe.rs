//! A client of the bus as a process of its own, for tests: it does one thing and prints one line about it.
//!
//! - `bus-probe listen CHANNEL FRAMES`: joins, says `joined`, and listens until it has received or been told lost that many
//!   frames, or its stdin is closed and nothing more comes;
//! - `bus-probe send CHANNEL FRAMES BYTES`: says `ready`, waits for a line, sends, says `sent`;
//! - `bus-probe first CHANNEL`: says `ready`, waits for a line, and then does what a program does that is the first user of
//!   the bus: listens, sends, receives;
//! - `bus-probe ping CHANNEL`: sends the lines of its stdin and says `ok` after each;
//! - `bus-probe careless`: says hello without looking who serves the socket, and says what it is answered;
//! - `bus-probe stats PATH`: asks the stats socket for PATH without looking who serves it, and says what it is answered.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write, stdin, stdout};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use system_broadcaster::{Listener, RecvError, Sender};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["listen", channel, frames] => listen(channel, frames),
        ["send", channel, frames, bytes] => send(channel, frames, bytes),
        ["first", channel] => first(channel),
        ["ping", channel] => ping(channel),
        ["careless"] => careless(),
        ["stats", path] => stats(path),
        _ => Err("usage: see the top of tests/src/bin/bus-probe.rs".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    println!("{line}");
    let _ = stdout().flush();
}

fn wait_for_line() -> Outcome {
    stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

fn listen(channel: &str, frames: &str) -> Outcome {
    let frames: u64 = frames.parse()?;
    let mut listener = Listener::create(channel)?;
    say("joined");
    let no_more = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let no_more = Arc::clone(&no_more);
        move || {
            let _ = stdin().lock().read_line(&mut String::new());
            no_more.store(true, Ordering::Relaxed);
        }
    });
    let (mut received, mut disorder) = (0, 0);
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    let mut hole = false;
    while received + listener.missed() < frames {
        match listener.recv_timeout(Duration::from_millis(100)) {
            Ok(message) => {
                received += 1;
                let due = next.entry(message.sender().raw()).or_default();
                // Behind a hole a sender goes on further up; never further down, and never so without a hole.
                if message.sequence() < *due || (message.sequence() > *due && !hole) {
                    disorder += 1;
                }
                *due = message.sequence() + 1;
            }
            Err(RecvError::Lagged(lag)) => {
                hole = true;
                if lag.count.is_none() {
                    say("gap");
                }
            }
            Err(RecvError::TimedOut { .. }) if no_more.load(Ordering::Relaxed) => break,
            Err(RecvError::TimedOut { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (lost, gaps) = (listener.missed(), listener.gaps());
    say(&format!("received {received} lost {lost} gaps {gaps} disorder {disorder}"));
    Ok(())
}

fn send(channel: &str, frames: &str, bytes: &str) -> Outcome {
    let (frames, bytes): (u64, usize) = (frames.parse()?, bytes.parse()?);
    let mut sender = Sender::create(channel)?;
    say("ready");
    wait_for_line()?;
    let payload = vec![7; bytes];
    for _ in 0..frames {
        sender.send(&payload)?;
    }
    say("sent");
    wait_for_line()
}

fn first(channel: &str) -> Outcome {
    say("ready");
    wait_for_line()?;
    let mut listener = Listener::create(channel)?;
    let mut sender = Sender::create(channel)?;
    sender.send(&std::process::id().to_le_bytes())?;
    loop {
        match listener.recv_timeout(Duration::from_secs(10)) {
            Ok(message) if message.payload() == std::process::id().to_le_bytes() => break,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
    say("ok");
    // A host of the broker stays until everybody is done.
    wait_for_line()
}

fn ping(channel: &str) -> Outcome {
    let mut sender = Sender::create(channel)?;
    say("ready");
    for line in stdin().lock().lines() {
        sender.send(line?.as_bytes())?;
        say("ok");
    }
    Ok(())
}

fn careless() -> Outcome {
    use broadcaster_protocol::control::{Control, Role};
    use std::io::Read;
    let socket = std::env::var_os("BROADCASTER_SOCKET").ok_or("no BROADCASTER_SOCKET")?;
    let mut stream = open(socket.as_ref())?;
    let mut hello = Vec::new();
    Control::Hello(broadcaster_protocol::handshake::hello(Role::Listener, "careless", 1, 1)).encode(&mut hello)?;
    // It may be refused before it is read.
    let _ = stream.write_all(&hello);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    say(&String::from_utf8_lossy(&answer));
    Ok(())
}

fn stats(path: &str) -> Outcome {
    use std::io::Read;
    let bus = std::env::var_os("BROADCASTER_SOCKET").ok_or("no BROADCASTER_SOCKET")?;
    let socket = broadcaster_protocol::endpoint::stats_socket(bus.as_ref());
    let mut stream = open(socket.as_ref())?;
    let mut answer = String::new();
    // It may be closed before it is read.
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nconnection: close\r\n\r\n");
    let _ = stream.read_to_string(&mut answer);
    say(&format!("answered {answer}"));
    Ok(())
}

#[cfg(unix)]
fn open(socket: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(socket)
}

/// A pipe is opened like a file.
#[cfg(windows)]
fn open(pipe: &Path) -> io::Result<std::fs::File> {
    std::fs::File::options().read(true).write(true).open(pipe)
}
