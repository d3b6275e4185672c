//! What `listen` does with messages besides printing one channel: several channels, formats, commands for each message, and a command when
//! it is ready.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, Process, program};
use broadcaster_tests::listening::{Listening, flood};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use system_broadcaster::{Reply, Selector, Sender};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `listen news` with these arguments to its end. Its commands find `broadcasterd` as `$B`.
fn listen(bus: &Bus, arguments: &[&str]) -> Output {
    listen_on(bus, &["news"], arguments)
}

/// [`listen`] on these channels.
fn listen_on(bus: &Bus, channels: &[&str], arguments: &[&str]) -> Output {
    let mut command = bus.command(program(), &[&["listen"], channels, arguments].concat());
    command.env("B", program()).stdin(Stdio::null()).stderr(Stdio::piped());
    command.output().expect("it ends")
}

/// The lines of its diagnostics after `listening on news`.
fn diagnostics(output: &Output) -> Vec<String> {
    let stderr = text(&output.stderr);
    let mut lines = stderr.lines().map(str::to_owned);
    assert_eq!(lines.next().as_deref(), Some("listening on news"), "{stderr}");
    lines.collect()
}

fn line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).expect("text");
    line.trim_end().to_owned()
}

fn rest(mut output: impl Read) -> String {
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    rest
}

fn sender(bus: &Bus) -> Sender {
    bus.options().sender("news").expect("connected")
}

/// A named pipe in the directory of the bus.
fn pipe(bus: &Bus, name: &str) -> PathBuf {
    let path = bus.directory().join(name);
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    path
}

/// Lets a command go on that reads this pipe.
fn release(pipe: &Path) {
    drop(File::options().write(true).open(pipe).expect("the command reads it"));
}

#[test]
fn command_gets_the_payload_and_the_facts_of_each_message_in_order() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let script =
        "echo \"$(cat) $BROADCASTER_CHANNEL $BROADCASTER_SENDER $BROADCASTER_SENDER_PID $BROADCASTER_SEQUENCE $1\"";
    let mut listening =
        Listening::start(&bus, &["-n", "2", "--exec", "sh", "-c", script, "-", "--json"], Stdio::piped());
    let mut sender = sender(&bus);
    sender.send(b"one").expect("sent");
    sender.send(b"two").expect("sent");
    let (id, pid) = (sender.id().to_string(), std::process::id());
    let wanted = format!("one news {id} {pid} 0 --json\ntwo news {id} {pid} 1 --json\n");
    assert_eq!(rest(listening.output()), wanted, "everything after --exec is the command's");
    let (status, stderr) = listening.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn command_inherits_no_socket_and_leads_a_process_group() {
    let bus = Bus::new();
    let script = "for f in /proc/$$/fd/*; do readlink $f; done; cut -d ' ' -f 5 /proc/$$/stat; echo $$";
    let output = listen(&bus, &["-n", "1", "--ready-exec", "\"$B\" send news x", "--exec", "sh", "-c", script]);
    let stdout = text(&output.stdout);
    let lines: Vec<&str> = stdout.lines().map(str::trim).collect();
    assert!(lines.iter().filter(|line| line.starts_with("pipe:")).count() >= 3, "its standard streams: {stdout}");
    let ours = |line: &&str| line.starts_with("socket:") || line.starts_with("anon_inode:");
    assert_eq!(lines.iter().find(|line| ours(line)), None, "{stdout}");
    assert_eq!(lines[lines.len() - 2], lines[lines.len() - 1]);
}

#[test]
fn failed_command_is_reported_and_the_next_one_runs() {
    let bus = Bus::new();
    let send = "printf '%s\\n' 'exit 3' 'kill -9 $$' 'echo done' | \"$B\" send news --lines";
    let output = listen(&bus, &["-n", "3", "--ready-exec", send, "--exec", "sh"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(8), "done\n"));
    let lines = diagnostics(&output);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (number, (line, status)) in lines.iter().zip(["exit status: 3", "signal: 9 (SIGKILL)"]).enumerate() {
        assert!(line.starts_with(&format!("broadcasterd: the command for message {number} of sender ")), "{line}");
        assert!(line.ends_with(&format!(" on news failed: {status}")), "{line}");
    }

    let output = listen(&bus, &["-n", "3", "--exit-on-failure", "--ready-exec", send, "--exec", "sh"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(8), ""));
    assert_eq!(diagnostics(&output).len(), 1, "{}", text(&output.stderr));
}

