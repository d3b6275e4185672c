//! The command line as a process: what it reads, what it prints, and what it never writes to a terminal.

#![cfg(unix)]

use broadcaster_protocol::control::{Control, Open, Opened, Welcome};
use broadcaster_protocol::limits::PROTOCOL_MAX;
use broadcaster_protocol::{Decoder, Item};
use broadcaster_tests::daemon::{Bus, Process, program};
use broadcaster_tests::listening::{Listening, flood};
use bytes::{BufMut, BytesMut};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

/// What a hostile program sends: it clears the screen, in 7-bit and 8-bit notation, and reverses the direction of text.
const HOSTILE: &str = "a\x1b[2Jb\u{9b}2Jc\u{202e}d\re";

/// [`HOSTILE`] on a terminal.
const HARMLESS: &str = r"a\u{1b}[2Jb\u{9b}2Jc\u{202e}d\re";

/// A pseudoterminal: the side of the test, and the side of the command.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudoterminal");
    grantpt(&ours).expect("a pseudoterminal");
    unlockpt(&ours).expect("a pseudoterminal");
    let name = ptsname(&ours, Vec::new()).expect("a pseudoterminal has a name");
    let flags = i32::try_from(OpenptFlags::NOCTTY.bits()).expect("a flag");
    let path = OsStr::from_bytes(name.to_bytes());
    let theirs = File::options().read(true).write(true).custom_flags(flags).open(path).expect("a pseudoterminal");
    (File::from(ours), theirs)
}

/// A command that prints to a terminal, after its first line on stderr, and the side of the terminal to read.
fn on_terminal(bus: &Bus, arguments: &[&str]) -> (Child, File) {
    let (ours, theirs) = terminal();
    let mut command = bus.command(program(), arguments);
    let mut child = command.stdout(theirs).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut ready = [0];
    child.stderr.as_mut().expect("a pipe").read_exact(&mut ready).expect("its first line");
    (child, ours)
}

/// Everything that was printed, once the command has ended.
fn printed((mut child, mut ours): (Child, File)) -> String {
    assert!(child.wait().expect("it ends").success());
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    // Reading fails after the last byte, since no process has the other side open.
    while let Ok(len @ 1..) = ours.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..len]);
    }
    String::from_utf8(bytes).expect("text")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn send(bus: &Bus, message: &str) {
    assert!(bus.run(&["send", "news", message]).status.success());
}

#[test]
fn listen_escapes_on_a_terminal_unless_raw_is_requested() {
    let bus = Bus::new();
    let plain = on_terminal(&bus, &["listen", "news", "-n", "1", "-t", "60"]);
    let json = on_terminal(&bus, &["listen", "news", "-n", "1", "-t", "60", "--json"]);
    let raw = on_terminal(&bus, &["listen", "news", "-n", "1", "-t", "60", "--raw"]);
    send(&bus, HOSTILE);
    assert_eq!(printed(plain), format!("{HARMLESS}\r\n"));
    let json = printed(json);
    assert!(!json.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'), "{json:?}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).expect("JSON")["payload"], HOSTILE);
    assert_eq!(printed(raw), HOSTILE);
}

#[test]
fn invalid_variable_is_a_usage_error_of_every_command_that_connects() {
    let bus = Bus::new();
    for arguments in [["listen", "news"].as_slice(), &["send", "news", "x"], &["status"]] {
        let mut command = bus.command(program(), arguments);
        let output = command.env("BROADCASTER_SHARED_MEMORY", "off").stderr(Stdio::piped()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let wanted = "broadcasterd: BROADCASTER_SHARED_MEMORY must be 0 or 1, not \"off\"\n";
        assert_eq!(text(&output.stderr), wanted, "{arguments:?}");
    }
}

#[test]
fn listen_prints_exact_bytes_to_a_pipe() {
    let bus = Bus::new();
    let mut command = bus.command(program(), &["listen", "news", "-n", "1", "-t", "60"]);
    let mut listener = Process::spawn(command.stderr(Stdio::piped()));
    listener.expect_error_line("listening on news");
    send(&bus, HOSTILE);
    assert_eq!(listener.rest(), format!("{HOSTILE}\n"));
}

#[test]
fn monitor_writes_no_control_character_to_a_terminal() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let table = on_terminal(&bus, &["monitor", "-n", "1", "-t", "60", "--payload"]);
    let json = on_terminal(&bus, &["monitor", "-n", "1", "-t", "60", "--payload", "--json"]);
    send(&bus, HOSTILE);
    for screen in [printed(table), printed(json)] {
        let active = |c: char| (c.is_control() && c != '\r' && c != '\n') || c == '\u{202e}';
        assert!(screen.contains("news") && !screen.chars().any(active), "{screen:?}");
    }
}

#[test]
fn monitor_shows_the_time_with_its_zone() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut command = bus.command(program(), &["monitor", "-n", "1", "-t", "60"]);
    let mut monitor = Process::spawn(command.env("TZ", "UTC").stderr(Stdio::piped()));
    monitor.expect_error_line("");
    send(&bus, "x");
    let line = monitor.line();
    let time = line.split_whitespace().next().expect("a time");
    assert!(time.len() == "14:03:22.123+00:00".len() && time.ends_with("+00:00"), "{line}");
}

