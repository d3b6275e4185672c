//! `broadcasterd listen` as a process, and more than it keeps up with.

use crate::daemon::{Bus, program};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus, Stdio};

/// `broadcasterd listen` with diagnostics to read, once it listens.
#[derive(Debug)]
pub struct Listening {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Listening {
    /// Starts `listen news` with these arguments, and waits until it listens. It starts no daemon.
    pub fn start(bus: &Bus, arguments: &[&str], stdout: Stdio) -> Self {
        let mut command = bus.command(program(), &[&["listen", "news"], arguments].concat());
        command.env("BROADCASTER_NO_AUTOSTART", "1");
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut listening = Self { stderr: BufReader::new(child.stderr.take().expect("a pipe")), child };
        assert_eq!(listening.line(), "listening on news");
        listening
    }

    /// The next line of its diagnostics.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    /// Its output, which must be a pipe and has not been taken before.
    pub fn output(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().expect("a pipe"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our process");
    }

    /// How it ends, and the rest of its diagnostics.
    pub fn end(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).expect("text");
        (self.child.wait().expect("our child"), rest)
    }
}

/// Sends more on the channel than waits for any listener.
pub fn flood(bus: &Bus) {
    let mut sender = bus.options().sender("news").expect("connected");
    (0..1000).for_each(|_| sender.send(&[b'x'; 16 * 1024]).expect("sent"));
    while bus.options().daemon().status().expect("it answers").messages_accepted < 1000 {}
}
