//! Shared memory between real processes that are killed, suspended or hostile. Each test has its own bus.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

use broadcaster_local::{self as local, Descriptor, Socket, make_memory};
use broadcaster_protocol::control::{
    BeginRing, Confirm, Control, EndRing, OfferRing, Open, Prepare, Prepared, capability,
};
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, SenderId, handshake};
use broadcaster_ring::{HEADER_WORDS, WordsMut, Writer};
use broadcaster_tests::daemon::{Bus, Process};
use bytes::BytesMut;
use rustix::process::Signal;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use system_broadcaster::{Lag, Listener, RecvError, Sender, SharedMemory, Status};

const PROBE: &str = env!("CARGO_BIN_EXE_bus-probe");

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of repetitions of a race. `BUS_ROUNDS` overrides it.
fn rounds() -> usize {
    std::env::var("BUS_ROUNDS").ok().map_or(30, |rounds| rounds.parse().expect("BUS_ROUNDS is a number"))
}

fn probe(mut command: Command) -> Process {
    let mut process = Process::spawn(&mut command);
    let line = process.line();
    assert!(line == "joined" || line == "ready", "output of the probe: {line:?}");
    process
}

/// A listener that sums up on request.
fn consumer(bus: &Bus) -> Process {
    probe(bus.command(PROBE, &["consume", "news"]))
}

/// A sender that uses shared memory.
fn producer(bus: &Bus, bytes: usize) -> Process {
    paced_producer(bus, bytes, Duration::ZERO)
}

/// The same with backpressure.
fn paced_producer(bus: &Bus, bytes: usize, patience: Duration) -> Process {
    let (bytes, patience) = (bytes.to_string(), patience.as_millis().to_string());
    probe(bus.command(PROBE, &["produce", "news", &bytes, &patience]))
}

/// What the process answers to a request.
fn ask(process: &mut Process, request: &str) -> String {
    process.write_line(request);
    process.line()
}

/// What a listener sums up when something is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    received: u64,
    lost: u64,
    gaps: u64,
    disorder: u64,
}

fn sum(line: &str) -> Sum {
    let numbers: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
    let [received, lost, gaps, disorder] = numbers[..] else { panic!("no summary: {line:?}") };
    Sum { received, lost, gaps, disorder }
}

fn sum_when(listener: &mut Process, request: &str) -> Sum {
    sum(&ask(listener, request))
}

/// Lets the sender and all listeners use a ring; returns how many messages that took.
fn follow(sender: &mut Process, listeners: &mut [&mut Process]) -> u64 {
    let line = ask(sender, "ring");
    let mut sent: u64 = line.strip_prefix("in a ring after ").and_then(|sent| sent.parse().ok()).expect(&line);
    // A listener is introduced when a message has passed it, and the sender looks when it sends.
    listeners.iter_mut().for_each(|listener| listener.write_line("following"));
    let (mut done, started) = (0, Instant::now());
    while done < listeners.len() {
        assert!(started.elapsed() < PATIENCE, "nothing is in the way of a ring");
        assert_eq!(ask(sender, "burst 1"), "sent");
        assert_eq!(ask(sender, "confirm"), "confirmed");
        sent += 1;
        done += listeners[done..].iter_mut().take_while(|listener| has_output(listener)).map(|it| it.line()).count();
    }
    sent
}

/// Whether a line of the process can be read.
fn has_output(process: &Process) -> bool {
    process.has_line(Duration::from_millis(1))
}

/// Requests the daemon's report until it satisfies `condition`. Each round trip gives the daemon a turn.
fn wait_until(bus: &Bus, mut condition: impl FnMut(&Status) -> bool) -> Status {
    let started = Instant::now();
    loop {
        let report = bus.options().daemon().status().expect("the daemon answers");
        if condition(&report) {
            return report;
        }
        assert!(started.elapsed() < PATIENCE, "it never comes: {report:?}");
    }
}

/// What a process holds that belongs to rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    memories: usize,
    doorbells: usize,
    mappings: usize,
}

