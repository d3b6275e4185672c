//! Taking over a socket that a service manager created. It never removes the socket's file.

use super::connect;
use super::fork::open_unshared;
use super::peer::peer;
use super::socket::{AuxiliaryListener, LINUX, Listener};
use crate::AdoptProblem;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The path of a socket that another process created and passed on, and the socket itself, to accept from.
///
/// # Errors
///
/// If it has no absolute path or does not listen, or if its path leads clients elsewhere.
pub fn adopt(listener: &AuxiliaryListener) -> Result<(PathBuf, Listener), AdoptProblem> {
    let address = listener.local_addr().map_err(|error| AdoptProblem::Io("look at", error))?;
    let socket = address.as_pathname().filter(|path| path.is_absolute()).ok_or(AdoptProblem::NoPath)?;
    if !listens(listener) {
        return Err(AdoptProblem::NotListening(socket.to_owned()));
    }
    if !is_reached_at(listener, socket) {
        return Err(AdoptProblem::Elsewhere(socket.to_owned()));
    }
    let listener = open_unshared(|| listener.try_clone()).map_err(|error| AdoptProblem::Io("duplicate", error))?;
    Ok((socket.to_owned(), listener))
}

/// Whether a client that connects to `path` reaches a socket of the process that created `listener`.
///
/// The file at the path may have been replaced and does not identify the socket; a connection does. The kernel reports which process called
/// `listen` on the socket at its other end, and on Linux it reports the same for the listening socket. The connection is closed at once.
fn is_reached_at(listener: &AuxiliaryListener, path: &Path) -> bool {
    match connect::open(path) {
        Ok(probe) if LINUX => match (peer(listener), peer(&probe)) {
            (Ok(maker), Ok(server)) => maker == server,
            // With a full backlog the probe is not connected. Clients have reached a socket there.
            (Ok(_), Err(_)) => true,
            (Err(_), _) => false,
        },
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// macOS does not report it. The sockets that launchd passes on listen.
#[cfg(target_vendor = "apple")]
fn listens(_: impl AsFd) -> bool {
    true
}

#[cfg(not(target_vendor = "apple"))]
fn listens(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn socket_is_adopted_only_if_its_path_leads_to_it() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("bus.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        let (adopted, _listener) = adopt(&listener).expect("its own");
        assert_eq!(adopted, path);
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(adopt(&listener), Err(AdoptProblem::Elsewhere(_))), "the path is free");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(matches!(adopt(&listener), Err(AdoptProblem::Elsewhere(_))), "a dead socket is there");
    }
}
