//! Starts a daemon in the background, which inherits nothing from the caller. It returns when a daemon, this one or another, is ready.

use crate::exit::{Code, Failure};
use crate::os;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

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

/// Starts a daemon for the bus at `socket`, or for the user's own.
pub(crate) fn start(socket: Option<PathBuf>) -> Result<(), Failure> {
    os::reset_signals()?;
    let mut arguments = vec![OsString::from("run"), OsString::from("--detached")];
    if let Some(socket) = socket {
        arguments.extend(["--socket".into(), socket.into()]);
    }
    let inherited = INHERITED.iter().chain(&os::INHERITED);
    let variables: Vec<_> = inherited.filter_map(|name| Some((*name, std::env::var_os(name)?))).collect();
    let mut daemon = os::DetachedChild::start(&std::env::current_exe()?, &arguments, &variables)?;
    let output = daemon.output()?;
    if output.is_empty() {
        // It has ended, and its stderr explains why.
        let status = daemon.wait()?;
        let code = if status.code() == Some(Code::Usage as i32) { Code::Usage } else { Code::Unreachable };
        return Err(Failure::new(code, "the daemon did not start"));
    }
    io::stdout().write_all(output.as_bytes())?;
    Ok(())
}
