//! The journal of systemd: whether stderr leads to it, and its protocol, in which an entry is a datagram of fields. Entries are
//! encoded here and sent by the log's thread.

use super::queue::Queue;
use rustix::fs::fstat;
use std::fmt::{self, Write};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Names the file that connects stderr to the journal, as `device:inode`.
const STREAM_VARIABLE: &str = "JOURNAL_STREAM";

const IDENTIFIER: &str = "broadcasterd";

/// Prefix of the names of our own fields, such as `BROADCASTERD_PID`.
const FIELD_PREFIX: &str = "BROADCASTERD_";

/// The field that `tracing` uses for the text of an event.
const MESSAGE_FIELD: &str = "message";

/// The journal's priorities, which are those of syslog.
#[derive(Debug, Clone, Copy)]
enum Priority {
    Error = 3,
    Warning = 4,
    Informational = 6,
    Debug = 7,
}

impl From<&Level> for Priority {
    fn from(level: &Level) -> Self {
        match *level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warning,
            Level::INFO => Self::Informational,
            Level::DEBUG | Level::TRACE => Self::Debug,
        }
    }
}

/// The log as entries of the journal, with their fields.
#[derive(Debug)]
pub(super) struct Journal(Queue);

impl Journal {
    /// The journal, if stderr is connected to it and it listens.
    pub(super) fn of_stderr() -> io::Result<Option<Self>> {
        if !leads_to_journal() || UnixDatagram::unbound()?.connect(SOCKET).is_err() {
            return Ok(None);
        }
        Self::at(Path::new(SOCKET)).map(Some)
    }

    /// The journal at this socket.
    fn at(socket: &'static Path) -> io::Result<Self> {
        let sender = UnixDatagram::unbound()?;
        // The path is resolved for each entry: a journal that is restarted may have a new socket.
        Queue::start(move |entry| sender.send_to(entry, socket).map(drop), report_of_loss).map(Self)
    }

    /// The entries that wait to be sent.
    pub(super) fn queue(&self) -> Queue {
        self.0.clone()
    }
}

/// Whether the variable names the file that stderr is.
fn leads_to_journal() -> bool {
    let (Ok(stat), Ok(stream)) = (fstat(io::stderr()), std::env::var(STREAM_VARIABLE)) else { return false };
    names(&stream, stat.st_dev, stat.st_ino)
}

/// Whether this value of the variable names this file.
fn names(stream: &str, device: u64, inode: u64) -> bool {
    let Some((of_device, of_inode)) = stream.split_once(':') else { return false };
    of_device.parse() == Ok(device) && of_inode.parse() == Ok(inode)
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut entry = Entry::new(metadata.level().into());
        entry.put("TARGET", format_args!("{}", metadata.target()));
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            entry.put("CODE_FILE", format_args!("{file}"));
            entry.put("CODE_LINE", format_args!("{line}"));
        }
        event.record(&mut entry);
        self.0.push(entry.0);
    }
}

fn report_of_loss(lost: u64) -> Vec<u8> {
    let mut entry = Entry::new(Priority::Warning);
    entry.put("MESSAGE", format_args!("{lost} entries of this log were lost because the journal did not read in time"));
    entry.0
}

/// An entry in the journal's protocol: for each field its name, a newline, the length of its value (64 bits, little-endian), the
/// value, and a newline.
struct Entry(Vec<u8>);

impl Entry {
    fn new(priority: Priority) -> Self {
        let mut entry = Self(Vec::with_capacity(512));
        entry.put("PRIORITY", format_args!("{}", priority as u8));
        entry.put("SYSLOG_IDENTIFIER", format_args!("{IDENTIFIER}"));
        entry
    }

    fn put(&mut self, name: &str, value: fmt::Arguments<'_>) {
        let value = value.to_string();
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

/// The fields of an event.
impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == MESSAGE_FIELD {
            return self.put("MESSAGE", format_args!("{value:?}"));
        }
        // The journal accepts capital letters, digits and underscores.
        let mut name = String::from(FIELD_PREFIX);
        for character in field.name().chars() {
            let character = character.to_ascii_uppercase();
            let _ = name.write_char(if character.is_ascii_alphanumeric() { character } else { '_' });
        }
        self.put(&name, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tracing_subscriber::layer::SubscriberExt;

    /// A journal of this test, which is not read, and its side of the socket.
    fn journal() -> (Journal, UnixDatagram, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let path: &'static Path = Box::leak(directory.path().join("journal").into_boxed_path());
        let socket = UnixDatagram::bind(path).expect("bound");
        (Journal::at(path).expect("a thread"), socket, directory)
    }

    /// The fields of the next entry.
    fn receive(socket: &UnixDatagram) -> BTreeMap<String, String> {
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).expect("an entry");
        let (mut rest, mut fields) = (&buffer[..len], BTreeMap::new());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (name, tail) = (&rest[..end], &rest[end + 1..]);
            let (length, tail) = tail.split_first_chunk().expect("a length");
            let (value, tail) = tail.split_at(usize::try_from(u64::from_le_bytes(*length)).expect("short"));
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            fields.insert(text(name), text(value));
            rest = tail.strip_prefix(b"\n").expect("the end of a field");
        }
        fields
    }

    #[test]
    fn entry_has_the_fields_of_its_event() {
        let (journal, socket, _directory) = journal();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            let error = io::Error::other("two\nlines");
            tracing::warn!(pid = 7, error = &error as &dyn std::error::Error, socket = %"/a b", "cannot {}", "serve");
        });
        let entry = receive(&socket);
        let expected = [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "broadcasterd"),
            ("MESSAGE", "cannot serve"),
            ("BROADCASTERD_PID", "7"),
            ("BROADCASTERD_ERROR", "two\nlines"),
            ("BROADCASTERD_SOCKET", "/a b"),
            ("CODE_FILE", file!()),
            ("TARGET", module_path!()),
        ];
        for (name, value) in expected {
            assert_eq!(entry.get(name).map(String::as_str), Some(value), "{name} in {entry:?}");
        }
    }

    #[test]
    fn journal_that_does_not_read_never_blocks_the_log_and_learns_what_it_lost() {
        const ENTRIES: u64 = 5000;
        let (journal, socket, _directory) = journal();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            // More than the socket and the queue hold: this returns only if it does not wait for the journal.
            (0..ENTRIES).for_each(|number| tracing::info!(number, "entry"));
        });
        let (mut received, mut lost) = (0, 0);
        while received + lost < ENTRIES {
            let message = receive(&socket).remove("MESSAGE").expect("a message");
            match message.split_once(" entries of this log were lost") {
                Some((count, _)) => lost += count.parse::<u64>().expect("a number"),
                None => received += 1,
            }
        }
        assert_eq!(received + lost, ENTRIES);
        assert!(lost > 0);
    }

    #[test]
    fn only_the_file_that_the_variable_names_is_the_journal() {
        assert!(names("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "8", "", ":", "8:", "8:1234:", "x:1234", "8:1234 "] {
            assert!(!names(other, 8, 1234), "{other}");
        }
    }
}
