//! Gathers the facts from the system, each within a time limit and missing if it is not available. It never writes, never starts a
//! daemon, and connects only to a socket whose lock is held.

mod bounded;
mod daemon;
mod environment;
mod place;
mod programs;
mod service;

use super::facts::{Facts, GATHER_TIMEOUT, Limits, Notifications, Place, Status};
use super::shared_memory::SharedMemory;
use super::system;
use bounded::{Pending, TOOL_TIMEOUT};
use daemon::request_status;
use environment::inspect_environment;
use place::inspect_place;
use programs::inspect_programs;
use rustix::process::Resource;
use service::inspect_service;
use std::time::Instant;
use system_broadcaster::{Capabilities, Options};

/// Inspects the surroundings, then the running daemons. Takes at most [`GATHER_TIMEOUT`] and [`super::facts::ANSWER_TIMEOUT`].
pub(crate) fn gather(options: &Options, socket_given: bool) -> Facts {
    let files_until = Instant::now() + GATHER_TIMEOUT;
    let euid = rustix::process::geteuid().as_raw();
    let tools_until = Instant::now() + TOOL_TIMEOUT;
    let service = Pending::start(move || inspect_service(euid, tools_until));
    let programs = Pending::start(move || inspect_programs(tools_until));
    let environment = Pending::start(move || inspect_environment(euid));
    let candidates = {
        let options = options.clone();
        Pending::start(move || options.candidates().map_err(|error| error.to_string()))
    };
    let candidates = candidates.wait(files_until).unwrap_or_else(|| {
        Err(format!(
            "cannot determine the place of the bus within {GATHER_TIMEOUT:?}: a file system or the system hangs"
        ))
    });
    let places = candidates.map(|candidates| {
        let pending = candidates.into_iter().map(|candidate| {
            let socket = candidate.socket.clone();
            (candidate, Pending::start(move || inspect_place(&socket)))
        });
        pending.collect::<Vec<_>>()
    });
    let service = service.wait(files_until);
    let places = places.map(|pending| {
        let places = pending.into_iter().map(|(candidate, files)| Place {
            socket: candidate.socket,
            origin: candidate.origin,
            files: files.wait(files_until),
            status: Status::NotRequested,
            stats: None,
        });
        request_status(options, euid, service.as_ref(), places.collect())
    });
    let open_files = rustix::process::getrlimit(Resource::Nofile);
    Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        euid,
        socket_given,
        path_bytes_max: path_bytes_max(),
        places,
        service,
        limits: Limits {
            open_files: Some((open_files.current.unwrap_or(u64::MAX), open_files.maximum.unwrap_or(u64::MAX))),
            inotify_instances_max: system::inotify_instances_max(),
            no_thread: std::thread::Builder::new().spawn(|| ()).is_err(),
        },
        shared_memory: SharedMemory::inspect(),
        programs: programs.wait(files_until),
        environment: environment.wait(files_until),
        notifications: Capabilities::of_notifications()
            .map(|can| Notifications { payload: can.payload, payload_bytes_max: can.payload_bytes_max }),
    }
}

fn path_bytes_max() -> usize {
    use broadcaster_protocol::limits::{SOCKET_PATH_BYTES_MAX_BSD, SOCKET_PATH_BYTES_MAX_LINUX};
    let linux = cfg!(any(target_os = "linux", target_os = "android"));
    if linux { SOCKET_PATH_BYTES_MAX_LINUX } else { SOCKET_PATH_BYTES_MAX_BSD }
}
