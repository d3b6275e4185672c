//! Waiting on this thread for sockets and for a time. It never reads or writes.

use crate::Interest;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::io;
use std::time::Duration;

/// The longest wait of one call: macOS counts milliseconds in an `int`, which overflows after 24 days.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Waits until one of the sockets is ready or has ended, or `timeout` has passed. It may also return early, and does so after a day.
///
/// # Errors
///
/// If the system call fails.
pub fn wait(interests: &[Interest<'_>], timeout: Option<Duration>) -> io::Result<()> {
    match interests {
        [] => poll(&mut [], timeout),
        [one] => poll(&mut [entry(one)], timeout),
        [one, two] => poll(&mut [entry(one), entry(two)], timeout),
        more => poll(&mut more.iter().map(entry).collect::<Vec<_>>(), timeout),
    }
}

fn entry<'a>(interest: &Interest<'a>) -> PollFd<'a> {
    PollFd::new(&**interest.socket, if interest.writable { PollFlags::OUT } else { PollFlags::IN })
}

fn poll(entries: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout.min(WAIT_MAX)).ok());
    match rustix::event::poll(entries, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn either_socket_ends_the_wait() {
        let (quiet, _quiet_peer) = UnixStream::pair().expect("a pair");
        let (loud, loud_peer) = UnixStream::pair().expect("a pair");
        let (quiet, loud, peer) = (Arc::new(quiet.into()), Arc::new(loud.into()), loud_peer.into());
        let both = [Interest::readable(&quiet), Interest::readable(&loud)];
        crate::write(&peer, b"x").expect("written");
        wait(&both, None).expect("ended by the second");
        wait(&[both[0], Interest::writable(&quiet)], None).expect("ended by room to write");
        drop(peer);
        wait(&both, None).expect("ended by the end of the stream");
    }

    #[test]
    fn wait_without_a_ready_socket_lasts_for_its_time() {
        let (quiet, _peer) = UnixStream::pair().expect("a pair");
        let quiet = Arc::new(quiet.into());
        let (begun, time) = (Instant::now(), Duration::from_millis(20));
        wait(&[Interest::readable(&quiet)], Some(time)).expect("ended by time");
        wait(&[], Some(time)).expect("ended by time");
        assert!(begun.elapsed() >= 2 * time);
    }
}