#[test]
fn failed_command_ends_a_listener_that_waits_for_messages_if_requested() {
    let bus = Bus::new();
    for arguments in [
        ["--ready-exec", "\"$B\" send news 'exit 3'", "--jobs", "2", "--exec", "sh"].as_slice(),
        &["--ready-exec", "exit 3"],
    ] {
        let output = listen(&bus, &[&["--exit-on-failure"], arguments].concat());
        assert_eq!((output.status.code(), diagnostics(&output).len()), (Some(8), 1), "{}", text(&output.stderr));
    }
}

#[test]
fn command_that_cannot_run_ends_the_listener() {
    let bus = Bus::new();
    for (words, remedy) in [
        (["no-such-program"].as_slice(), "there is no program \"no-such-program\"; name one in PATH, or its path\n"),
        (&["/no/such", "x"], "there is no program \"/no/such\"; name one in PATH, or its path\n"),
        (&["echo hello"], "there is no program \"echo hello\"; pass its arguments as separate words, or run sh -c\n"),
    ] {
        let output = listen(&bus, &[&["--exec"], words].concat());
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(8), format!("broadcasterd: {remedy}")));
    }
    assert!(!bus.socket().exists(), "it has started no daemon");

    let file = bus.directory().join("data");
    File::create(&file).expect("made");
    let file = file.to_str().expect("text");
    let output = listen(&bus, &["--ready-exec", "\"$B\" send news x", "--exec", file]);
    let wanted = format!("broadcasterd: cannot run {file:?}: Permission denied (os error 13)");
    assert_eq!((output.status.code(), diagnostics(&output)), (Some(8), vec![wanted]));
}

#[test]
fn command_need_not_read_its_input() {
    let bus = Bus::new();
    let large = bus.directory().join("large");
    std::fs::write(&large, vec![b'x'; 1 << 20]).expect("written");
    let send = format!("\"$B\" send news --file {}", large.display());
    let output = listen(&bus, &["-n", "1", "--ready-exec", &send, "--exec", "true"]);
    assert!(output.status.success() && diagnostics(&output).is_empty(), "{}", text(&output.stderr));

    // Nor a process that it leaves behind with its input.
    let leave = "sleep 1000 <&0 >&- 2>&- & echo $!";
    let output = listen(&bus, &["-n", "1", "--ready-exec", &send, "--exec", "sh", "-c", leave]);
    let left = text(&output.stdout).trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(left, Signal::KILL).expect("it lives on");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn as_many_commands_run_as_requested() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let script = "echo start $BROADCASTER_SEQUENCE; cat \"$0/$BROADCASTER_SEQUENCE\"; echo end $BROADCASTER_SEQUENCE";
    let directory = bus.directory().to_str().expect("text");
    for jobs in [1, 2] {
        let pipes = ["0", "1", "2"].map(|name| pipe(&bus, name));
        let options = ["-n", "3", "--jobs", &jobs.to_string(), "--exec", "sh", "-c", script, directory];
        let mut listening = Listening::start(&bus, &options, Stdio::piped());
        let mut sender = sender(&bus);
        (0..3).for_each(|_| sender.send(b"x").expect("sent"));
        let mut output = listening.output();
        let mut started: Vec<String> = (0..jobs).map(|_| line(&mut output)).collect();
        started.sort();
        assert_eq!(started, ["start 0", "start 1"][..jobs]);
        for (ended, pipe) in pipes.iter().enumerate() {
            release(pipe);
            assert_eq!(line(&mut output), format!("end {ended}"), "with {jobs} jobs");
            if ended + jobs < 3 {
                assert_eq!(line(&mut output), format!("start {}", ended + jobs));
            }
        }
        assert!(listening.end().0.success());
        pipes.iter().for_each(|pipe| std::fs::remove_file(pipe).expect("removed"));
    }
}

