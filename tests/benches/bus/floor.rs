//! The floors: a broker, a sender and a listener with nothing that is not needed to move frames. They never check, never
//! count, never drop; a listener that stalls stops everybody.
//!
//! The wide floor is (c) with socket buffers and reads that are larger than the kernel's default. It shows what there is to
//! be had beyond the plain floors.
//!
//! On the wire: 4 bytes of length, little-endian, then the payload. A connection opens with one byte that tells its role
//! and is answered by one byte.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::net::sockopt::set_socket_send_buffer_size;

use crate::fail::{Outcome, fail};
use crate::link::{Inbox, Met, Outbox};

const HEADER_BYTES: usize = 4;
/// What a broker's read may bring. With 256 KiB a write no longer fits into a listener's socket buffer and the broker waits
/// for each listener in turn: a quarter slower.
const BROKER_READ_BYTES: usize = 64 * 1024;
/// What a listener's read may bring, and a broker's once it has seen a frame that does not fit into the smaller buffer.
const WIDE_READ_BYTES: usize = 256 * 1024;
/// The socket buffers of the wide floor.
const WIDE_SOCKET_BYTES: usize = 1024 * 1024;
/// What a batching sender puts into one write.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Up to here one copied write beats a vectored one.
const COPIED_BYTES_MAX: usize = 4096;

const LISTENER: u8 = b'L';
const SENDER: u8 = b'S';

type Listeners = Arc<Mutex<Vec<UnixStream>>>;

/// How a floor's broker moves bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    FrameByFrame,
    Batched,
    Wide,
}

/// Serves until it is killed; calls `ready` once connections are accepted.
pub(crate) fn serve(path: &Path, style: Style, ready: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    let socket = UnixListener::bind(path)?;
    ready()?;
    let listeners = Listeners::default();
    loop {
        let (mut conn, _) = socket.accept()?;
        if style == Style::Wide {
            set_socket_send_buffer_size(&conn, WIDE_SOCKET_BYTES)?;
        }
        let mut role = [0];
        conn.read_exact(&mut role)?;
        if role[0] == LISTENER {
            let mut answer = conn.try_clone()?;
            with(&listeners, |all| all.push(conn));
            answer.write_all(&role)?;
            continue;
        }
        conn.write_all(&role)?;
        let listeners = Arc::clone(&listeners);
        // The thread ends with its connection; an error is the same as an end.
        thread::spawn(move || match style {
            Style::FrameByFrame => forward_frames(conn, &listeners),
            Style::Batched => forward_batches(conn, BROKER_READ_BYTES, &listeners),
            Style::Wide => forward_batches(conn, WIDE_READ_BYTES, &listeners),
        });
    }
}

fn with<T>(listeners: &Listeners, act: impl FnOnce(&mut Vec<UnixStream>) -> T) -> T {
    act(&mut listeners.lock().unwrap_or_else(PoisonError::into_inner))
}

fn fan_out(listeners: &Listeners, bytes: &[u8]) {
    with(listeners, |all| {
        all.retain_mut(|listener| listener.write_all(bytes).is_ok());
    });
}

/// Floor (a): two reads per frame, one write per listener and frame.
fn forward_frames(mut conn: UnixStream, listeners: &Listeners) -> Outcome<()> {
    let mut frame = Vec::new();
    loop {
        let bytes = read_frame(&mut conn, &mut frame)?;
        fan_out(listeners, &frame[..bytes]);
    }
}

/// Floors (b) and (c): all whole frames of a read go out in one write per listener.
fn forward_batches(conn: UnixStream, read_bytes: usize, listeners: &Listeners) -> Outcome<()> {
    let mut buffer = ReadBuffer::new(conn, read_bytes);
    loop {
        buffer.fill()?;
        let whole = buffer.whole_frames_bytes();
        if whole > 0 {
            fan_out(listeners, &buffer.unread()[..whole]);
            buffer.skip(whole);
        }
    }
}

/// Reads one frame to the front of `frame`; answers how many bytes it has.
fn read_frame(conn: &mut UnixStream, frame: &mut Vec<u8>) -> Outcome<usize> {
    let mut header = [0; HEADER_BYTES];
    conn.read_exact(&mut header)?;
    let bytes = HEADER_BYTES + u32::from_le_bytes(header) as usize;
    if frame.len() < bytes {
        frame.resize(bytes, 0);
    }
    frame[..HEADER_BYTES].copy_from_slice(&header);
    conn.read_exact(&mut frame[HEADER_BYTES..bytes])?;
    Ok(bytes)
}

/// A connection and what was read from it ahead of need.
struct ReadBuffer {
    conn: UnixStream,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    fn new(conn: UnixStream, read_bytes: usize) -> Self {
        Self { conn, bytes: vec![0; read_bytes], start: 0, end: 0 }
    }

