//! The answers of the daemons at all places where a process holds the lock. A request never starts a daemon.

use super::bounded::{GRACE, Pending};
use super::place::node;
use crate::daemon::stats::model::Connection;
use crate::exit::with_causes;
use crate::observe::doctor::facts::{
    ANSWER_TIMEOUT, Cause, Client, Lock, Node, Place, Service, Stats, Status, starts_at_connect,
};
use crate::observe::stats::fetch::fetch_within;
use broadcaster_protocol::endpoint::stats_socket;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use system_broadcaster::{ConnectError, Options, RefusalCode};

/// Pause before asking a daemon again that does not listen yet.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Requests status and statistics wherever a process holds the lock, from all places at once.
pub(super) fn request_status(
    options: &Options,
    euid: u32,
    service: Option<&Service>,
    mut places: Vec<Place>,
) -> Vec<Place> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    let requests = places.iter().map(|place| {
        let is_served = place.files.as_ref().is_some_and(|files| {
            // Connections between different users are refused by both sides.
            matches!(files.lock, Lock::Held { .. }) && files.owner_if_not(euid).is_none()
        });
        if !is_served || starts_at_connect(service, &place.socket) {
            return None;
        }
        let options = options.clone().socket(&place.socket).timeout(ANSWER_TIMEOUT);
        let (socket, path) = (place.socket.clone(), stats_socket(&place.socket));
        let file = Pending::start(move || node(&path));
        let clients = Pending::start(move || clients(&socket));
        Some((Pending::start(move || status(&options, until)), file, clients))
    });
    let requests: Vec<_> = requests.collect();
    // The client's own timeout comes first, so that the finding has the client's error.
    let until = until + GRACE;
    for (place, request) in places.iter_mut().zip(requests) {
        let Some((status, file, clients)) = request else { continue };
        place.status = status.wait(until).unwrap_or_else(|| Status::Failed {
            cause: Cause::Silent,
            sentence: format!("no answer within {ANSWER_TIMEOUT:?}"),
        });
        let late = || "no answer in time".to_owned();
        place.stats = Some(Stats {
            path: stats_socket(&place.socket),
            file: file.wait(until).unwrap_or_else(|| Node::Unknown(late())),
            clients: clients.wait(until).unwrap_or_else(|| Err(late())),
        });
    }
    places
}

fn status(options: &Options, until: Instant) -> Status {
    loop {
        match options.daemon().status() {
            Ok(status) => {
                return Status::Answered {
                    version: status.version,
                    pid: status.pid,
                    protocol: status.protocol,
                    uptime: Duration::from_secs(status.uptime.as_secs()),
                    connections: status.connections,
                    held_bytes: status.held_bytes,
                    held_bytes_max: status.held_bytes_max,
                };
            }
            // A daemon that starts or stops holds the lock for a moment without listening.
            Err(ConnectError::NotRunning { .. }) if Instant::now() + RETRY_PAUSE < until => {
                std::thread::sleep(RETRY_PAUSE);
            }
            Err(ConnectError::Refused { code: RefusalCode::Connections, reason }) => {
                return Status::Failed { cause: Cause::Full, sentence: reason };
            }
            Err(error) => {
                let cause = match &error {
                    ConnectError::TimedOut { .. } => Cause::Silent,
                    ConnectError::NotRunning { .. } => Cause::NotListening,
                    ConnectError::OtherUser { .. } => Cause::OtherUser,
                    ConnectError::NotADaemon { .. } => Cause::NotADaemon,
                    ConnectError::Refused { .. } => Cause::Refused,
                    ConnectError::SharedMemory { .. } => Cause::Variable,
                    _ => Cause::Other,
                };
                return Status::Failed { cause, sentence: with_causes(&error) };
            }
        }
    }
}

/// The processes that are connected to the bus, those with the most connections first.
fn clients(socket: &Path) -> Result<Vec<Client>, String> {
    let stats = fetch_within(ANSWER_TIMEOUT, socket).map_err(|failure| failure.to_string())?;
    let mut clients: BTreeMap<u32, Client> = BTreeMap::new();
    for Connection { pid, process, .. } in stats.connections {
        clients.entry(pid).or_insert(Client { pid, name: process, connections: 0 }).connections += 1;
    }
    let mut clients: Vec<_> = clients.into_values().collect();
    clients.sort_by_key(|client| Reverse(client.connections));
    Ok(clients)
}
