//! Log lines on their way to their reader: they wait in memory, and a thread writes them. Adding a line never waits for that
//! thread; a line that does not fit is dropped, counted and reported.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait. With [`LINE_BYTES_MAX`], they take at most 1 MiB.
const LINES_MAX: usize = 256;

/// Length of a line. A longer one is cut off.
const LINE_BYTES_MAX: usize = 4096;

/// The lines that wait to be written. Cloning gives another handle to the same lines.
#[derive(Debug, Clone)]
pub(crate) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Lines dropped since the last report.
    lost: u64,
    /// The thread writes a line that is no longer in `lines`.
    writing: bool,
}

impl Queue {
    /// A queue whose lines go to `write`, which may block. `report` makes the line that reports a number of lost lines.
    pub(super) fn start(
        write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
        report: fn(u64) -> Vec<u8>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_all(write, report))?;
        Ok(Self(shared))
    }

    /// Adds a line, or drops it if no room is left.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.0.lock();
        if state.lines.len() < LINES_MAX {
            state.lines.push_back(line);
            self.0.changed.notify_all();
        } else {
            state.lost += 1;
        }
    }

    /// Waits until every line is written, but no longer than `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let unwritten = |state: &mut State| state.writing || !state.lines.is_empty();
        // Lines that are still unwritten after the timeout are lost, like the reader that they are meant for.
        let _ = self.0.changed.wait_timeout_while(self.0.lock(), timeout, unwritten);
    }
}

impl Shared {
    /// The lock is never held while a line is written, and no code under it panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the lines, as long as the process runs.
    fn write_all(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>, report: fn(u64) -> Vec<u8>) {
        loop {
            let line = self.next();
            let mut lost = u64::from(write(&line).is_err());
            if lost == 0 {
                // A loss is followed by a line that waited at the time, so that no loss stays unreported.
                let dropped = std::mem::take(&mut self.lock().lost);
                if dropped > 0 && write(&report(dropped)).is_err() {
                    lost = dropped;
                }
            }
            let mut state = self.lock();
            state.lost += lost;
            state.writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits for the next line.
    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.writing = true;
                return line;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A line that is too long loses its end, but not its newline.
fn cut(line: &[u8]) -> Cow<'_, [u8]> {
    match line.get(..LINE_BYTES_MAX - 1) {
        Some(start) if line.len() > LINE_BYTES_MAX => Cow::Owned([start, b"\n"].concat()),
        _ => Cow::Borrowed(line),
    }
}

/// Each write is one line, and never fails.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(cut(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::sync::mpsc;

    #[test]
    fn pipe_that_is_not_read_never_blocks_the_log_and_learns_what_it_lost() {
        const LINES: u64 = 10_000;
        let (reader, mut pipe) = io::pipe().expect("a pipe");
        let queue = Queue::start(move |line| pipe.write_all(line), |lost| format!("lost {lost}\n").into_bytes());
        let queue = queue.expect("a thread");
        let line = [[b'x'; 99].as_slice(), b"\n"].concat();
        // More than the pipe and the queue hold: this returns only if it does not wait for the reader.
        (0..LINES).for_each(|_| (&queue).write_all(&line).expect("never fails"));
        let (mut received, mut lost) = (0, 0);
        let mut lines = BufReader::new(reader).lines();
        while received + lost < LINES {
            let line = lines.next().expect("more lines").expect("text");
            match line.strip_prefix("lost ") {
                Some(count) => lost += count.parse::<u64>().expect("a number"),
                None => received += 1,
            }
        }
        assert_eq!(received + lost, LINES);
        assert!(lost > 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_reported_with_the_next_one() {
        let (written, lines) = mpsc::channel();
        let mut disk_is_full = [true, true, false].into_iter();
        let write = move |line: &[u8]| match disk_is_full.next().unwrap_or(false) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => written.send(line.to_vec()).map_err(io::Error::other),
        };
        let queue = Queue::start(write, |lost| format!("lost {lost}").into_bytes()).expect("a thread");
        ["one", "two", "three"].iter().for_each(|line| queue.push(line.as_bytes().to_vec()));
        queue.flush(Duration::from_secs(60));
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), [b"three".to_vec(), b"lost 2".to_vec()]);
    }

    #[test]
    fn line_that_is_too_long_keeps_its_newline() {
        assert_eq!(cut(&[b'x'; LINE_BYTES_MAX]).len(), LINE_BYTES_MAX);
        let long = cut(&[b'x'; LINE_BYTES_MAX + 1]).into_owned();
        assert_eq!((long.len(), long.last()), (LINE_BYTES_MAX, Some(&b'\n')));
        assert_eq!(*cut(b"short\n"), *b"short\n");
    }
}
