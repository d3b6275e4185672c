//! `broadcasterd start`: the daemon in the background, with nothing of its caller about it. Clients that find no daemon run
//! this; it ends when a daemon, this one or a twin, is ready.

use super::Bus;
use crate::exit::{Code, Failure};
use crate::os;
use std::ffi::OsString;
use std::io::{self, Write};

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
    let mut arguments = vec![OsString::from("run"), OsString::from("--detached")];
    if let Some(socket) = bus.socket()? {
        arguments.extend(["--socket".into(), socket.into()]);
    }
    let inherited = INHERITED.iter().chain(&os::INHERITED);
    let variables: Vec<_> = inherited.filter_map(|name| Some((*name, std::env::var_os(name)?))).collect();
    let mut daemon = os::Started::new(&std::env::current_exe()?, &arguments, &variables)?;
    let said = daemon.output()?;
    if said.is_empty() {
        // It has ended, and said why on stderr.
        let status = daemon.wait()?;
        let code = if status.code() == Some(Code::Usage as i32) { Code::Usage } else { Code::Unreachable };
        return Err(Failure::new(code, "the daemon did not start"));
    }
    io::stdout().write_all(said.as_bytes())?;
    Ok(())
}
