//! A client of the bus in its own process, for tests. Each command does one thing and prints its progress, line by line.
//!
//! - `bus-probe listen CHANNEL COUNT`: connects, prints `joined`, and listens until the sum of received and lost messages
//!   is COUNT, or until its standard input has ended and no more messages arrive. It prints `gap` for each gap without a
//!   count, and a summary at the end.
//! - `bus-probe send CHANNEL COUNT BYTES`: prints `ready`, waits for a line, sends COUNT messages of BYTES each, and prints
//!   `sent`.
//! - `bus-probe first CHANNEL`: prints `ready`, waits for a line, acts as the first user of the bus (listens, sends and
//!   receives), and prints `ok`.
//! - `bus-probe ping CHANNEL`: prints `ready`, sends each line of its standard input, and prints `ok` after each.
//! - `bus-probe unchecked-hello`: sends a Hello without checking the owner of the socket, and prints the answer.
//! - `bus-probe stats PATH`: requests PATH from the stats socket without checking its owner, and prints the answer.

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
        ["listen", channel, count] => listen(channel, count),
        ["send", channel, count, bytes] => send(channel, count, bytes),
        ["first", channel] => first(channel),
        ["ping", channel] => ping(channel),
        ["unchecked-hello"] => unchecked_hello(),
        ["stats", path] => stats(path),
        _ => Err("unknown command; tests/src/bin/bus-probe.rs lists all of them".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_line(&format!("failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn print_line(line: &str) {
    println!("{line}");
    let _ = stdout().flush();
}

fn wait_for_line() -> Outcome {
    stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

fn listen(channel: &str, count: &str) -> Outcome {
    let count: u64 = count.parse()?;
    let mut listener = Listener::create(channel)?;
    print_line("joined");
    let input_ended = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let input_ended = Arc::clone(&input_ended);
        move || {
            let _ = stdin().lock().read_line(&mut String::new());
            input_ended.store(true, Ordering::Relaxed);
        }
    });
    let (mut received, mut disorder) = (0, 0);
    let mut next_sequences: BTreeMap<system_broadcaster::SenderId, u64> = BTreeMap::new();
    let mut lagged = false;
    while received + listener.lost() < count {
        match listener.recv_timeout(Duration::from_millis(100)) {
            Ok(message) => {
                received += 1;
                let next = next_sequences.entry(message.sender()).or_default();
                // Sequence numbers never go back, and skip numbers only after a gap.
                if message.sequence() < *next || (message.sequence() > *next && !lagged) {
                    disorder += 1;
                }
                *next = message.sequence() + 1;
            }
            Err(RecvError::Lagged(lag)) => {
                lagged = true;
                if lag.count.is_none() {
                    print_line("gap");
                }
            }
            Err(RecvError::TimedOut { .. }) if input_ended.load(Ordering::Relaxed) => break,
            Err(RecvError::TimedOut { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (lost, gaps) = (listener.lost(), listener.gaps());
    print_line(&format!("received {received} lost {lost} gaps {gaps} disorder {disorder}"));
    Ok(())
}

fn send(channel: &str, count: &str, bytes: &str) -> Outcome {
    let (count, bytes): (u64, usize) = (count.parse()?, bytes.parse()?);
    let mut sender = Sender::create(channel)?;
    print_line("ready");
    wait_for_line()?;
    let payload = vec![7; bytes];
    for _ in 0..count {
        sender.send(&payload)?;
    }
    print_line("sent");
    wait_for_line()
}

fn first(channel: &str) -> Outcome {
    print_line("ready");
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
    print_line("ok");
    // This process may host the broker, so it stays until the test ends it.
    wait_for_line()
}

fn ping(channel: &str) -> Outcome {
    let mut sender = Sender::create(channel)?;
    print_line("ready");
    for line in stdin().lock().lines() {
        sender.send(line?.as_bytes())?;
        print_line("ok");
    }
    Ok(())
}

fn unchecked_hello() -> Outcome {
    use broadcaster_protocol::control::Control;
    use std::io::Read;
    let socket = std::env::var_os("BROADCASTER_SOCKET").ok_or("no BROADCASTER_SOCKET")?;
    let mut stream = open(socket.as_ref())?;
    let mut hello = Vec::new();
    Control::Hello(broadcaster_protocol::handshake::hello("test", "unchecked-hello", 1, 1)).encode(&mut hello)?;
    // The daemon may refuse and close the connection before it has read everything.
    let _ = stream.write_all(&hello);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    print_line(&String::from_utf8_lossy(&answer));
    Ok(())
}

fn stats(path: &str) -> Outcome {
    use std::io::Read;
    let bus = std::env::var_os("BROADCASTER_SOCKET").ok_or("no BROADCASTER_SOCKET")?;
    let socket = broadcaster_protocol::endpoint::stats_socket(bus.as_ref());
    let mut stream = open(socket.as_ref())?;
    let mut answer = String::new();
    // The daemon may close the connection before it has read everything.
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nconnection: close\r\n\r\n");
    let _ = stream.read_to_string(&mut answer);
    print_line(&format!("answered {answer}"));
    Ok(())
}

#[cfg(unix)]
fn open(socket: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(socket)
}

/// A named pipe is opened like a file.
#[cfg(windows)]
fn open(pipe: &Path) -> io::Result<std::fs::File> {
    std::fs::File::options().read(true).write(true).open(pipe)
}