#[test]
fn signal_ends_the_commands_and_what_they_have_started() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let mut sender = sender(&bus);
    for (name, signal) in [("TERM", Signal::TERM), ("INT", Signal::INT), ("HUP", Signal::HUP)] {
        let script = format!("trap 'echo asked; exit 1' {name}; sh -c 'echo started; exec sleep 1000'; exit 2");
        let options = ["--jobs", "2", "--ready-exec", "sleep 1000", "--exec", "sh", "-c", &script];
        let mut listening = Listening::start(&bus, &options, Stdio::piped());
        let mut output = listening.output();
        for _ in 0..2 {
            sender.send(b"x").expect("sent");
            assert_eq!(line(&mut output), "started");
        }
        listening.signal(signal);
        // Its output and its diagnostics end with the last process that holds them.
        assert_eq!(rest(output), "asked\nasked\n");
        let (status, stderr) = listening.end();
        assert_eq!(status.signal(), Some(signal.as_raw()));
        assert!(!stderr.contains("failed"), "a command that was asked to end has not failed: {stderr}");
    }
}

#[test]
fn second_signal_kills_commands_that_stay() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let script = "trap 'echo asked' TERM; echo started; while :; do sleep 1000 & wait; done";
    let mut listening = Listening::start(&bus, &["--exec", "sh", "-c", script], Stdio::piped());
    sender(&bus).send(b"x").expect("sent");
    let mut output = listening.output();
    assert_eq!(line(&mut output), "started");
    listening.signal(Signal::TERM);
    assert_eq!(line(&mut output), "asked");
    listening.signal(Signal::TERM);
    assert_eq!(rest(output), "");
    assert_eq!(listening.end().0.signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn loss_is_reported_while_a_command_runs() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let pipe = pipe(&bus, "go");
    let (path, script) = (pipe.to_str().expect("text"), "[ $BROADCASTER_SEQUENCE != 0 ] || cat \"$0\"");
    let options = ["-n", "2", "--exec", "sh", "-c", script, path];
    let mut listening = Listening::start(&bus, &options, Stdio::null());
    flood(&bus);
    let report = listening.line();
    assert!(report.contains(" messages were lost; its commands are too slow: run more with --jobs"), "{report}");
    release(&pipe);
    let (status, stderr) = listening.end();
    assert!(status.success(), "{stderr}");
}

#[test]
fn ready_command_runs_once_after_the_subscription_and_prints_to_stderr() {
    let bus = Bus::new();
    // The message would be lost if it was sent before.
    let output = listen(&bus, &["-n", "1", "--ready-exec", "\"$B\" send news hello; echo ready; exit 3"]);
    assert_eq!(text(&output.stdout), "hello\n");
    assert_eq!(output.status.code(), Some(8), "{}", text(&output.stderr));
    let wanted = ["ready", "broadcasterd: the command of --ready-exec failed: exit status: 3"];
    assert_eq!(diagnostics(&output), wanted);
}

#[test]
fn commands_use_the_bus_of_the_listener() {
    let (bus, other) = (Bus::new(), Bus::new());
    let mut command = other.command(program(), &["listen", "news", "--socket"]);
    command.arg(bus.socket()).args(["-n", "1", "--ready-exec", "\"$B\" send news x"]);
    command.args(["--exec", "sh", "-c", "echo $BROADCASTER_SOCKET"]);
    let output = command.env("B", program()).stderr(Stdio::piped()).output().expect("it ends");
    assert_eq!(text(&output.stdout), format!("{}\n", bus.socket().display()), "{}", text(&output.stderr));
}

#[test]
fn formats_print_what_they_promise() {
    let bus = Bus::new();
    let format = r"{channel}\t{{{payload}}} {sequence} {size}\\\0";
    for (arguments, wanted) in [
        (["--print0"].as_slice(), "a\tb\0c\0"),
        (&["--format", format], "news\t{a\tb} 0 3\\\0news\t{c} 1 1\\\0"),
        (&["--format", ""], ""),
    ] {
        let send = "printf 'a\\tb\\nc\\n' | \"$B\" send news --lines";
        let output = listen(&bus, &[&["-n", "2", "--ready-exec", send], arguments].concat());
        assert_eq!((text(&output.stdout).as_str(), output.status.code()), (wanted, Some(0)), "{arguments:?}");
    }

    let send = "\"$B\" send news hello";
    let output = listen(&bus, &["-n", "1", "--ready-exec", send, "--format", "{time} {sender} {pid}"]);
    let stdout = text(&output.stdout);
    let [time, sender, pid] = stdout.split(' ').collect::<Vec<_>>()[..] else { panic!("{stdout}") };
    assert_eq!(sender.split_once('.').map(|(pid, _)| pid), Some(pid), "{stdout}");
    assert_eq!(time.len(), "2026-11-21T22:59:41.479084+00:00".len(), "{stdout}");

    let output = listen(&bus, &["-n", "1", "--ready-exec", send, "--json"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&object["size"], &object["payload"], &object["channel"]), (&5.into(), &"hello".into(), &"news".into()));
    assert_eq!(object["time"].as_str().map(str::len), Some(time.len()), "{object}");
}