    #[inline]
    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    #[inline]
    fn skip(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// The size of the frame at the front, as soon as its header is there.
    #[inline]
    fn frame_bytes(&self) -> Option<usize> {
        let header = self.unread().first_chunk::<HEADER_BYTES>()?;
        Some(HEADER_BYTES + u32::from_le_bytes(*header) as usize)
    }

    fn whole_frames_bytes(&self) -> usize {
        let unread = self.unread();
        let mut whole = 0;
        while let Some(header) = unread[whole..].first_chunk::<HEADER_BYTES>() {
            let next = whole + HEADER_BYTES + u32::from_le_bytes(*header) as usize;
            if next > unread.len() {
                break;
            }
            whole = next;
        }
        whole
    }

    /// Reads once, behind what is unread, and makes room for the frame at the front first.
    fn fill(&mut self) -> Outcome<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let need = self.frame_bytes().unwrap_or(HEADER_BYTES);
        if self.start + need > self.bytes.len() || self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if need > self.bytes.len() {
            self.bytes.resize(need.max(WIDE_READ_BYTES), 0);
        }
        match self.conn.read(&mut self.bytes[self.end..])? {
            0 => fail("the broker has closed the connection"),
            more => {
                self.end += more;
                Ok(())
            }
        }
    }
}

fn join(path: &Path, role: u8) -> Outcome<UnixStream> {
    let mut conn = UnixStream::connect(path)?;
    conn.write_all(&[role])?;
    conn.read_exact(&mut [0])?;
    Ok(conn)
}

/// A sender that writes each frame, or 64 KiB of frames at once.
pub(crate) struct FloorSender {
    conn: UnixStream,
    batch: Vec<u8>,
    batched: bool,
}

impl FloorSender {
    pub(crate) fn join(path: &Path, batched: bool) -> Outcome<Self> {
        Ok(Self {
            conn: join(path, SENDER)?,
            batch: Vec::with_capacity(BATCH_BYTES_MAX.max(HEADER_BYTES + COPIED_BYTES_MAX)),
            batched,
        })
    }

    pub(crate) fn join_wide(path: &Path) -> Outcome<Self> {
        let sender = Self::join(path, true)?;
        set_socket_send_buffer_size(&sender.conn, WIDE_SOCKET_BYTES)?;
        Ok(sender)
    }

    fn put(&mut self, payload: &[u8]) {
        self.batch.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.batch.extend_from_slice(payload);
    }

    fn write_vectored(&mut self, payload: &[u8]) -> Outcome<()> {
        let header = (payload.len() as u32).to_le_bytes();
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        let written = self.conn.write_vectored(&parts)?;
        if written < HEADER_BYTES {
            self.conn.write_all(&header[written..])?;
        }
        self.conn.write_all(&payload[written.saturating_sub(HEADER_BYTES)..])?;
        Ok(())
    }
}

impl Outbox for FloorSender {
    #[inline]
    fn push(&mut self, payload: &[u8]) -> Outcome<()> {
        if !self.batched {
            if payload.len() > COPIED_BYTES_MAX {
                return self.write_vectored(payload);
            }
            self.put(payload);
            return self.flush();
        }
        if self.batch.len() + HEADER_BYTES + payload.len() > BATCH_BYTES_MAX {
            self.flush()?;
        }
        if HEADER_BYTES + payload.len() >= BATCH_BYTES_MAX {
            return self.write_vectored(payload);
        }
        self.put(payload);
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        self.conn.write_all(&self.batch)?;
        self.batch.clear();
        Ok(())
    }
}

/// The listener of floor (a).
pub(crate) struct FrameListener {
    conn: UnixStream,
    frame: Vec<u8>,
}

impl FrameListener {
    pub(crate) fn join(path: &Path) -> Outcome<Self> {
        Ok(Self { conn: join(path, LISTENER)?, frame: Vec::new() })
    }
}

impl Inbox for FrameListener {
    #[inline]
    fn next(&mut self, see: impl FnOnce(&[u8])) -> Outcome<Met> {
        let bytes = read_frame(&mut self.conn, &mut self.frame)?;
        see(&self.frame[HEADER_BYTES..bytes]);
        Ok(Met::Frame)
    }
}

/// The listener of floors (b) and (c).
pub(crate) struct BatchListener(ReadBuffer);

impl BatchListener {
    pub(crate) fn join(path: &Path) -> Outcome<Self> {
        Ok(Self(ReadBuffer::new(join(path, LISTENER)?, WIDE_READ_BYTES)))
    }
}

impl Inbox for BatchListener {
    #[inline]
    fn next(&mut self, see: impl FnOnce(&[u8])) -> Outcome<Met> {
        loop {
            if let Some(bytes) = self.0.frame_bytes()
                && let Some(frame) = self.0.unread().get(..bytes)
            {
                see(&frame[HEADER_BYTES..]);
                self.0.skip(bytes);
                return Ok(Met::Frame);
            }
            self.0.fill()?;
        }
    }
}