fn held(pid: u32) -> Held {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("our process");
    // A file may be closed meanwhile.
    let names = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let count = |what: &str| names.iter().filter(|name| name.contains(what)).count();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("our process");
    Held {
        memories: count("/memfd:"),
        doorbells: count("[eventfd]"),
        mappings: maps.lines().filter(|line| line.contains("/memfd:")).count(),
    }
}

/// Waits until the process holds what it held at first. The daemon and the process have a turn each time.
fn expect_released(bus: &Bus, pid: u32, before: Held) {
    let started = Instant::now();
    loop {
        bus.options().daemon().status().expect("the daemon answers");
        let held = held(pid);
        if held == before {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "process {pid} holds {held:?}, and {before:?} at first");
    }
}

#[test]
fn killed_sender_takes_nothing_back_and_leaves_nothing_behind() {
    let bus = Bus::new();
    let daemon = bus.start();
    let mut listeners = [consumer(&bus), consumer(&bus)];
    let before = (held(daemon.pid()), listeners.each_ref().map(|listener| held(listener.pid())));
    let mut random = fastrand::Rng::with_seed(1);
    let mut before_round = 0;
    for round in 0..rounds() {
        let mut sender = producer(&bus, random.usize(8..2000));
        let [one, two] = &mut listeners;
        let sent = follow(&mut sender, &mut [one, two]);
        assert_eq!(held(daemon.pid()).memories, 1, "the daemon has mapped the ring");
        sender.write_line("burst 1000000000");
        let enough = before_round + sent + random.u64(1..5000);
        wait_until(&bus, |report| report.messages_accepted >= enough);
        sender.signal(Signal::KILL);
        drop(sender);
        let accepted = wait_until(&bus, |report| report.senders == 0).messages_accepted;
        assert!(accepted >= enough, "round {round}");
        for listener in &mut listeners {
            let sum = sum_when(listener, &format!("count {accepted}"));
            assert_eq!((sum.received + sum.lost, sum.gaps, sum.disorder), (accepted, 0, 0), "{sum:?} in round {round}");
            assert_eq!(sum_when(listener, "rings 0"), sum, "round {round}");
        }
        expect_released(&bus, daemon.pid(), before.0);
        for (listener, before) in listeners.iter().zip(before.1) {
            expect_released(&bus, listener.pid(), before);
        }
        before_round = accepted;
    }
    let lost: u64 = listeners.each_mut().map(|listener| sum_when(listener, "now").lost).iter().sum();
    let report = wait_until(&bus, |_| true);
    assert_eq!((report.messages_delivered + report.messages_lost, report.messages_lost), (2 * before_round, lost));
}

#[test]
fn killed_listener_is_noticed_by_no_one() {
    let bus = Bus::new();
    let daemon = bus.start();
    let mut other = consumer(&bus);
    let mut sender = producer(&bus, 100);
    let mut sent = follow(&mut sender, &mut [&mut other]);
    let before = [daemon.pid(), sender.pid()].map(held);
    let before_other = held(other.pid());
    for round in 0..rounds() {
        let mut victim = consumer(&bus);
        sent += introduce(&mut sender, &mut victim);
        assert_eq!(held(sender.pid()).mappings, before[1].mappings + 1, "the page of the listener");
        sender.write_line("burst 20000");
        victim.signal(Signal::KILL);
        drop(victim);
        assert_eq!(sender.line(), "sent");
        assert_eq!(ask(&mut sender, "confirm"), "confirmed");
        sent += 20_000;
        let sum = sum_when(&mut other, &format!("count {sent}"));
        assert_eq!((sum.received + sum.lost, sum.gaps, sum.disorder), (sent, 0, 0), "{sum:?} in round {round}");
        wait_until(&bus, |report| report.listeners == 1);
        expect_released(&bus, daemon.pid(), before[0]);
        // The sender looks when it is called.
        assert_eq!(ask(&mut sender, "burst 1"), "sent");
        sent += 1;
        assert_eq!(held(sender.pid()), before[1], "round {round}");
        assert_eq!(held(other.pid()), before_other, "round {round}");
    }
    assert_eq!(wait_until(&bus, |_| true).messages_accepted, sent);
}

