//! `broadcasterd top` as a process: without a terminal, on a terminal of its own, and how it restores it. What it draws is tested
//! where it is drawn.

#![cfg(unix)]

use broadcaster_tests::daemon::{Bus, program};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A pseudoterminal whose output arrives as chunks of bytes.
struct Tty {
    ours: File,
    theirs: File,
    drawn: Receiver<Vec<u8>>,
}

impl Tty {
    fn open() -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudoterminal");
        grantpt(&ours).expect("a pseudoterminal");
        unlockpt(&ours).expect("a pseudoterminal");
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).expect("a pseudoterminal");
        let name = ptsname(&ours, Vec::new()).expect("a pseudoterminal has a name");
        let path = OsStr::from_bytes(name.to_bytes());
        let foreign = i32::try_from(OpenptFlags::NOCTTY.bits()).expect("a flag");
        let theirs = File::options().read(true).write(true).custom_flags(foreign).open(path);
        let theirs = theirs.expect("a pseudoterminal");
        let ours = File::from(ours);
        let mut reader = ours.try_clone().expect("a descriptor");
        let (chunks, drawn) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Reading fails once the other side is closed.
            while let Ok(len) = reader.read(&mut chunk) {
                if len == 0 || chunks.send(chunk[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { ours, theirs, drawn }
    }

    /// Starts `top` on this terminal and waits for its first screen.
    fn watch(&self, bus: &Bus) -> Top {
        let mut command = bus.command(program(), &["top", "--interval", "100ms"]);
        let theirs = || Stdio::from(self.theirs.try_clone().expect("a descriptor"));
        // Keys are read from the terminal; diagnostics are irrelevant here.
        command.stdin(theirs()).stdout(theirs()).stderr(Stdio::null());
        let top = Top(command.spawn().expect("top starts"));
        let mut drawn = Vec::new();
        while !String::from_utf8_lossy(&drawn).contains("connecting") {
            drawn.extend(self.drawn.recv().expect("top draws"));
        }
        assert!(String::from_utf8_lossy(&drawn).contains(ENTER), "top draws on a screen of its own");
        top
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.theirs).expect("a terminal has modes")
    }

    /// Everything drawn until the terminal is closed.
    fn rest(self) -> String {
        let Self { theirs, drawn, ours: _ours } = self;
        drop(theirs);
        String::from_utf8_lossy(&drawn.iter().flatten().collect::<Vec<u8>>()).into_owned()
    }
}

/// The process, killed when dropped.
struct Top(Child);

impl Top {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("top runs");
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Escape sequences: enter and leave the alternate screen, show the cursor.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const SHOW: &str = "\u{1b}[?25h";

/// Ends `top` with `end` and asserts that the terminal is restored.
fn restores(end: impl FnOnce(&mut Tty, &Top)) {
    let bus = Bus::new();
    let mut tty = Tty::open();
    let before = tty.modes();
    let mut top = tty.watch(&bus);
    assert_ne!(tty.modes().local_modes, before.local_modes, "top reads single keys");
    end(&mut tty, &top);
    assert!(top.0.wait().expect("a child").success());
    let after = tty.modes();
    assert_eq!(
        (after.local_modes, after.input_modes, after.output_modes),
        (before.local_modes, before.input_modes, before.output_modes)
    );
    let rest = tty.rest();
    let left = rest.rfind(LEAVE).expect("top leaves its screen");
    assert!(rest[left..].contains(SHOW), "the cursor is shown: {rest:?}");
    assert!(!bus.socket().exists(), "top started a daemon");
}

#[test]
fn terminal_is_restored_after_a_key() {
    for key in [&b"q"[..], b"\x03"] {
        restores(|tty, _| tty.ours.write_all(key).expect("a key is pressed"));
    }
}

#[test]
fn terminal_is_restored_after_a_signal() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        restores(|_, top| top.signal(signal));
    }
}

#[test]
fn error_without_a_terminal_names_the_alternative() {
    let bus = Bus::new();
    let output = bus.run(&["top"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(stderr.contains("top --once"), "{stderr:?}");
}

#[test]
fn once_prints_a_screen_and_starts_no_daemon() {
    let bus = Bus::new();
    let once = ["top", "--once", "--interval", "100ms", "--size", "80x24"];
    let output = bus.run(&once);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(4), 0));
    assert!(!bus.socket().exists());

    let daemon = bus.start();
    let output = bus.run(&once);
    let screen = String::from_utf8_lossy(&output.stdout);
    assert_eq!((output.status.code(), screen.lines().count()), (Some(0), 24), "{screen}");
    assert!(screen.contains(&format!("process {}", daemon.pid())), "{screen}");
    assert!(screen.contains("no slow listeners"), "{screen}");
}
