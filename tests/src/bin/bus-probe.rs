//! A client of the bus in its own process, for tests. Each command does one thing and prints its progress, line by line.
//!
//! - `bus-probe listen CHANNEL COUNT`: connects, prints `joined`, and listens until the sum of received and lost messages
//!   is COUNT, or until its standard input has ended and no more messages arrive. It prints `gap` for each gap without a
//!   count, and a summary at the end.
//! - `bus-probe send CHANNEL COUNT BYTES`: prints `ready`, waits for a line, sends COUNT messages of BYTES each, and prints
//!   `sent`.
//! - `bus-probe produce CHANNEL BYTES [MILLISECONDS]`: connects, with backpressure if a time is given, prints `ready`, and obeys each line
//!   of its standard input. `ring`: sends until the messages are in shared memory, and prints `in a ring after COUNT`. `burst COUNT [BYTES]`:
//!   sends so many, and prints `sent`. `confirm`: prints `confirmed` or `in doubt COUNT`. `rings`: prints how many rings it uses. Each message
//!   begins with its number, the rest of it is the last byte of that. `large`: sends one that does not fit into a ring, and prints `sent`.
//! - `bus-probe consume CHANNEL`: connects, prints `joined`, and listens until it is killed. CHANNEL may be a pattern. It obeys the newest line of its standard input by
//!   printing a summary as soon as that is true. `following`: it reads shared memory itself. `follows`: the same, and it looks after each message. `rings COUNT`: it has mapped so many rings.
//!   `count COUNT`: that is how many messages it has received and lost. `at NUMBER`: it has received that message or a later one. `gaps
//!   COUNT`: it has reported so many gaps without a count. `now`: always. `missing` prints the numbers between the messages that it has received.
//! - `bus-probe serve`: is the daemon, and prints `ready`. It has the steps of this build, which the command has not.
//! - `bus-probe first CHANNEL`: prints `ready`, waits for a line, acts as the first user of the bus (listens, sends and
//!   receives), and prints `ok`.
//! - `bus-probe ping CHANNEL`: prints `ready`, sends each line of its standard input, and prints `ok` after each.
//! - `bus-probe unchecked-hello`: sends a Hello without checking the owner of the socket, and prints the answer.
//! - `bus-probe stats PATH`: requests PATH from the stats socket without checking its owner, and prints the answer.

use broadcaster_protocol::endpoint::{Candidate, Origin};
use broadcaster_server::Limits;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write, stdin, stdout};
use std::ops::Range;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use system_broadcaster::{Listener, Message, Options, RecvError, Selector, SendError, Sender, SharedMemory};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["listen", channel, count] => listen(channel, count),
        ["send", channel, count, bytes] => send(channel, count, bytes),
        ["produce", channel, bytes] => produce(channel, bytes, "0"),
        ["produce", channel, bytes, backpressure] => produce(channel, bytes, backpressure),
        ["consume", channel] => consume(channel),
        ["serve"] => serve(),
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

/// More than a ring takes in one message.
const LARGE_BYTES: usize = 1 << 20;

/// With backpressure, listeners that are behind may delay it for so many milliseconds.
fn produce(channel: &str, bytes: &str, backpressure: &str) -> Outcome {
    let bytes = bytes.parse::<usize>()?.max(size_of::<u64>());
    let backpressure = Duration::from_millis(backpressure.parse()?);
    let options = Options::new().shared_memory(SharedMemory::Always).backpressure(backpressure);
    let mut sender = options.sender(channel)?;
    print_line("ready");
    let mut number = 0_u64;
    let mut payload = vec![0; bytes.max(LARGE_BYTES)];
    let mut send = |sender: &mut Sender, bytes: usize| {
        let payload = &mut payload[..bytes];
        payload.fill(number.to_le_bytes()[0]);
        payload[..size_of::<u64>()].copy_from_slice(&number.to_le_bytes());
        number += 1;
        sender.send(payload)
    };
    for line in stdin().lock().lines() {
        let line = line?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["ring"] => {
                let mut sent = 0;
                while sender.capabilities().rings == 0 {
                    send(&mut sender, bytes)?;
                    sent += 1;
                    sender.confirm()?; // a turn for the daemon
                }
                print_line(&format!("in a ring after {sent}"));
            }
            ["burst", count, ref rest @ ..] => {
                let bytes = rest.first().map_or(Ok(bytes), |bytes| bytes.parse())?;
                for _ in 0..count.parse::<u64>()? {
                    send(&mut sender, bytes)?;
                }
                print_line("sent");
            }
            ["large"] => {
                send(&mut sender, LARGE_BYTES)?;
                print_line("sent");
            }
            ["confirm"] => match sender.confirm() {
                Err(SendError::InDoubt { count }) => print_line(&format!("in doubt {count}")),
                confirmed => confirmed.map(|()| print_line("confirmed"))?,
            },
            ["rings"] => print_line(&format!("rings {}", sender.capabilities().rings)),
            _ => return Err(format!("no such request: {line}").into()),
        }
    }
    Ok(())
}