/// Lets one more listener use the ring; returns how many messages that took.
fn introduce(sender: &mut Process, listener: &mut Process) -> u64 {
    let (mut sent, started) = (0, Instant::now());
    listener.write_line("following");
    loop {
        assert_eq!(ask(sender, "burst 1"), "sent");
        assert_eq!(ask(sender, "confirm"), "confirmed");
        sent += 1;
        if has_output(listener) {
            listener.line();
            return sent;
        }
        assert!(started.elapsed() < PATIENCE, "nothing is in the way of a link");
    }
}

#[test]
fn killed_daemon_costs_one_gap_and_leaves_nothing_behind() {
    const BURST: u64 = 50_000;
    let bus = Bus::new();
    let mut daemon = Some(bus.start());
    let mut listeners = [consumer(&bus), consumer(&bus)];
    let mut sender = producer(&bus, 100);
    let [one, two] = &mut listeners;
    let mut sent = follow(&mut sender, &mut [one, two]);
    let pids = [sender.pid(), listeners[0].pid(), listeners[1].pid()];
    let mut pid = wait_until(&bus, |_| true).pid;
    let before = (held(pid), pids.map(held));
    for round in 1..=u64::try_from(rounds()).expect("few") / 3 {
        listeners.iter_mut().for_each(|listener| listener.write_line(&format!("gaps {round}")));
        sender.write_line(&format!("burst {BURST}"));
        let killed = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(killed, Signal::KILL).expect("the daemon runs");
        drop(daemon.take()); // the clients start the next one
        assert_eq!(sender.line(), "sent");
        sent += BURST;
        let answer = ask(&mut sender, "confirm");
        if let Some(count) = answer.strip_prefix("in doubt ") {
            let count: u64 = count.parse().expect("a count");
            assert!(count <= sent, "{answer}");
        } else {
            assert_eq!(answer, "confirmed");
        }
        for listener in &mut listeners {
            let sum = sum(&listener.line());
            assert_eq!((sum.gaps, sum.disorder), (round, 0), "{sum:?} in round {round}");
        }
        let [one, two] = &mut listeners;
        sent += follow(&mut sender, &mut [one, two]);
        for listener in &mut listeners {
            let sum = sum_when(listener, &format!("at {}", sent - 1));
            assert_eq!((sum.gaps, sum.disorder), (round, 0), "{sum:?} in round {round}");
        }
        pid = wait_until(&bus, |report| report.listeners == 2).pid;
        expect_released(&bus, pid, before.0);
        pids.iter().zip(before.1).for_each(|(&pid, before)| expect_released(&bus, pid, before));
    }
}

#[test]
fn killed_daemon_costs_a_sender_and_its_listeners_no_message() {
    const BURST: u64 = 50_000;
    let bus = Bus::new();
    let mut daemon = Some(bus.start());
    let mut listeners = [consumer(&bus), consumer(&bus)];
    let mut sender = paced_producer(&bus, 100, PATIENCE);
    let mut sent = 0;
    for round in 1..=u64::try_from(rounds()).expect("few") / 3 {
        let [one, two] = &mut listeners;
        sent += follow(&mut sender, &mut [one, two]);
        let pid = wait_until(&bus, |report| report.listeners == 2).pid;
        sender.write_line(&format!("burst {BURST}"));
        let killed = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(killed, Signal::KILL).expect("the daemon runs");
        drop(daemon.take()); // the clients start the next one
        assert_eq!(sender.line(), "sent");
        sent += BURST;
        ask(&mut sender, "confirm"); // what others may have lost is in doubt
        for listener in &mut listeners {
            let sum = sum_when(listener, &format!("at {}", sent - 1));
            assert_eq!(sum, Sum { received: sent, lost: 0, gaps: round, disorder: 0 }, "round {round}");
        }
    }
}

