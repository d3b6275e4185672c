//! The locks and sockets of all candidates. It never accepts a connection.

use super::daemon_lock::{Claim, DaemonLock};
use super::error::BindError;
use broadcaster_local::{AuxiliaryListener, Connected, Listener, Watch};
use broadcaster_protocol::endpoint::{Candidate, binding_order};
use std::path::{Path, PathBuf};

/// The right to be the daemon, and the listening sockets: one for each place where a client of this user may look. When this is dropped, or
/// served to its end, the socket files that it created are removed if they are still the same, and then the locks are released.
#[derive(Debug)]
pub struct Bound {
    /// Best first; at least one.
    places: Vec<Place>,
}

/// One place where clients find this daemon.
#[derive(Debug)]
struct Place {
    socket: PathBuf,
    listener: Option<Listener>,
    lock: DaemonLock,
}

impl Bound {
    /// The path of the best socket, for display.
    pub fn socket(&self) -> &Path {
        self.places.first().map_or(Path::new("/"), |place| &place.socket)
    }

    /// The paths of all sockets, best first.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().map(|place| place.socket.as_path())
    }

    /// Listens on one more socket beside a socket of the bus, for this user only. A stale one is replaced. It is removed together with the
    /// socket of the bus.
    ///
    /// # Errors
    ///
    /// If a system call fails, something else exists at this path, or the path is not beside a socket of the bus.
    pub fn listen_auxiliary(&mut self, path: &Path) -> Result<AuxiliaryListener, BindError> {
        let mut places = self.places.iter_mut();
        let place = places.find(|place| place.socket.parent() == path.parent());
        match place {
            Some(place) => place.lock.listen_auxiliary(path),
            None => Err(BindError::Occupied { path: path.to_owned(), what: "not beside a socket of the bus" }),
        }
    }

    /// Takes the locks of the other `candidates` as well and listens there, so that every client of this user finds this daemon. Candidates
    /// that cannot be used are skipped with a warning.
    ///
    /// # Errors
    ///
    /// [`BindError::AlreadyRunning`] if another process holds one of the locks. Locks taken before are kept.
    pub fn extend(&mut self, candidates: &[Candidate]) -> Result<(), BindError> {
        for candidate in binding_order(candidates) {
            if self.sockets().any(|socket| socket == candidate.socket) {
                continue;
            }
            match Claim::take(&candidate.socket).and_then(|claim| Place::listen(&candidate.socket, claim)) {
                Ok(place) => self.places.push(place),
                Err(error @ BindError::AlreadyRunning { .. }) => return Err(error),
                Err(error) => warn_of(&candidate.socket, &error),
            }
        }
        Ok(())
    }

    /// The sockets of the bus; empty from the second call on.
    pub(crate) fn take_listeners(&mut self) -> Vec<Listener> {
        self.places.iter_mut().filter_map(|place| place.listener.take()).collect()
    }

    /// Waits until clients no longer find one of the sockets, or other daemons one of the locks, because it was removed or a directory in its
    /// path was renamed. Returns the path of the socket.
    pub(crate) async fn taken_away(&self) -> &Path {
        let watch = Watch::new(self.sockets().filter_map(Path::parent));
        loop {
            if let Some(place) = self.places.iter().find(|place| !place.lock.is_in_place()) {
                return &place.socket;
            }
            watch.changed().await;
        }
    }

    /// Announces that this daemon is about to end: removes its sockets, and marks the lock files so that clients do not wait for it.
    pub(crate) fn leave(&self) {
        for place in &self.places {
            if let Err(error) = place.lock.mark_leaving() {
                tracing::warn!(%error, socket = %place.socket.display(), "cannot write to the lock file");
            }
            place.lock.unlink();
        }
    }

    /// Releases the locks, so that the next daemon can begin.
    pub(crate) fn release(&self) {
        self.places.iter().for_each(|place| place.lock.release());
    }
}

impl Place {
    fn listen(socket: &Path, claim: Claim) -> Result<Self, BindError> {
        let (lock, listener) = claim.listen(socket)?;
        Ok(Self { socket: socket.to_owned(), listener: Some(listener), lock })
    }
}

/// Becomes the daemon on every candidate that can be used.
///
/// All locks are taken, in the [`binding_order`], before any socket is created: a daemon that finds a lock held has not listened anywhere.
///
/// # Errors
///
/// [`BindError::AlreadyRunning`] if any candidate has a daemon; the first candidate's error if none can be used.
pub fn bind(candidates: &[Candidate]) -> Result<Bound, BindError> {
    let mut claims = Vec::new();
    for Candidate { socket, .. } in binding_order(candidates) {
        match Claim::take(socket) {
            Err(error @ BindError::AlreadyRunning { .. }) => return Err(error),
            claim => claims.push((socket, claim)),
        }
    }
    claims.sort_by_key(|(socket, _)| candidates.iter().position(|candidate| candidate.socket == **socket));
    let (mut places, mut problems) = (Vec::new(), Vec::new());
    for (socket, claim) in claims {
        match claim.and_then(|claim| Place::listen(socket, claim)) {
            Ok(place) => places.push(place),
            // A service manager listens there, and starts the daemon for the first client.
            Err(BindError::Occupied { .. }) if candidates.len() > 1 && answers(socket) => {
                return Err(BindError::AlreadyRunning { lock: socket.clone() });
            }
            Err(error) => problems.push((socket, error)),
        }
    }
    if places.is_empty() {
        return Err(problems.into_iter().next().map_or(BindError::NoCandidate, |(_, error)| error));
    }
    for (socket, error) in &problems {
        warn_of(socket, error);
    }
    Ok(Bound { places })
}

/// Becomes the daemon on a socket that a service manager created and listens on. When this daemon ends, the file stays and the manager still
/// listens: the next daemon serves the clients that connect in between. [`Bound::extend`] adds the other candidates.
///
/// # Errors
///
/// [`BindError::AlreadyRunning`] if another process holds the lock; another error if the socket has no path, its path leads elsewhere or its
/// directory cannot be trusted. Always on Windows, where only the process that creates a pipe can serve it.
pub fn adopt(listener: &AuxiliaryListener) -> Result<Bound, BindError> {
    let (socket, lock, listener) = DaemonLock::adopt(listener)?;
    Ok(Bound { places: vec![Place { socket, listener: Some(listener), lock }] })
}

fn warn_of(socket: &Path, error: &BindError) {
    tracing::warn!(socket = %socket.display(), error = error as &dyn std::error::Error, "cannot serve here");
}

/// Whether a process of this user accepts connections at `socket`.
fn answers(socket: &Path) -> bool {
    matches!(broadcaster_local::connect(socket), Ok(Connected::Yes(_)))
}
