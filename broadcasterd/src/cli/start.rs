//! `broadcasterd start`: the daemon in the background, with nothing of its caller about it. Clients that find no daemon run
//! this; it ends when a daemon, this one or a twin, is ready.

use super::Bus;
use crate::exit::{Code, Failure};
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

/// The only variables that the daemon inherits: it outlives its first client and serves others.
const INHERITED: [&str; 12] = [
    "BROADCASTERD_CONFIG",
    "BROADCASTERD_IDLE_EXIT",
    "BROADCASTERD_LOG",
    "BROADCASTER_SOCKET",
    "HOME",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "USER",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

pub(crate) fn run(bus: &Bus) -> Result<(), Failure> {
    // Whatever the caller had open would stay open for as long as the daemon lives.
    close_fds::set_fds_cloexec(3, &[]);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--detached"]);
    command.env_clear().envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    if let Some(socket) = bus.socket()? {
        command.arg("--socket").arg(socket);
    }
    // The standard library gives the child an empty signal mask.
    let mut daemon = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut said = String::new();
    if let Some(mut stdout) = daemon.stdout.take() {
        stdout.read_to_string(&mut said)?;
    }
    if said.is_empty() {
        // It has ended, and said why on stderr.
        let status = daemon.wait()?;
        let code = if status.code() == Some(Code::Usage as i32) { Code::Usage } else { Code::Unreachable };
        return Err(Failure::new(code, "the daemon did not start"));
    }
    io::stdout().write_all(said.as_bytes())?;
    Ok(())
}