#[test]
fn a_sender_and_its_listeners_go_on_although_there_is_no_daemon() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    let mut listeners: Vec<_> = (0..2).map(|_| bus.options().listener("news").expect("the daemon serves")).collect();
    let mut sender = bus.options().shared_memory(SharedMemory::Always).sender("news").expect("the daemon serves");
    let mut sent: u64 = 0;
    let mut next = [0; 2];
    let mut exchange = |sender: &mut Sender, listeners: &mut [Listener], count: u64| {
        let mut gaps = 0;
        for _ in 0..count {
            sender.send(&sent.to_le_bytes()).expect("sent");
            sent += 1;
            for (listener, next) in listeners.iter_mut().zip(&mut next) {
                while *next < sent {
                    match listener.recv_timeout(PATIENCE) {
                        Ok(message) => {
                            assert_eq!((message.sequence(), message.payload()), (*next, &next.to_le_bytes()[..]));
                            *next += 1;
                        }
                        Err(RecvError::Lagged(Lag { count: None, .. })) => gaps += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
        gaps
    };
    let started = Instant::now();
    let follows = |listener: &Listener| format!("{listener:?}").contains("Following");
    while !listeners.iter().all(follows) {
        assert_eq!(exchange(&mut sender, &mut listeners, 1), 0);
        assert!(started.elapsed() < PATIENCE, "nothing is in the way of a ring");
    }
    daemon.kill();
    assert_eq!(exchange(&mut sender, &mut listeners, 1000), 0, "there is no daemon");
    let _next = bus.start();
    let (mut gaps, started) = (0, Instant::now());
    while gaps < 2 {
        gaps += exchange(&mut sender, &mut listeners, 1);
        assert!(started.elapsed() < PATIENCE, "nothing is in the way of the next daemon");
    }
    assert_eq!(exchange(&mut sender, &mut listeners, 1000), 0, "each listener has reported its gap");
    sender.confirm().expect_err("what was in the ring when the daemon died, others may have lost");
    sender.confirm().expect("the next daemon has the rest");
    assert!(bus.options().daemon().status().expect("the daemon answers").messages_accepted >= 1000);
}

#[test]
fn suspended_listener_loses_alone_what_it_reports() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listeners = [consumer(&bus), consumer(&bus)];
    let mut sender = producer(&bus, 1000);
    let [stopped, other] = &mut listeners;
    let mut sent = follow(&mut sender, &mut [stopped, other]);
    let mut lost = 0;
    for burst in [1000, 30_000] {
        stopped.signal(Signal::STOP);
        assert_eq!(ask(&mut sender, &format!("burst {burst}")), "sent", "it waits for no one");
        assert_eq!(ask(&mut sender, "confirm"), "confirmed");
        sent += burst;
        let sum = sum_when(other, &format!("count {sent}"));
        assert_eq!((sum.received + sum.lost, sum.gaps, sum.disorder), (sent, 0, 0), "{sum:?}");
        stopped.signal(Signal::CONT);
        let sum = sum_when(stopped, &format!("count {sent}"));
        assert_eq!((sum.received + sum.lost, sum.gaps, sum.disorder), (sent, 0, 0), "{sum:?}");
        assert_eq!(sum.lost > 0, burst == 30_000, "4 MiB are kept: {sum:?}");
        lost = sum.lost;
    }
    let lost = lost + sum_when(other, "now").lost;
    let report = wait_until(&bus, |_| true);
    assert_eq!((report.messages_accepted, report.messages_lost), (sent, lost));
    assert_eq!(report.messages_delivered + lost, 2 * sent);
}

#[test]
fn sender_with_backpressure_waits_for_a_suspended_listener_and_loses_nothing() {
    const BURST: u64 = 30_000; // of 1000 bytes, several rings
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listeners = [consumer(&bus), consumer(&bus)];
    let mut sender = paced_producer(&bus, 1000, PATIENCE);
    let [stopped, other] = &mut listeners;
    let mut sent = follow(&mut sender, &mut [stopped, other]);
    for _ in 0..3 {
        stopped.signal(Signal::STOP);
        sender.write_line(&format!("burst {BURST}"));
        // Half of a ring is more than a sender would have in front of it without waiting for it.
        wait_until(&bus, |report| report.messages_accepted >= sent + 1000);
        stopped.signal(Signal::CONT);
        assert_eq!(sender.line(), "sent");
        assert_eq!(ask(&mut sender, "confirm"), "confirmed");
        sent += BURST;
        for listener in [&mut *stopped, &mut *other] {
            let sum = sum_when(listener, &format!("count {sent}"));
            assert_eq!((sum.received, sum.lost, sum.gaps, sum.disorder), (sent, 0, 0, 0), "{sum:?}");
        }
    }
    assert_eq!(ask(&mut sender, "rings"), "rings 1");
    // It waits, and the listener never comes back.
    stopped.signal(Signal::STOP);
    sender.write_line(&format!("burst {BURST}"));
    wait_until(&bus, |report| report.messages_accepted >= sent + 1000);
    stopped.signal(Signal::KILL);
    assert_eq!(sender.line(), "sent");
    let sum = sum_when(other, &format!("count {}", sent + BURST));
    assert_eq!((sum.received, sum.lost, sum.gaps, sum.disorder), (sent + BURST, 0, 0, 0), "{sum:?}");
}

#[test]
fn sender_with_backpressure_leaves_a_suspended_listener_behind() {
    const BURST: u64 = 30_000;
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listeners = [consumer(&bus), consumer(&bus)];
    let mut sender = paced_producer(&bus, 1000, Duration::from_millis(50));
    let [stopped, other] = &mut listeners;
    let mut sent = follow(&mut sender, &mut [stopped, other]);
    stopped.signal(Signal::STOP);
    assert_eq!(ask(&mut sender, &format!("burst {BURST}")), "sent");
    assert_eq!(ask(&mut sender, "confirm"), "confirmed");
    sent += BURST;
    stopped.signal(Signal::CONT);
    let sum = sum_when(stopped, &format!("count {sent}"));
    assert_eq!((sum.received + sum.lost, sum.gaps, sum.disorder), (sent, 0, 0), "{sum:?}");
    assert!(sum.lost > 0, "it was left behind: {sum:?}");
    let report = wait_until(&bus, |_| true);
    assert_eq!((report.messages_accepted, report.messages_delivered + report.messages_lost), (sent, 2 * sent));
    let other = sum_when(other, &format!("count {sent}"));
    assert_eq!(report.messages_lost, sum.lost + other.lost, "{sum:?}, {other:?}");
}

#[test]
fn sender_and_listeners_go_on_while_the_daemon_is_suspended() {
    const BURST: u64 = 50_000;
    let bus = Bus::new();
    let daemon = bus.start();
    let mut listeners = [consumer(&bus), consumer(&bus)];
    let mut sender = producer(&bus, 100);
    let [one, two] = &mut listeners;
    let sent = follow(&mut sender, &mut [one, two]) + BURST;
    daemon.signal(Signal::STOP);
    assert_eq!(ask(&mut sender, &format!("burst {BURST}")), "sent");
    for listener in &mut listeners {
        let sum = sum_when(listener, &format!("count {sent}"));
        assert_eq!((sum.received + sum.lost, sum.gaps, sum.disorder), (sent, 0, 0), "{sum:?}");
    }
    daemon.signal(Signal::CONT);
    assert_eq!(ask(&mut sender, "confirm"), "confirmed");
    assert_eq!(wait_until(&bus, |_| true).messages_accepted, sent);
}

#[test]
fn orderly_stop_delivers_what_is_in_rings() {
    const BURST: u64 = 40_000;
    let bus = Bus::new();
    let mut daemon = bus.start();
    let mut listeners = [consumer(&bus), consumer(&bus)];
    let mut sender = producer(&bus, 100);
    let [one, two] = &mut listeners;
    let begun = follow(&mut sender, &mut [one, two]);
    let pids = [sender.pid(), listeners[0].pid(), listeners[1].pid()];
    let before = pids.map(held);
    listeners.iter_mut().for_each(|listener| listener.write_line("gaps 1"));
    sender.write_line(&format!("burst {BURST}"));
    wait_until(&bus, |report| report.messages_accepted > begun + 100);
    assert!(bus.run(&["stop"]).status.success());
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(sender.line(), "sent");
    // A sender that the connection to the first daemon has left counts its ring as in doubt.
    ask(&mut sender, "confirm");
    // What the first daemon has accepted comes before the gap, and no later message does.
    let accepted = begun + BURST - wait_until(&bus, |report| report.listeners == 2).messages_accepted;
    for listener in &mut listeners {
        let sum = sum(&listener.line());
        assert_eq!((sum.received + sum.lost, sum.gaps, sum.disorder), (accepted, 1, 0), "{sum:?}");
    }
    let [one, two] = &mut listeners;
    let sent = begun + BURST + follow(&mut sender, &mut [one, two]);
    for listener in &mut listeners {
        let sum = sum_when(listener, &format!("at {}", sent - 1));
        assert_eq!((sum.gaps, sum.disorder), (1, 0), "{sum:?}");
    }
    pids.iter().zip(before).for_each(|(&pid, before)| expect_released(&bus, pid, before));
}

/// A sender that does as it likes, on a channel of its own.
struct Hostile {
    socket: Socket,
    decoder: Decoder,
    chunk: BytesMut,
    received: VecDeque<Descriptor>,
    sender: u64,
    id: u32,
}

/// Bytes of its rings.
const RING_BYTES: usize = 8 * (HEADER_WORDS + 8192);

impl Hostile {
    fn connect(bus: &Bus) -> Self {
        let socket = UnixStream::connect(bus.socket()).expect("connected").into();
        let (decoder, chunk, received) = (Decoder::consumer(1 << 20), BytesMut::new(), VecDeque::new());
        let mut hostile = Self { socket, decoder, chunk, received, sender: 0, id: 0 };
        let mut hello = handshake::hello("hostile", "0", 1, 1);
        hello.capabilities = capability::RINGS;
        hostile.write(hello, &[]);
        let Some(Control::Welcome(welcome)) = hostile.next() else { panic!("a Welcome") };
        hostile.sender = welcome.sender;
        hostile.write(Open { channel: "bait".to_owned(), next_sequence: 0, extensions: Vec::new() }, &[]);
        let Some(Control::Opened(opened)) = hostile.next() else { panic!("an Opened") };
        hostile.id = opened.id;
        hostile.write(Prepare::default(), &[]);
        let Some(Control::Prepared(_)) = hostile.next() else { panic!("a Prepared") };
        hostile
    }

    /// The daemon may have closed the connection already.
    fn try_write(&self, bytes: &[u8], descriptors: &[&Descriptor]) -> bool {
        local::write_with_descriptors(&self.socket, bytes, descriptors).is_ok_and(|written| written == bytes.len())
    }

    fn write(&self, control: impl Into<Control>, descriptors: &[&Descriptor]) {
        let mut frame = Vec::new();
        control.into().encode(&mut frame).expect("a short frame");
        assert!(self.try_write(&frame, descriptors), "there is room");
    }

    /// The next control message; `None` at the end of the connection.
    fn next(&mut self) -> Option<Control> {
        loop {
            match self.decoder.next(&mut self.chunk).expect("frames") {
                Some(Item::Control(control)) => return Some(control),
                Some(item) => panic!("{item:?}"),
                None => {
                    let mut target = self.decoder.target(&mut self.chunk);
                    match local::read_blocking_with_descriptors(&self.socket, &mut target, &mut self.received) {
                        Ok(0) | Err(_) => return None,
                        Ok(_) => {}
                    }
                }
            }
        }
    }

    fn offer(&self, descriptor: &Descriptor) {
        self.write(OfferRing { id: self.id, bytes: RING_BYTES as u64, extensions: Vec::new() }, &[descriptor]);
    }

    /// Offers a ring that the daemon takes.
    fn accepted(&mut self, descriptor: &Descriptor) {
        self.offer(descriptor);
        assert!(matches!(self.next(), Some(Control::Prepare(_))));
        self.write(Prepared::default(), &[]);
        assert!(matches!(self.next(), Some(Control::RingAccepted(_))));
    }

    fn begin(&self) {
        self.write(BeginRing { id: self.id, sequence: 0, extensions: Vec::new() }, &[]);
    }

    /// Lets the daemon look.
    fn confirm(&self) {
        let mut frame = Vec::new();
        let confirm = Confirm { number: 1, id: self.id, extensions: Vec::new() };
        Control::from(confirm).encode(&mut frame).expect("a short frame");
        self.try_write(&frame, &[]);
    }

    /// The reason for which the daemon ends the connection.
    fn refused(mut self) -> String {
        loop {
            match self.next().expect("a reason precedes the end") {
                Control::Refused(refused) => return refused.reason,
                Control::Declined(declined) => panic!("{declined:?}"),
                _ => {}
            }
        }
    }

    /// The reason for which the daemon does not take a ring.
    fn declined(&mut self) -> String {
        match self.next() {
            Some(Control::Declined(declined)) => declined.reason,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn hostile_sender_hurts_itself_alone() {
    let bus = Bus::new();
    let daemon = bus.start();
    let _bait = bus.options().listener("bait").expect("connected");
    let mut listener = consumer(&bus);
    let mut sender = producer(&bus, 100);
    let mut sent = follow(&mut sender, &mut [&mut listener]);
    let before = held(daemon.pid());
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..20 {
        // Words that are no ring, from the first on or from a later one on.
        let mut hostile = Hostile::connect(&bus);
        let (descriptor, memory) = make_memory("hostile", RING_BYTES).expect("made");
        hostile.accepted(&descriptor);
        let from = if round < 2 { 0 } else { random.usize(0..HEADER_WORDS) };
        let mut writer = Writer::new(&memory, 0);
        for _ in 0..10 {
            writer.push(broadcaster_protocol::frame::KIND_PUBLISH, b"", b"bait").expect("it fits");
        }
        let _ = writer.publish();
        (from..HEADER_WORDS).for_each(|word| memory.store(word, random.u64(..), Ordering::SeqCst));
        hostile.begin();
        hostile.confirm();
        if from < 8 {
            let reason = hostile.refused();
            assert!(reason.starts_with("the ring of channel") && reason.contains("is not correct"), "{reason}");
        }
    }
    // A ring whose memory is overwritten while the daemon reads it.
    for _ in 0..5 {
        let mut hostile = Hostile::connect(&bus);
        let (descriptor, memory) = make_memory("hostile", RING_BYTES).expect("made");
        hostile.accepted(&descriptor);
        let _ = Writer::new(&memory, 0);
        hostile.begin();
        (0..RING_BYTES / 8).for_each(|word| memory.store(word, random.u64(..), Ordering::SeqCst));
        hostile.confirm();
        let reason = hostile.refused();
        assert!(reason.contains("is not correct"), "{reason}");
    }
    // Messages that are in no ring, and an end that it does not have.
    for data in [true, false] {
        let mut hostile = Hostile::connect(&bus);
        let (descriptor, memory) = make_memory("hostile", RING_BYTES).expect("made");
        hostile.accepted(&descriptor);
        let _writer = Writer::new(&memory, 0);
        hostile.begin();
        if data {
            let header = Header::publish(ChannelId(hostile.id), SenderId::from_raw(hostile.sender), 0, 4);
            assert!(hostile.try_write(&[header.as_bytes(), &b"bait"[..]].concat(), &[]));
        } else {
            hostile.write(EndRing { id: hostile.id, sequence: 7, extensions: Vec::new() }, &[]);
        }
        let reason = hostile.refused();
        assert!(reason.contains("ring"), "{reason}");
    }
    // What is no sealed memory.
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let unsealed = rustix::fs::memfd_create("hostile", rustix::fs::MemfdFlags::ALLOW_SEALING).expect("made");
    rustix::fs::ftruncate(&unsealed, RING_BYTES as u64).expect("grown");
    for file in [OwnedFd::from(reader), unsealed] {
        let mut hostile = Hostile::connect(&bus);
        hostile.offer(&Descriptor::from(file));
        let reason = hostile.declined();
        assert!(!reason.is_empty());
    }
    // Descriptors that no frame needs.
    let hostile = Hostile::connect(&bus);
    let (descriptor, _memory) = make_memory("hostile", RING_BYTES).expect("made");
    let mut frame = Vec::new();
    Control::from(Prepare::default()).encode(&mut frame).expect("a short frame");
    while hostile.try_write(&frame, &[&descriptor, &descriptor, &descriptor, &descriptor]) {}
    drop((hostile, descriptor));
    // The innocent have noticed nothing.
    assert_eq!(ask(&mut sender, "burst 1000"), "sent");
    assert_eq!(ask(&mut sender, "confirm"), "confirmed");
    sent += 1000;
    let sum = sum_when(&mut listener, &format!("count {sent}"));
    assert_eq!(sum, Sum { received: sent, lost: 0, gaps: 0, disorder: 0 });
    assert_eq!(ask(&mut sender, "rings"), "rings 1");
    expect_released(&bus, daemon.pid(), before);
}

/// Sends enough for a ring, with a round trip each; returns whether there is one then.
fn has_ring_after_many(sender: &mut Process) -> bool {
    for _ in 0..200 {
        assert_eq!(ask(sender, "burst 1"), "sent");
        assert_eq!(ask(sender, "confirm"), "confirmed");
    }
    ask(sender, "rings") == "rings 1"
}

#[test]
fn variable_turns_shared_memory_off_in_each_process() {
    const VARIABLE: &str = "BROADCASTER_SHARED_MEMORY";
    for off in ["nothing", "sender", "listener", "daemon"] {
        let bus = Bus::new();
        let command = |who: &str, program: &std::path::Path, arguments: &[&str]| {
            let mut command = bus.command(program, arguments);
            command.env(VARIABLE, if who == off { "0" } else { "1" });
            command
        };
        let mut daemon =
            Process::spawn(&mut command("daemon", broadcaster_tests::daemon::program(), &["run", "--log", "warn"]));
        assert!(daemon.line().starts_with("listening on"));
        let mut other = consumer(&bus);
        let mut listener = probe(command("listener", PROBE.as_ref(), &["consume", "news"]));
        let mut sender = probe(command("sender", PROBE.as_ref(), &["produce", "news", "100"]));
        assert_eq!(has_ring_after_many(&mut sender), !matches!(off, "sender" | "daemon"), "{off}");
        let sum = sum_when(&mut listener, "count 200");
        assert_eq!(sum, Sum { received: 200, lost: 0, gaps: 0, disorder: 0 }, "{off}");
        assert_eq!(sum_when(&mut other, "count 200"), sum, "{off}");
        let rings = held(listener.pid()).mappings;
        assert_eq!(rings > 0, off == "nothing", "{off}");
    }
}

/// Leaves the process room for so many more descriptors.
fn exhaust(process: &Process, room: usize) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw).expect("a process id");
    let is_free = |number: &u64| std::fs::read_link(format!("/proc/{}/fd/{number}", process.pid())).is_err();
    // The limit is one of numbers.
    let limit = (0..).filter(is_free).nth(room);
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: limit, maximum: limit }).expect("our process");
}

#[test]
fn sender_without_descriptors_uses_its_socket() {
    for room in 0..3 {
        let bus = Bus::new();
        let _daemon = bus.start();
        let mut listener = consumer(&bus);
        let mut sender = producer(&bus, 100);
        exhaust(&sender, room);
        let mut doubts = 0;
        for _ in 0..200 {
            assert_eq!(ask(&mut sender, "burst 1"), "sent");
            doubts += u64::from(ask(&mut sender, "confirm") != "confirmed");
        }
        // If there is room for the ring and not for what the daemon answers with, the connection ends once.
        assert!(doubts <= u64::from(room > 0), "{doubts} of 200 messages were in doubt, with room for {room}");
        assert_eq!(ask(&mut sender, "rings"), "rings 0", "with room for {room}");
        let sum = sum_when(&mut listener, "count 200");
        assert_eq!(sum, Sum { received: 200, lost: 0, gaps: 0, disorder: 0 }, "with room for {room}");
    }
}

#[test]
fn listener_without_descriptors_joins_again_without_rings() {
    for room in 0..4 {
        let bus = Bus::new();
        let _daemon = bus.start();
        let mut listener = consumer(&bus);
        let mut sender = producer(&bus, 100);
        exhaust(&listener, room);
        has_ring_after_many(&mut sender);
        // It may take longer to join again than the sender has taken, and receives only what comes after that.
        listener.write_line("at 200");
        let started = Instant::now();
        while !has_output(&listener) {
            assert!(started.elapsed() < PATIENCE, "it never joins again, with room for {room}");
            assert_eq!(ask(&mut sender, "burst 1"), "sent");
        }
        let sum = sum(&listener.line());
        assert!(sum.gaps <= 1, "{sum:?} with room for {room}");
        assert_eq!(sum.disorder, 0, "{sum:?} with room for {room}");
    }
}