#[test]
fn channel_precedes_the_payload_if_there_may_be_several() {
    let bus = Bus::new();
    let send = "for it in news com.a com.a.b com.b 'com.*'; do \"$B\" send $it \"to $it\"; done; \"$B\" send news end";
    let (one, many) = ("to news\nend\n", "news\tto news\ncom.a\tto com.a\ncom.b\tto com.b\n");
    for (channels, arguments, wanted) in [
        (["news"].as_slice(), ["-n", "2"].as_slice(), one),
        (&["news", "news"], &["-n", "2"], one),
        (&["news", "com.*"], &["-n", "3"], many),
        (&["com.a.**", "com.*", "news"], &["-n", "1", "--hex"], "news\t746f206e657773\n"),
        (&["com.a", "news"], &["-n", "2", "--print0"], "news\tto news\0com.a\tto com.a\0"),
        (&["com.a", "com.b"], &["-n", "2", "--raw"], "to com.ato com.b"),
        (&["com.**"], &["-n", "4", "--format", "{channel} "], "com.a com.a.b com.b com.* "),
        (&["com.*", "--literal"], &["-n", "1"], "to com.*\n"),
    ] {
        let output = listen_on(&bus, channels, &[arguments, &["--ready-exec", send]].concat());
        assert_eq!(text(&output.stdout), wanted, "{channels:?} {arguments:?}: {}", text(&output.stderr));
    }
    let output = listen_on(&bus, &["news", "com.*"], &["-n", "1", "--ready-exec", send]);
    assert!(text(&output.stderr).starts_with("listening on news, com.*\n"), "{}", text(&output.stderr));
}

#[test]
fn mistake_in_a_pattern_is_not_taken_for_a_name() {
    let bus = Bus::new();
    for pattern in ["com.ex*", "com.**.x", "com./.*"] {
        let output = listen_on(&bus, &[pattern], &[]);
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(
            stderr.contains("pattern") && stderr.contains("; with --literal, it is the name of a channel"),
            "{stderr}"
        );
    }
    assert!(!bus.socket().exists(), "it has started no daemon");
}

#[test]
fn options_that_make_no_sense_together_are_refused() {
    let bus = Bus::new();
    for (arguments, wanted) in [
        (["--format", "{size} {sise}"].as_slice(), "the field {sise} is unknown; the fields are {channel} {payload} "),
        (&["--format", r"\q"], r"the escape \q is unknown; the escapes are \n \t \0 \\"),
        (&["--json", "--print0"], "cannot be used with"),
        (&["--json", "--exec", "cat"], "cannot be used with"),
        (&["--jobs", "0", "--exec", "cat"], "0 is not in 1..=256"),
        (&["--jobs", "257", "--exec", "cat"], "257 is not in 1..=256"),
        (&["--jobs", "2"], "--exec"),
        (&["--jobs", "2", "--json"], "cannot be used with"),
        (&["--exit-on-failure"], "--ready-exec"),
        (&["--exit-on-failure", "--json"], "--ready-exec"),
        (&["--exec"], "a value is required"),
    ] {
        let output = listen(&bus, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(wanted), "{arguments:?}: {}", text(&output.stderr));
    }
    assert!(!bus.socket().exists(), "none has started a daemon");
}