/// The number before ` messages`.
fn messages(line: &str) -> u64 {
    let (before, _) = line.split_once(" messages were lost").unwrap_or_else(|| panic!("no loss in {line:?}"));
    before.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no number in {line:?}"))
}

#[test]
fn listen_reports_a_loss_while_its_output_is_not_read_and_a_total_at_the_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let bus = Bus::new();
        let _daemon = bus.start();
        let mut listening = Listening::start(&bus, &[], Stdio::piped());
        flood(&bus);
        // Nothing reads its output: the loss is behind messages that are never printed.
        let line = listening.line();
        assert!(line.contains("read it faster, or choose what is dropped with --overflow"), "{line}");
        let reported = messages(&line);
        assert!(reported > 0);
        listening.signal(signal);
        let (status, total) = listening.end();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{total}");
        assert!(total.starts_with("broadcasterd: on news, in all, ") && messages(&total) >= reported, "{total}");
    }
}

#[test]
fn listen_that_has_lost_nothing_ends_by_a_signal_without_a_word() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let listening = Listening::start(&bus, &["--fail-on-loss"], Stdio::null());
    listening.signal(Signal::TERM);
    let (status, total) = listening.end();
    assert_eq!((status.signal(), total.as_str()), (Some(Signal::TERM.as_raw()), ""));
}

#[test]
fn listen_fails_on_loss_if_requested() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let listening = Listening::start(&bus, &["--fail-on-loss"], Stdio::null());
    listening.signal(Signal::STOP);
    flood(&bus);
    listening.signal(Signal::CONT);
    let (status, stderr) = listening.end();
    assert_eq!(status.code(), Some(7), "{stderr}");
    assert!(messages(stderr.lines().last().expect("a line")) > 0, "{stderr}");

    // A signal before the gap is read.
    let mut listening = Listening::start(&bus, &["--fail-on-loss"], Stdio::piped());
    flood(&bus);
    assert!(messages(&listening.line()) > 0);
    listening.signal(Signal::TERM);
    assert_eq!(listening.end().0.code(), Some(7));
}

#[test]
fn listen_reports_a_count_that_was_reached_across_a_gap() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let listening = Listening::start(&bus, &["--count", "200"], Stdio::null());
    listening.signal(Signal::STOP);
    flood(&bus);
    listening.signal(Signal::CONT);
    let (status, stderr) = listening.end();
    assert!(status.success(), "{stderr}");
    let total = stderr.lines().last().expect("a line");
    assert!(total.starts_with("broadcasterd: the 200 messages on news are not consecutive: in all, "), "{stderr}");
    assert!(messages(total) > 0);
}

