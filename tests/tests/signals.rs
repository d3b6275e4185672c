//! Signals that the daemon's starter blocks or ignores: the daemon can be ended all the same.

#![cfg(target_os = "linux")]

use broadcaster_tests::daemon::{Bus, Process, program};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// SIGPIPE and SIGXFSZ, as in `/proc/PID/status`: the daemon handles the errors that these stand for.
const IGNORED: u64 = 1 << 12 | 1 << 24;

/// The signals below those that the C library keeps for itself, and lets no program change.
const CHANGEABLE: u64 = (1 << 31) - 1;

/// How long a daemon may take to stop.
const STOP: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// A command of `broadcasterd` that starts with the signals of an orderly stop blocked, others ignored, and a file size limit of zero.
fn in_hostile_surroundings(bus: &Bus, arguments: &[&str]) -> std::process::Command {
    let script = "ulimit -f 0 && exec \"$@\"";
    let ignored = "--ignore-signal=QUIT,USR1,USR2,ALRM,CHLD,TERM,WINCH,XFSZ";
    let env = ["--block-signal=TERM,INT,HUP", ignored, "sh", "-c", script, "sh", program().to_str().expect("a path")];
    bus.command("env", &[&env, arguments].concat())
}

/// The blocked and the ignored signals of a process.
fn signals_of(pid: u32) -> [u64; 2] {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("our process");
    ["SigBlk:\t", "SigIgn:\t"].map(|name| {
        let set = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        u64::from_str_radix(set, 16).expect("a set of signals") & CHANGEABLE
    })
}

#[test]
fn daemon_started_by_a_client_that_blocks_signals_ends_by_any_of_them() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let bus = Bus::new();
        assert!(in_hostile_surroundings(&bus, &["send", "news", "x"]).status().expect("it runs").success());
        let pid = bus.options().daemon().status().expect("it runs").pid;
        assert_eq!(signals_of(pid), [0, IGNORED]);
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("our process");
        kill_process(pid, signal).expect("our process");
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&STOP)).expect("polled");
        assert_eq!(ended, 1, "{signal:?} does not end it");
        assert!(!bus.socket().exists(), "the stop after {signal:?} was orderly");
    }
}

#[test]
fn daemon_in_the_foreground_ends_orderly_whatever_its_starter_blocks() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let bus = Bus::new();
        let mut daemon = Process::spawn(&mut in_hostile_surroundings(&bus, &["run", "--log", "warn"]));
        assert!(daemon.line().starts_with("listening on"));
        assert_eq!(signals_of(daemon.pid()), [0, IGNORED]);
        daemon.signal(signal);
        assert_eq!(daemon.wait(), Some(0), "after {signal:?}");
        assert!(!bus.socket().exists(), "the stop after {signal:?} was orderly");
    }
}