#[test]
fn presence_shows_listeners_as_they_join_and_leave() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let hostile = bus.options().purpose("a\tb\u{1b}[2J\u{202e}").listener("news").expect("joined");
    let mut watching = Process::spawn(bus.command(program(), &["presence", "news"]).stderr(Stdio::piped()));
    watching.expect_error_line("watching news");
    let pid = std::process::id();
    let line = |did, purpose| format!("{did:<6}  {pid:>7}  {purpose}");
    let escaped = r"a\u{9}b\u{1b}[2J\u{202e}";
    assert_eq!(watching.line(), line("joined", escaped));
    let pattern = [Selector::pattern("*").expect("a pattern")];
    let other = bus.options().purpose("the editor").listener_on(pattern).expect("joined");
    assert_eq!(watching.line(), line("joined", "the editor"));

    let once = bus.run(&["presence", "news", "--once"]);
    let stdout = text(&once.stdout);
    let mut lines: Vec<&str> = stdout.lines().collect();
    lines.sort();
    assert_eq!(lines, [line("joined", escaped), line("joined", "the editor")]);
    drop(hostile);
    assert_eq!(watching.line(), line("left", escaped));
    watching.kill();

    let output = bus.run(&["presence", "news", "--json", "-n", "1"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&object["event"], &object["channel"], &object["pid"]), (&"joined".into(), &"news".into(), &pid.into()));
    assert_eq!(object["purpose"], "the editor");
    drop(other);
    let output = bus.run(&["presence", "none", "--timeout", "0.5"]);
    let wanted = "watching none\nbroadcasterd: no listener has joined or left within 500ms\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(3), wanted));
    assert_eq!(bus.run(&["presence", "none", "--once"]).status.code(), Some(0));
}

#[test]
fn request_prints_replies_and_its_exit_code_states_what_is_missing() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let output = bus.run(&["request", "news", "?"]);
    let wanted = "broadcasterd: no listener took the request\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(9), wanted));

    let repliers = ["one", "two"].map(|name| {
        let mut listener = bus.options().listener("news").expect("joined");
        let closer = listener.closer().expect("a closer");
        let replying = std::thread::spawn(move || {
            while let Ok(message) = listener.recv() {
                let reply = [message.payload(), b" ", name.as_bytes()].concat();
                listener.reply(&message, &reply).expect("replied");
            }
        });
        (closer, replying)
    });
    let output = bus.run(&["request", "news", "hi", "--all"]);
    let stdout = text(&output.stdout);
    let mut lines: Vec<&str> = stdout.lines().collect();
    lines.sort();
    assert_eq!((output.status.code(), lines.as_slice()), (Some(0), &["hi one", "hi two"][..]));
    let output = bus.run(&["request", "news", "hi"]);
    assert_eq!((output.status.code(), text(&output.stdout).lines().count()), (Some(0), 1), "the first one");
    let output = bus.run(&["request", "news", "hi", "-n", "2", "--json"]);
    for line in text(&output.stdout).lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&object["pid"], &object["size"]), (&std::process::id().into(), &6.into()));
    }
    let output = bus.run(&["request", "news", "hi", "-n", "3"]);
    let wanted = "broadcasterd: 2 of 3 replies: the message had 2 listeners\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(9), wanted));

    let _silent = bus.options().listener("news").expect("joined");
    let output = bus.run(&["request", "news", "hi", "-n", "3", "--timeout", "1"]);
    let wanted = "broadcasterd: 2 of 3 replies within 1s\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(3), wanted));
    for (closer, replying) in repliers {
        closer.close();
        replying.join().expect("ended");
    }
}

#[test]
fn time_of_a_command_includes_the_time_to_connect() {
    let bus = Bus::new();
    let daemon = bus.start();
    let began = Instant::now();
    let arguments = ["send", "news", "hi", "--wait-for", "1", "--timeout", "0.5"];
    let output = bus.run(&arguments);
    let wanted = "broadcasterd: the channel has had fewer than 1 listener for 500ms: nothing was sent\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(3), wanted));
    daemon.signal(Signal::STOP);
    for arguments in [["request", "news", "hi", "--timeout", "0.1"].as_slice(), &arguments] {
        let output = bus.run(arguments);
        assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    }
    daemon.signal(Signal::CONT);
    assert!(began.elapsed() < Duration::from_secs(5), "less than one default timeout: {:?}", began.elapsed());
}