/// What a listener has received, and whether that is right.
#[derive(Default)]
struct Consumed {
    received: u64,
    /// Messages that are repeated, too early, or not as they were sent.
    disorder: u64,
    next: BTreeMap<system_broadcaster::SenderId, u64>,
    last: Option<u64>,
    gaps: u64,
    /// Numbers between the messages that were received.
    missing: Vec<Range<u64>>,
    /// Losses that were reported, and whose place among the messages is still to come.
    pending: u64,
}

impl Consumed {
    fn add(&mut self, message: &Message) {
        self.received += 1;
        let (sequence, payload) = (message.sequence(), message.payload());
        let number = payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let is_whole = payload.iter().skip(size_of::<u64>()).all(|&byte| byte == sequence.to_le_bytes()[0]);
        let next = self.next.entry(message.sender()).or_default();
        let skipped = sequence.checked_sub(*next).filter(|&skipped| skipped <= self.pending);
        if number != Some(sequence) || !is_whole || skipped.is_none() {
            self.disorder += 1;
        }
        if skipped.is_some_and(|skipped| skipped > 0) {
            self.missing.push(*next..sequence);
        }
        *next = sequence + 1;
        // A gap without a count ends with the next message.
        self.pending = if self.pending == u64::MAX { 0 } else { self.pending - skipped.unwrap_or(0) };
        self.last = Some(sequence);
    }

    fn lag(&mut self, count: Option<u64>) {
        self.gaps += u64::from(count.is_none());
        self.pending = count.map_or(u64::MAX, |count| self.pending.saturating_add(count));
    }
}

fn consume(channel: &str) -> Outcome {
    let selector = if channel.contains('*') { Selector::pattern(channel)? } else { Selector::name(channel)? };
    let mut listener = Options::new().listener_on([selector])?;
    print_line("joined");
    let (ask, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || stdin().lock().lines().map_while(Result::ok).try_for_each(|line| ask.send(line)));
    let mut consumed = Consumed::default();
    let mut request: Option<String> = None;
    loop {
        let is_quiet = match listener.recv_timeout(Duration::from_millis(5)) {
            Ok(message) => {
                consumed.add(&message);
                false
            }
            Err(RecvError::Lagged(lag)) => {
                consumed.lag(lag.count);
                false
            }
            Err(RecvError::TimedOut { .. }) => true,
            Err(error) => return Err(error.into()),
        };
        request = requests.try_iter().last().or(request);
        let Some(line) = &request else { continue };
        // Some answers take long to find.
        let is_time = is_quiet || consumed.received.is_multiple_of(512);
        let is_true = match line.split(' ').collect::<Vec<_>>()[..] {
            ["following"] => is_time && format!("{listener:?}").contains("Following"),
            ["follows"] => format!("{listener:?}").contains("Following"),
            ["rings", count] => is_time && mapped_rings()? == count.parse::<usize>()?,
            ["count", count] => consumed.received + listener.lost() >= count.parse::<u64>()?,
            ["at", number] => consumed.last >= Some(number.parse::<u64>()?),
            ["gaps", count] => consumed.gaps >= count.parse::<u64>()?,
            ["now"] => true,
            ["missing"] => {
                let missing: Vec<String> = consumed.missing.iter().map(|range| format!(" {range:?}")).collect();
                print_line(&format!("missing{}", missing.concat()));
                request = None;
                continue;
            }
            _ => return Err(format!("no such request: {line}").into()),
        };
        if is_true {
            let (Consumed { received, disorder, gaps, .. }, lost) = (&consumed, listener.lost());
            print_line(&format!("received {received} lost {lost} gaps {gaps} disorder {disorder}"));
            request = None;
        }
    }
}

/// How many rings this process has mapped.
fn mapped_rings() -> io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    Ok(maps.lines().filter(|line| line.contains("/memfd:broadcaster-ring")).count())
}

fn serve() -> Outcome {
    let socket = std::env::var_os("BROADCASTER_SOCKET").ok_or("no BROADCASTER_SOCKET")?;
    let bound = broadcaster_server::bind(&[Candidate { socket: socket.into(), origin: Origin::Explicit }])?;
    print_line("ready");
    broadcaster_server::serve(bound, Limits::default(), "0", |_| std::future::pending())?;
    Ok(())
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