#[test]
fn listen_that_asked_to_be_disconnected_fails_when_it_is_too_slow() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let listening = Listening::start(&bus, &["--overflow", "disconnect"], Stdio::null());
    listening.signal(Signal::STOP);
    flood(&bus);
    // The daemon waits for a second that the listener reads why, and then ends the connection without it.
    while bus.options().daemon().status().expect("it answers").connections > 1 {}
    listening.signal(Signal::CONT);
    let (status, stderr) = listening.end();
    assert_eq!(status.code(), Some(6), "{stderr}");
    assert!(stderr.contains("as --overflow disconnect requests"), "{stderr}");
}

#[test]
fn listen_waits_for_the_next_daemon_unless_asked_not_to() {
    let bus = Bus::new();
    let daemon = bus.start();
    let mut waits = Listening::start(&bus, &["--count", "1"], Stdio::piped());
    let fails = Listening::start(&bus, &["--no-retry"], Stdio::null());
    let gives_up = Listening::start(&bus, &["--timeout", "2"], Stdio::null());
    drop(daemon);
    let (status, stderr) = fails.end();
    assert_eq!((status.code(), stderr.lines().count()), (Some(5), 1), "{stderr}");
    assert_eq!(gives_up.end().0.code(), Some(3));
    let line = waits.line();
    assert!(
        line.starts_with("broadcasterd: no broadcaster daemon answers") && line.ends_with("; trying again"),
        "{line}"
    );
    let _next = bus.start();
    let line = waits.line();
    assert_eq!(
        line,
        "broadcasterd: listening on news: the daemon was replaced (messages sent in between, if any, are lost)"
    );
    send(&bus, "x");
    let mut stdout = String::new();
    waits.output().read_to_string(&mut stdout).expect("text");
    assert_eq!(stdout, "x\n");
    assert!(waits.end().0.success());
}

/// Runs `send` with `input` on stdin.
fn send_input(bus: &Bus, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = bus.command(program(), arguments).stderr(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends")
}

#[test]
fn send_reads_stdin_without_a_payload() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut listener = bus.options().listener("news").expect("joined");
    for arguments in [["send", "news"].as_slice(), &["send", "news", "-"]] {
        let output = send_input(&bus, arguments, b"two\nlines\n");
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(listener.recv().expect("received").payload(), b"two\nlines\n");
    }
}

#[test]
fn send_fails_while_a_suspended_daemon_confirms_nothing() {
    let bus = Bus::new();
    let daemon = bus.start();
    let arguments = ["send", "news", "--lines", "--timeout", "1", "--no-backpressure"];
    let mut command = bus.command(program(), &arguments);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    while bus.options().daemon().status().expect("it answers").senders == 0 {}
    daemon.signal(Signal::STOP);
    // The socket takes the line; the daemon does not.
    child.stdin.take().expect("a pipe").write_all(b"x\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.starts_with("broadcasterd: the daemon has not confirmed within 1s what was sent"), "{stderr}");
}

/// A daemon that takes the first message of a sender and dies.
fn die_with_a_message(bus: &Bus) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(bus.socket()).expect("bound");
    let socket = bus.socket();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepted");
        let (mut decoder, mut chunk) = (Decoder::consumer(1 << 20), BytesMut::new());
        loop {
            let answer = match decoder.next(&mut chunk).expect("frames") {
                Some(Item::Control(Control::Hello(hello))) => Control::Welcome(Welcome {
                    protocol: PROTOCOL_MAX,
                    capabilities: 0,
                    sender: u64::from(hello.sender_number),
                    payload_bytes_max: 1 << 20,
                    pid: 1,
                    version: "0.0.9".to_owned(),
                    extensions: Vec::new(),
                }),
                Some(Item::Control(Control::Open(Open { channel, .. }))) => {
                    Control::Opened(Opened { channel, id: 1, listeners: 0, extensions: Vec::new() })
                }
                Some(_) => break,
                None => {
                    let mut bytes = [0; 4096];
                    let read = stream.read(&mut bytes).expect("the sender is there");
                    assert!(read > 0, "the sender waits for the confirmation");
                    decoder.target(&mut chunk).put_slice(&bytes[..read]);
                    continue;
                }
            };
            let mut bytes = Vec::new();
            answer.encode(&mut bytes).expect("encoded");
            stream.write_all(&bytes).expect("the sender is there");
        }
        std::fs::remove_file(socket).expect("removed");
    })
}