#[test]
fn send_keeps_the_rate_and_holds_no_line_back() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let began = Instant::now();
    let mut sending = Process::spawn(&mut bus.command(program(), &["send", "news", "--lines", "--rate", "50"]));
    (0..11).for_each(|_| sending.write_line("x"));
    assert_eq!(sending.wait(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(200), "10 intervals of 20 ms: {:?}", began.elapsed());

    // The first line arrives although the second one has to wait for 1000 s.
    let mut listener = bus.options().listener("news").expect("joined");
    let mut sending = Process::spawn(&mut bus.command(program(), &["send", "news", "--lines", "--rate", "0.001"]));
    sending.write_line("one\ntwo");
    assert_eq!(listener.recv().expect("received").payload(), b"one");
    sending.kill();

    for (arguments, wanted) in [
        (["--lines", "--rate", "0"].as_slice(), "a number of messages per second, from 0.000001 to 1000000; try 100"),
        (&["x", "--rate", "5"], "cannot be used with"),
        (&["--file", "x", "--rate", "5"], "cannot be used with"),
        (&["--rate", "5"], "--lines"),
    ] {
        let output = bus.run(&[&["send", "news"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(wanted), "{}", text(&output.stderr));
    }
}

/// Long enough for any command of these tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// The header of a reply, as text.
fn header(reply: &Reply, key: &str) -> Option<String> {
    reply.metadata().header(key).map(text)
}

#[test]
fn output_of_a_command_is_the_reply_to_a_request() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let script = "printf \"<$(cat)>$BROADCASTER_REQUEST\"; echo seen >&2";
    let mut listening = Listening::start(&bus, &["-n", "4", "--exec", "sh", "-c", script], Stdio::piped());
    let mut sender = sender(&bus);
    for payload in ["one", "two"] {
        let reply = sender.request_one(payload.as_bytes(), PATIENCE).expect("replied");
        assert_eq!((text(reply.payload()), reply.metadata().is_empty()), (format!("<{payload}>1"), true));
        assert_eq!(listening.line(), "seen");
    }
    sender.send(b"three").expect("sent");
    let output = bus.run(&["request", "news", "four"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "<four>1\n"));
    assert_eq!(rest(listening.output()), "<three>", "an ordinary message has no reply");
    assert_eq!((listening.end().0.code(), sender.late_replies()), (Some(0), 0));
}

#[test]
fn replies_of_several_commands_are_sent_as_they_end() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let pipes = ["0", "1", "2"].map(|name| pipe(&bus, name));
    let script = "name=$(cat); echo start; cat \"$0/$name\"; echo end $name";
    let directory = bus.directory().to_str().expect("text");
    let options = ["--jobs", "3", "--exec", "sh", "-c", script, directory];
    let mut listening = Listening::start(&bus, &options, Stdio::piped());
    let requests = ["0", "1", "2"].map(|name| {
        let mut sender = sender(&bus);
        std::thread::spawn(move || sender.request_one(name.as_bytes(), PATIENCE).expect("replied").into_payload())
    });
    // The last one replies first: while two commands run, the listener waits for a message.
    for (request, (name, pipe)) in requests.into_iter().zip(["0", "1", "2"].iter().zip(&pipes)).rev() {
        release(pipe);
        assert_eq!(request.join().expect("ended"), format!("start\nend {name}\n"));
    }
    listening.signal(Signal::TERM);
    assert_eq!((rest(listening.output()), listening.end().1), (String::new(), String::new()));
}

#[test]
fn reply_of_a_failed_command_states_its_exit_status() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let options = ["-n", "3", "--exec", "sh"];
    let listening = Listening::start(&bus, &options, Stdio::piped());
    let mut sender = sender(&bus);
    for (script, error, status) in
        [("echo part; exit 3", "exit status: 3", "3"), ("echo part; kill -9 $$", "signal: 9 (SIGKILL)", "137")]
    {
        let reply = sender.request_one(script.as_bytes(), PATIENCE).expect("replied");
        let wanted = (Some(error.to_owned()), Some(status.to_owned()));
        assert_eq!((header(&reply, "error"), header(&reply, "exit-status")), wanted);
        assert_eq!(reply.payload(), b"part\n");
    }
    let output = bus.run(&["request", "news", "echo part; exit 4", "--json"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&object["exit_status"], &object["error"]), (&4.into(), &"exit status: 4".into()));
    let (status, stderr) = listening.end();
    assert_eq!((status.code(), stderr.lines().count()), (Some(8), 3), "{stderr}");
    let stderr = text(&output.stderr);
    assert!(
        stderr.starts_with("broadcasterd: process ") && stderr.ends_with(" has failed: exit status: 4\n"),
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(8));
}

