//! Linux: the journal as a log that does not make the bus wait, and stderr opened again. Neither ever fails loudly: without
//! it the log goes to stderr as it is.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fstat};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// What the journal connects to stderr, as `device:inode`.
const STREAM_VARIABLE: &str = "JOURNAL_STREAM";

const JOURNAL_PATH: &str = "/run/systemd/journal/socket";

const IDENTIFIER: &str = "broadcasterd";

/// Before the names of fields, which become `BROADCASTERD_PID` and so on.
const FIELD_PREFIX: &str = "BROADCASTERD";

/// The journal, if stderr is connected to it and it takes entries.
pub(crate) fn journal() -> Option<Journal> {
    let stat = fstat(io::stderr()).ok()?;
    let stream = std::env::var(STREAM_VARIABLE).ok()?;
    if !names(&stream, stat.st_dev, stat.st_ino) {
        return None;
    }
    let layer = tracing_journald::layer().ok()?.with_syslog_identifier(IDENTIFIER.to_owned());
    let layer = layer.with_field_prefix(Some(FIELD_PREFIX.to_owned())).with_priority_mappings(PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    });
    let probe = UnixDatagram::unbound().ok()?;
    probe.connect(JOURNAL_PATH).ok()?;
    probe.set_nonblocking(true).ok()?;
    Some(Journal { layer, probe, lost: AtomicU64::new(0) })
}

/// Whether this value of the variable names this file.
fn names(stream: &str, device: u64, inode: u64) -> bool {
    let Some((of_device, of_inode)) = stream.split_once(':') else { return false };
    of_device.parse() == Ok(device) && of_inode.parse() == Ok(inode)
}

/// Entries with their fields. The socket of the layer waits while the journal does not read, so it is used only while
/// another one, connected to the same place, says that there is room.
///
/// XXX: another program may take the last room in between; then an entry waits until the journal reads again.
pub(crate) struct Journal {
    layer: tracing_journald::Layer,
    probe: UnixDatagram,
    /// Entries lost since the last that was sent.
    lost: AtomicU64,
}

impl Journal {
    fn has_room(&self) -> bool {
        let mut asked = [PollFd::new(&self.probe, PollFlags::OUT)];
        let ready = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        ready.is_ok() && asked[0].revents().contains(PollFlags::OUT)
    }

    /// Tells how many were lost, if any were.
    fn tell_lost(&self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message = format!("{lost} entries of this log are lost, since the journal did not read them in time");
            let entry = format!("PRIORITY=4\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE={message}\n");
            if self.probe.send(entry.as_bytes()).is_err() {
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.layer.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.layer.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.has_room() {
            self.tell_lost();
        }
        if self.has_room() {
            self.layer.on_event(event, context);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Stderr with an open file of our own, which does not wait; `None` for what cannot be opened again, such as a socket, and
/// for what always has room, such as a file.
pub(crate) fn reopen_stderr() -> Option<File> {
    let kind = FileType::from_raw_mode(fstat(io::stderr()).ok()?.st_mode);
    if kind != FileType::Fifo && !io::stderr().is_terminal() {
        return None;
    }
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).ok()?;
    File::options().write(true).custom_flags(flags).open("/proc/self/fd/2").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stream_that_the_variable_names_is_the_journal() {
        assert!(names("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "8", "", ":", "8:", "8:1234:", "x:1234", "8:1234 "] {
            assert!(!names(other, 8, 1234), "{other}");
        }
    }
}