#[test]
fn send_reports_what_a_dead_daemon_may_have_lost() {
    let one = "1 message may be lost: the connection to the daemon ended before it confirmed it\n";
    let bus = Bus::new();
    let file = bus.directory().join("message");
    std::fs::write(&file, "x").expect("written");
    let file = file.to_str().expect("text");
    for arguments in [["x"].as_slice(), &["--no-backpressure", "--file", file]] {
        let daemon = die_with_a_message(&bus);
        let output = bus.run(&[&["send", "news"], arguments].concat());
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(7), format!("broadcasterd: {one}")));
        daemon.join().expect("it has taken the message");
    }

    // Further lines go to the next daemon.
    let daemon = die_with_a_message(&bus);
    let mut command = bus.command(program(), &["send", "news", "--lines", "--no-backpressure"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    stdin.write_all(b"lost\n").expect("it reads");
    let mut line = String::new();
    stderr.read_line(&mut line).expect("text");
    assert_eq!(line, format!("broadcasterd: {}; continuing\n", one.trim_end()));
    daemon.join().expect("it has taken the message");
    let _next = bus.start();
    let mut listener = bus.options().listener("news").expect("joined");
    stdin.write_all(b"received\n").expect("it reads");
    assert_eq!(listener.recv().expect("received").payload(), b"received");
    drop(stdin);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("text");
    assert_eq!((child.wait().expect("it ends").code(), rest), (Some(7), format!("broadcasterd: {one}")));
}

#[test]
fn send_reports_the_limit_and_not_the_size_that_was_read() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let path = bus.directory().join("large");
    File::create(&path).expect("made").set_len((64 << 20) + 1000).expect("sparse");
    let output = bus.run(&["send", "news", "--file", path.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(2));
    let wanted = "broadcasterd: the file has more than 67108864 bytes, the largest message\n";
    assert_eq!(text(&output.stderr), wanted);
}

#[test]
fn daemon_that_cannot_start_is_one_sentence_with_one_prefix() {
    let bus = Bus::new();
    let directory = bus.config_home().join("broadcaster");
    std::fs::create_dir_all(&directory).expect("made");
    std::fs::write(directory.join("broadcasterd.toml"), "log = 3\n").expect("written");
    let output = bus.run(&["send", "news", "x"]);
    let stderr = text(&output.stderr);
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(5), 1), "{stderr}");
    assert!(stderr.contains("log = 3 is invalid") && stderr.matches("broadcasterd: ").count() == 1, "{stderr}");
}

#[test]
fn send_from_a_terminal_needs_a_payload() {
    let bus = Bus::new();
    let (_ours, theirs) = terminal();
    let output = bus.command(program(), &["send", "news"]).stdin(theirs).stderr(Stdio::piped()).output();
    let output = output.expect("it ends");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("there is no message to send"), "{}", text(&output.stderr));
    assert!(!bus.socket().exists(), "it has started no daemon");
}

#[test]
fn usage_of_send_can_be_followed() {
    let bus = Bus::new();
    let help = text(&bus.run(&["send", "--help"]).stdout);
    let usage = help.lines().find(|line| line.starts_with("Usage:")).expect("a usage");
    assert!(usage.ends_with("send [OPTIONS] <CHANNEL> [PAYLOAD]"), "{usage}");
}