#[test]
fn failure_that_ends_the_listener_is_replied_too() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let options = ["--exit-on-failure", "--jobs", "2", "--exec", "sh"];
    let listening = Listening::start(&bus, &options, Stdio::piped());
    let reply = sender(&bus).request_one(b"echo part; exit 3", PATIENCE).expect("replied");
    assert_eq!((reply.payload(), header(&reply, "exit-status").as_deref()), (&b"part\n"[..], Some("3")));
    assert_eq!(listening.end().0.code(), Some(8));
}

#[test]
fn output_that_is_larger_than_a_reply_is_a_failure() {
    let bus = Bus::new();
    std::fs::create_dir_all(bus.config_home().join("broadcaster")).expect("made");
    let settings = bus.config_home().join("broadcaster/broadcasterd.toml");
    std::fs::write(settings, "[limits]\npayload_bytes_max = \"1 MiB\"\n").expect("written");
    let _daemon = bus.start();
    let listening = Listening::start(&bus, &["-n", "4", "--exec", "sh"], Stdio::piped());
    let mut sender = sender(&bus);
    let reply = sender.request_one(b"head -c 1048576 /dev/zero", PATIENCE).expect("replied");
    assert_eq!((reply.payload().len(), reply.metadata().is_empty()), (1 << 20, true), "the most that is possible");
    for (script, max, status) in [
        ("head -c 1048577 /dev/zero", 1 << 20, None),
        ("yes", 64 << 20, Some("141")),
        ("yes; exit 3", 64 << 20, Some("3")),
    ] {
        let reply = sender.request_one(script.as_bytes(), PATIENCE).expect("replied");
        let error = format!("its output has more than {max} bytes, the most that a reply can have");
        assert_eq!(
            (header(&reply, "error"), header(&reply, "exit-status").as_deref()),
            (Some(error), status),
            "{script}"
        );
        assert!(reply.payload().is_empty());
    }
    let (status, stderr) = listening.end();
    assert_eq!((status.code(), stderr.lines().count()), (Some(8), 3), "{stderr}");
    assert!(stderr.lines().all(|line| line.contains(" failed: its output has more than ")), "{stderr}");
}

#[test]
fn requester_that_is_gone_disturbs_no_command() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let pipe = pipe(&bus, "go");
    let script = format!("read line; [ $line = now ] || cat {}; echo $line", pipe.display());
    let mut listening = Listening::start(&bus, &["-n", "4", "--exec", "sh", "-c", &script], Stdio::piped());
    let (mut gone, mut impatient) = (sender(&bus), sender(&bus));
    drop(gone.request(b"late\n", PATIENCE).expect("taken"));
    drop(gone);
    release(&pipe);
    assert_eq!(impatient.request_one(b"now\n", PATIENCE).expect("replied").payload(), b"now\n");
    drop(impatient.request(b"late\n", PATIENCE).expect("taken"));
    release(&pipe);
    assert_eq!(impatient.request_one(b"now\n", PATIENCE).expect("replied").payload(), b"now\n");
    assert_eq!(impatient.late_replies(), 1);
    assert_eq!(rest(listening.output()), "");
    let (status, stderr) = listening.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn reply_does_not_wait_for_a_process_that_a_command_leaves_behind() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let listening = Listening::start(&bus, &["-n", "1", "--exec", "sh"], Stdio::piped());
    let reply = sender(&bus).request_one(b"sleep 1000 2>&- & echo $!", PATIENCE).expect("replied");
    let left = text(reply.payload()).trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(left, Signal::KILL).expect("it lives on");
    assert!(listening.end().0.success());
}

#[test]
fn command_that_a_signal_ends_has_replied() {
    let bus = Bus::new();
    let _daemon = bus.start();
    let script = "trap 'kill $!; echo asked; exit 1' TERM; sleep 1000 2>/dev/null & echo started >&2; wait";
    for jobs in ["1", "2"] {
        let mut listening = Listening::start(&bus, &["--jobs", jobs, "--exec", "sh", "-c", script], Stdio::null());
        let mut sender = sender(&bus);
        let request = std::thread::spawn(move || sender.request_one(b"x", PATIENCE));
        assert_eq!(listening.line(), "started");
        listening.signal(Signal::TERM);
        let reply = request.join().expect("ended").expect("replied");
        assert_eq!((reply.payload(), header(&reply, "exit-status").as_deref()), (&b"asked\n"[..], Some("1")));
        assert_eq!(listening.end().0.signal(), Some(Signal::TERM.as_raw()));
    }
}
