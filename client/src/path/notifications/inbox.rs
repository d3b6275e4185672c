//! The queue of notifications for a handle. Adding one never waits for the handle, and the handle waits for a descriptor, as it does
//! for a connection.

use super::envelope::Info;
use broadcaster_local::{Bell, Socket};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many notifications wait for a handle.
const NOTICES_MAX: usize = 1024;

/// How many bytes of them wait.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Notifications on their way from the system's thread to a handle.
#[derive(Debug)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    bell: Bell,
}

#[derive(Debug, Default)]
struct Waiting {
    notices: VecDeque<Info>,
    bytes: usize,
    lost: bool,
}

impl Waiting {
    fn drop_first(&mut self) -> Option<Info> {
        let first = self.notices.pop_front()?;
        self.bytes -= first.held_bytes();
        Some(first)
    }
}

/// What the handle finds next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Notifications were dropped here.
    Lost,
    /// A notification.
    Notice(Info),
}

impl Inbox {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { waiting: Mutex::default(), bell: Bell::new()? }))
    }

    /// Puts a notification behind those that wait. Beyond [`NOTICES_MAX`] or [`BYTES_MAX`] the oldest are dropped.
    pub(crate) fn put(&self, info: Info) {
        let mut waiting = self.lock();
        let was_empty = waiting.notices.is_empty();
        waiting.bytes += info.held_bytes();
        waiting.notices.push_back(info);
        while waiting.notices.len() > NOTICES_MAX || waiting.bytes > BYTES_MAX {
            waiting.lost |= waiting.drop_first().is_some();
        }
        if was_empty {
            self.bell.ring();
        }
    }

    /// Takes what is next.
    pub(super) fn take(&self) -> Option<Found> {
        let mut waiting = self.lock();
        if std::mem::take(&mut waiting.lost) {
            return Some(Found::Lost);
        }
        let notice = waiting.drop_first()?;
        if waiting.notices.is_empty() {
            self.bell.silence();
        }
        Some(Found::Notice(notice))
    }

    /// Readable while something waits.
    pub(super) fn readable(&self) -> Arc<Socket> {
        self.bell.readable()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::envelope::Value;
    use super::*;
    use broadcaster_local::{Interest, wait};
    use std::time::{Duration, Instant};

    fn is_readable(inbox: &Inbox) -> bool {
        let begun = Instant::now();
        wait(&[Interest::readable(&inbox.readable())], Some(Duration::from_millis(300))).expect("waited");
        begun.elapsed() < Duration::from_millis(300)
    }

    #[test]
    fn it_is_readable_while_something_waits() {
        let inbox = Inbox::new().expect("an inbox");
        assert!(!is_readable(&inbox));
        inbox.put(Info::Absent);
        inbox.put(Info::Other);
        assert!(is_readable(&inbox));
        assert_eq!(inbox.take(), Some(Found::Notice(Info::Absent)));
        assert!(is_readable(&inbox), "one is left");
        assert_eq!(inbox.take(), Some(Found::Notice(Info::Other)));
        assert!(!is_readable(&inbox));
        assert_eq!(inbox.take(), None);
        inbox.put(Info::Absent);
        assert!(is_readable(&inbox), "again");
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_leaves_a_gap() {
        let inbox = Inbox::new().expect("an inbox");
        inbox.put(Info::Other);
        for _ in 0..NOTICES_MAX {
            inbox.put(Info::Absent);
        }
        assert_eq!(inbox.take(), Some(Found::Lost));
        for _ in 0..NOTICES_MAX {
            assert_eq!(inbox.take(), Some(Found::Notice(Info::Absent)));
        }
        assert_eq!(inbox.take(), None);
    }

    #[test]
    fn large_dictionaries_are_bounded_by_their_bytes() {
        let inbox = Inbox::new().expect("an inbox");
        let entry = |number: u8| (number.to_string(), Value::Bytes(vec![0; 4096].into()));
        let large = Info::Entries((0..16).map(entry).collect());
        for _ in 0..NOTICES_MAX {
            inbox.put(large.clone());
            assert!(inbox.lock().bytes <= BYTES_MAX);
        }
        assert_eq!(inbox.take(), Some(Found::Lost));
        while inbox.take().is_some() {}
        assert_eq!(inbox.lock().bytes, 0);
    }
}
