//! The service manager that started the daemon: the socket that it passes, and the reports that it receives. Without a manager,
//! nothing here has an effect.

use crate::os;
use broadcaster_server::AuxiliaryListener;
use std::io;

/// The bus socket that the manager listens on, if it started this process for it (systemd: `LISTEN_FDS`, with `LISTEN_PID`
/// naming this process; launchd: the socket called `bus`).
///
/// # Errors
///
/// If the manager passed anything but one listening Unix socket.
pub(crate) fn socket() -> io::Result<Option<AuxiliaryListener>> {
    let (socket, count) = os::inherited_socket()?;
    match count {
        0 | 1 => Ok(socket),
        more => Err(io::Error::other(format!("the service manager passed {more} sockets; pass the bus socket only"))),
    }
}

#[cfg(target_os = "linux")]
pub(crate) use systemd::{report_stopping, report_to_manager};

#[cfg(target_os = "linux")]
mod systemd {
    use crate::daemon::stats;
    use broadcaster_server::ServerHandle;
    use sd_notify::NotifyState;
    use std::io;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::time::Duration;

    /// The pause before readiness is reported again to a manager whose socket is full.
    const READY_PAUSE: Duration = Duration::from_millis(100);

    /// The shortest interval of watchdog reports, whatever the manager asks for.
    const WATCHDOG_INTERVAL_MIN: Duration = Duration::from_millis(50);

    /// Reports that the daemon is stopping.
    pub(crate) fn report_stopping() {
        notify(&[NotifyState::Stopping, NotifyState::Status("stopping: delivering what was sent")]);
    }

    /// Reports readiness. With a watchdog, then reports twice per watchdog interval that the bus thread runs, and its numbers.
    /// Without a watchdog it ends, so that an idle daemon never wakes up.
    pub(crate) async fn report_to_manager(server: ServerHandle) {
        while !notify(&[NotifyState::Ready, NotifyState::Status("ready")]) {
            tokio::time::sleep(READY_PAUSE).await;
        }
        let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()) else { return };
        let mut ticks = tokio::time::interval((interval / 2).max(WATCHDOG_INTERVAL_MIN));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(report) = server.report() else { return };
            notify(&[NotifyState::Watchdog, NotifyState::Status(&stats::one_line(&report))]);
        }
    }

    /// Sends a notification to the manager, if there is one; `false` if its socket is full. The library would block on a manager
    /// that hangs, and the bus with it.
    fn notify(state: &[NotifyState<'_>]) -> bool {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return true;
        };
        let lines: Vec<String> = state.iter().map(ToString::to_string).collect();
        let send = || -> io::Result<()> {
            let address = match address.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
                _ => SocketAddr::from_pathname(&address)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.send_to_addr(lines.join("\n").as_bytes(), &address).map(drop)
        };
        match send() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                tracing::debug!(%error, "cannot notify the service manager");
                true
            }
            Ok(()) => true,
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::{report_stopping, report_to_manager};

/// launchd expects no reports, and Windows has no manager that does.
#[cfg(not(target_os = "linux"))]
mod unsupported {
    use broadcaster_server::ServerHandle;

    pub(crate) fn report_stopping() {}

    pub(crate) async fn report_to_manager(_: ServerHandle) {}
}
