//! Stderr as a log that never waits: a line that nobody has room for is dropped and counted. It never changes how stderr
//! behaves for others who share it.

use super::os;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use tracing_subscriber::fmt::MakeWriter;

/// What a pipe that has room for anything has room for.
const LINE_BYTES_MAX: usize = 4096;

/// A room of its own, or asked before each write.
#[derive(Debug)]
pub(crate) struct Stderr {
    /// The pipe or terminal of stderr, opened again: that it does not wait concerns nobody else.
    own: Option<File>,
    /// Lines lost since the last that was written.
    lost: AtomicU64,
}

impl Stderr {
    /// `keeps_stderr` must be false if descriptor 2 will be turned elsewhere: a file of our own would keep its reader waiting
    /// for the end.
    pub(crate) fn new(keeps_stderr: bool) -> Self {
        let own = if keeps_stderr { os::reopen_stderr() } else { None };
        Self { own, lost: AtomicU64::new(0) }
    }

    fn log(&self, line: &[u8]) {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            let note = format!("broadcasterd: {lost} lines of this log are lost, since nobody read it in time\n");
            if !self.write_now(note.as_bytes()) {
                self.lost.store(lost.saturating_add(1), Ordering::Relaxed);
                return;
            }
            self.lost.store(0, Ordering::Relaxed);
        }
        if !self.write_now(line) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the whole line is written.
    fn write_now(&self, line: &[u8]) -> bool {
        let written = match &self.own {
            Some(own) => (&*own).write(line).ok(),
            None => os::write_shared(line),
        };
        written == Some(line.len())
    }
}

/// A line that is too long for a pipe to take at once loses its end, but not its line end.
fn cut(line: &[u8]) -> Cow<'_, [u8]> {
    match line.get(..LINE_BYTES_MAX - 1) {
        Some(start) if line.len() > LINE_BYTES_MAX => Cow::Owned([start, b"\n"].concat()),
        _ => Cow::Borrowed(line),
    }
}

/// The log comes as one write for each line, and never hears of a failure.
impl Write for &Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.log(&cut(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(unix)]
    use std::io::Read;

    #[cfg(unix)]
    #[test]
    fn lost_lines_are_counted_and_told_before_the_next_line() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let pipe = File::from(std::os::fd::OwnedFd::from(writer));
        rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK).expect("ours alone");
        let log = Stderr { own: Some(pipe), lost: AtomicU64::new(0) };
        // A size that fills a pipe without a rest: no shorter line fits when this one does not.
        let line = [[b'x'; 63].as_slice(), b"\n"].concat();
        let mut written = 0;
        while log.lost.load(Ordering::Relaxed) < 7 {
            (&log).write_all(&line).expect("never fails");
            written += 1;
        }
        let mut all = vec![0; (written - 7) * line.len()];
        reader.read_exact(&mut all).expect("what was not lost is there");
        (&log).write_all(b"next\n").expect("never fails");
        drop(log);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "broadcasterd: 7 lines of this log are lost, since nobody read it in time\nnext\n");
    }

    #[test]
    fn a_line_that_is_too_long_keeps_its_end_of_line() {
        assert_eq!(cut(&[b'x'; LINE_BYTES_MAX]).len(), LINE_BYTES_MAX);
        let long = cut(&[b'x'; LINE_BYTES_MAX + 1]).into_owned();
        assert_eq!((long.len(), long.last()), (LINE_BYTES_MAX, Some(&b'\n')));
        assert_eq!(*cut(b"short\n"), *b"short\n");
    }
}
