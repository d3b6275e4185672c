//! What a service manager gives to the daemon that it starts, and what it wants to hear of it. Without a manager nothing here
//! does anything.

use crate::os;
use broadcaster_server::AuxiliaryListener;
use std::io;

/// The bus socket that the manager listens on, if it started this process for it (systemd: `LISTEN_FDS`, with `LISTEN_PID`
/// naming this process; launchd: the socket called `bus`).
///
/// # Errors
///
/// If what was passed is not one listening unix socket.
pub(crate) fn socket() -> io::Result<Option<AuxiliaryListener>> {
    let (socket, count) = os::inherited_socket()?;
    match count {
        0 | 1 => Ok(socket),
        more => Err(io::Error::other(format!(
            "{more} sockets were passed by the service manager; pass the bus socket only"
        ))),
    }
}

/// How many sockets systemd passed to this very process. The variables may as well be those of another one, whose they are to
/// take: without `LISTEN_PID`, or with another number in it, nothing was passed. To be asked before [`socket`].
#[cfg(not(target_os = "macos"))]
#[cfg_attr(windows, allow(dead_code))]
pub(crate) fn sockets_passed() -> usize {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    match number("LISTEN_PID") == Some(std::process::id()) {
        true => number("LISTEN_FDS").and_then(|count| usize::try_from(count).ok()).unwrap_or(0),
        false => 0,
    }
}

#[cfg(target_os = "linux")]
pub(crate) use systemd::{keep_told, stopping};

#[cfg(target_os = "linux")]
mod systemd {
    use crate::stats;
    use broadcaster_server::View;
    use sd_notify::NotifyState;
    use std::io;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::time::Duration;

    /// How long to wait before telling again that the daemon is ready, to a manager that has no room for it.
    const READY_PAUSE: Duration = Duration::from_millis(100);

    /// No manager hears more often that the bus thread is alive, whatever it asks for.
    const BEAT_MIN: Duration = Duration::from_millis(50);

    /// The daemon is on its way out, and delivers what it was sent.
    pub(crate) fn stopping() {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping: delivering what was sent")]);
    }

    /// Tells the manager that the daemon serves; then that the bus thread is alive, twice as often as it wants to hear it, and how
    /// the bus is doing. Without a watchdog it ends after the first, so that an idle daemon never wakes up.
    pub(crate) async fn keep_told(view: View) {
        while !tell(&[NotifyState::Ready, NotifyState::Status("ready")]) {
            tokio::time::sleep(READY_PAUSE).await;
        }
        let Some(wanted) = sd_notify::watchdog_enabled().filter(|wanted| !wanted.is_zero()) else { return };
        let mut beats = tokio::time::interval((wanted / 2).max(BEAT_MIN));
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            let Some(report) = view.report() else { return };
            tell(&[NotifyState::Watchdog, NotifyState::Status(&stats::one_line(&report))]);
        }
    }

    /// Tells the manager, if there is one; `false` if it has no room for it now. Not through the library, which would wait for a
    /// manager that hangs, and the bus with it.
    fn tell(state: &[NotifyState<'_>]) -> bool {
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
                tracing::debug!(%error, "the service manager does not hear");
                true
            }
            Ok(()) => true,
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use silence::{keep_told, stopping};

/// launchd asks for no word, and Windows knows nothing of us.
#[cfg(not(target_os = "linux"))]
mod silence {
    use broadcaster_server::View;

    pub(crate) fn stopping() {}

    pub(crate) async fn keep_told(_: View) {}
}
