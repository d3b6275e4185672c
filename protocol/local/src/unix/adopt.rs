//! Taking over a socket that a service manager made. It never removes its file.

use super::socket::{AuxiliaryListener, Listener};
use crate::AdoptProblem;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// The path of a socket that another process made and passed on, and the socket itself, to accept from.
///
/// # Errors
///
/// If it has no absolute path, or does not listen.
pub fn adopt(listener: &AuxiliaryListener) -> Result<(PathBuf, Listener), AdoptProblem> {
    let address = listener.local_addr().map_err(|error| AdoptProblem::Io("look at", error))?;
    let socket = address.as_pathname().filter(|path| path.is_absolute()).ok_or(AdoptProblem::NoPath)?;
    if !listens(listener) {
        return Err(AdoptProblem::NotListening(socket.to_owned()));
    }
    let listener = listener.try_clone().map_err(|error| AdoptProblem::Io("duplicate", error))?;
    Ok((socket.to_owned(), listener))
}

/// macOS does not report it. What launchd passes does listen.
#[cfg(target_vendor = "apple")]
fn listens(_: impl AsFd) -> bool {
    true
}

#[cfg(not(target_vendor = "apple"))]
fn listens(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}