#[test]
fn timeout_is_in_seconds_and_never_zero() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let output = bus.run(&["listen", "news", "--timeout", "0.05"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    for command in ["listen", "monitor", "send"] {
        let output = bus.run(&[command, "news", "--timeout", "0"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("omit --timeout"), "{}", text(&output.stderr));
    }
}

#[test]
fn second_daemon_names_the_first() {
    let bus = Bus::new();
    let daemon = bus.start();
    for command in ["run", "start"] {
        let output = bus.run(&[command]);
        assert!(output.status.success());
        assert_eq!(text(&output.stdout), format!("already running, process {}\n", daemon.pid()), "{command}");
    }
}

#[test]
fn stop_warns_about_a_listener_that_starts_the_daemon_again() {
    let bus = Bus::new();
    let mut daemon = bus.start();
    let listener = bus.options().listener("news").expect("joined");
    let output = bus.run(&["stop"]);
    assert_eq!(text(&output.stdout), format!("stopped the daemon, process {}\n", daemon.pid()));
    assert!(text(&output.stderr).contains("1 listener was connected"), "{}", text(&output.stderr));
    assert_eq!(daemon.wait(), Some(0));
    drop(listener);

    let _daemon = bus.start();
    let output = bus.run(&["stop"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn config_check_lists_every_mistake() {
    let bus = Bus::new();
    let file = bus.directory().join("broken.toml");
    std::fs::write(&file, "log = 3\nidle_exit = \"soon\"\n[limits]\nchannels_max = 0\nchanels_max = 7\n")
        .expect("written");
    let path = file.to_str().expect("text");
    let output = bus.run(&["config", "check", path]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    let places: Vec<String> = [1, 2, 4, 5].map(|line| format!("broadcasterd: {path}:{line}:")).to_vec();
    assert_eq!(stderr.lines().count(), 4, "{stderr}");
    assert!(stderr.lines().zip(&places).all(|(line, place)| line.starts_with(place)), "{stderr}");
    // A daemon reports the first mistake, and how to list them all.
    let output = bus.run(&["run", "--config", path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("and 3 more: `broadcasterd config check`"), "{}", text(&output.stderr));
}

#[test]
fn restart_with_invalid_settings_leaves_the_daemon_running() {
    let bus = Bus::new();
    let daemon = bus.start();
    let directory = bus.config_home().join("broadcaster");
    std::fs::create_dir_all(&directory).expect("made");
    std::fs::write(directory.join("broadcasterd.toml"), "log = 3\n").expect("written");
    let output = bus.run(&["restart"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert_eq!(bus.options().daemon().status().expect("it runs").pid, daemon.pid());
}

#[test]
fn completions_offer_open_channels_and_expand_nothing_in_their_names() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let hostile = "news$(touch expanded)";
    let _listeners = ["news.one", "other", hostile].map(|name| bus.options().listener(name).expect("joined"));
    let complete = "source <(\"$0\" completions bash); shift; COMP_WORDS=(\"$0\" \"$@\"); COMP_CWORD=$#; \
                    _broadcasterd_channels broadcasterd \"${!#}\" \"$0\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let offered = |words: &[&str]| {
        let program = program().to_str().expect("a path");
        let mut bash = bus.command("bash", &[&["-c", complete, program, "-"], words].concat());
        let output = bash.current_dir(bus.directory()).stderr(Stdio::piped()).output().expect("bash runs");
        text(&output.stdout)
    };
    let escaped = r"news\$\(touch\ expanded\)";
    assert_eq!(offered(&["listen", "new"]), format!("{escaped}\nnews.one\n"));
    assert_eq!(offered(&["monitor", "other", "o"]), "other\n");
    assert!(!bus.directory().join("expanded").exists());
}

#[test]
fn manual_pages_are_complete_and_formatted() {
    let bus = Bus::new();
    let output = bus.run(&["man", "--dir", bus.directory().to_str().expect("text")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let page = std::fs::read_to_string(bus.directory().join("broadcasterd-config-check.1")).expect("a page");
    for section in ["NAME", "SYNOPSIS", "EXAMPLES", "\"EXIT STATUS\"", "ENVIRONMENT", "\"SEE ALSO\""] {
        assert!(page.contains(&format!(".SH {section}\n")), "{section} is missing:\n{page}");
    }
    // Where man is installed, it formats the pages without a complaint.
    let page = bus.directory().join("broadcasterd-send.1");
    if let Ok(output) = Command::new("man").args(["--warnings=all", "-l"]).arg(page).output() {
        assert_eq!(text(&output.stderr), "");
    }
}
