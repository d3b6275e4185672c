//! The floors: broker, sender and listener, reduced to what is needed to move frames.
//!
//! They do not check, count or drop. A stalled listener stops all others. The wide floor is (c) with larger socket buffers
//! and reads than the kernel's default. It shows how much the plain floors leave unused.
//!
//! A frame on the wire is a length (4 bytes, little-endian) and the payload. A connection opens with one byte for its role,
//! and the broker answers with one byte.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::net::sockopt::set_socket_send_buffer_size;

use crate::error::{Result, fail};
use crate::system::{FrameSink, FrameSource, Received};

const HEADER_BYTES: usize = 4;
/// The size of a broker's read. With 256 KiB, a write no longer fits into a listener's socket buffer, and the broker waits
/// for each listener in turn, which makes it slower by a quarter.
const BROKER_READ_BYTES: usize = 64 * 1024;
/// The size of a listener's read, and of a broker's after a frame that exceeds the smaller buffer.
const WIDE_READ_BYTES: usize = 256 * 1024;
/// The size of the wide floor's socket buffers.
const WIDE_SOCKET_BYTES: usize = 1024 * 1024;
/// The most that a batching sender puts into one write.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Up to this size, copying into one buffer is faster than a vectored write.
const COPIED_BYTES_MAX: usize = 4096;

const LISTENER: u8 = b'L';
const SENDER: u8 = b'S';

type Listeners = Arc<Mutex<Vec<UnixStream>>>;

/// How a floor's broker forwards frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarding {
    FrameByFrame,
    Batched,
    Wide,
}

/// Serves until the process is killed. Calls `ready` once the socket is listening.
pub(crate) fn serve(path: &Path, forwarding: Forwarding, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let socket = UnixListener::bind(path)?;
    ready()?;
    let listeners = Listeners::default();
    loop {
        let (mut conn, _) = socket.accept()?;
        if forwarding == Forwarding::Wide {
            set_socket_send_buffer_size(&conn, WIDE_SOCKET_BYTES)?;
        }
        let mut role = [0];
        conn.read_exact(&mut role)?;
        if role[0] == LISTENER {
            let mut answer = conn.try_clone()?;
            with_listeners(&listeners, |all| all.push(conn));
            answer.write_all(&role)?;
            continue;
        }
        conn.write_all(&role)?;
        let listeners = Arc::clone(&listeners);
        // The thread ends with its connection. An error counts as the end of the connection.
        thread::spawn(move || match forwarding {
            Forwarding::FrameByFrame => forward_frames(conn, &listeners),
            Forwarding::Batched => forward_batches(conn, BROKER_READ_BYTES, &listeners),
            Forwarding::Wide => forward_batches(conn, WIDE_READ_BYTES, &listeners),
        });
    }
}

fn with_listeners<T>(listeners: &Listeners, act: impl FnOnce(&mut Vec<UnixStream>) -> T) -> T {
    act(&mut listeners.lock().unwrap_or_else(PoisonError::into_inner))
}

fn fan_out(listeners: &Listeners, bytes: &[u8]) {
    with_listeners(listeners, |all| {
        all.retain_mut(|listener| listener.write_all(bytes).is_ok());
    });
}

/// Floor (a): two reads per frame, one write per listener and frame.
fn forward_frames(mut conn: UnixStream, listeners: &Listeners) -> Result<()> {
    let mut frame = Vec::new();
    loop {
        let bytes = read_frame(&mut conn, &mut frame)?;
        fan_out(listeners, &frame[..bytes]);
    }
}

/// Floors (b) and (c): all complete frames of a read go out in one write per listener.
fn forward_batches(conn: UnixStream, read_bytes: usize, listeners: &Listeners) -> Result<()> {
    let mut buffer = ReadBuffer::new(conn, read_bytes);
    loop {
        buffer.fill()?;
        let complete = buffer.complete_frames_bytes();
        if complete > 0 {
            fan_out(listeners, &buffer.unread()[..complete]);
            buffer.consume(complete);
        }
    }
}

/// Reads one frame to the front of `frame`, and returns its size.
fn read_frame(conn: &mut UnixStream, frame: &mut Vec<u8>) -> Result<usize> {
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

/// A connection with a read buffer.
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
    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// The size of the frame at the front, once its header has been read.
    #[inline]
    fn frame_bytes(&self) -> Option<usize> {
        let header = self.unread().first_chunk::<HEADER_BYTES>()?;
        Some(HEADER_BYTES + u32::from_le_bytes(*header) as usize)
    }

    fn complete_frames_bytes(&self) -> usize {
        let unread = self.unread();
        let mut complete = 0;
        while let Some(header) = unread[complete..].first_chunk::<HEADER_BYTES>() {
            let next = complete + HEADER_BYTES + u32::from_le_bytes(*header) as usize;
            if next > unread.len() {
                break;
            }
            complete = next;
        }
        complete
    }

    /// Makes room for the frame at the front, then reads once.
    fn fill(&mut self) -> Result<()> {
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
            0 => fail("the connection was closed"),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }
}

fn connect(path: &Path, role: u8) -> Result<UnixStream> {
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
    pub(crate) fn connect(path: &Path, batched: bool) -> Result<Self> {
        Ok(Self {
            conn: connect(path, SENDER)?,
            batch: Vec::with_capacity(BATCH_BYTES_MAX.max(HEADER_BYTES + COPIED_BYTES_MAX)),
            batched,
        })
    }

    pub(crate) fn connect_wide(path: &Path) -> Result<Self> {
        let sender = Self::connect(path, true)?;
        set_socket_send_buffer_size(&sender.conn, WIDE_SOCKET_BYTES)?;
        Ok(sender)
    }

    fn append(&mut self, payload: &[u8]) {
        self.batch.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.batch.extend_from_slice(payload);
    }

    fn write_vectored(&mut self, payload: &[u8]) -> Result<()> {
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

impl FrameSink for FloorSender {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        if !self.batched {
            if payload.len() > COPIED_BYTES_MAX {
                return self.write_vectored(payload);
            }
            self.append(payload);
            return self.flush();
        }
        if self.batch.len() + HEADER_BYTES + payload.len() > BATCH_BYTES_MAX {
            self.flush()?;
        }
        if HEADER_BYTES + payload.len() >= BATCH_BYTES_MAX {
            return self.write_vectored(payload);
        }
        self.append(payload);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
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
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        Ok(Self { conn: connect(path, LISTENER)?, frame: Vec::new() })
    }
}

impl FrameSource for FrameListener {
    #[inline]
    fn recv(&mut self, on_payload: impl FnOnce(&[u8])) -> Result<Received> {
        let bytes = read_frame(&mut self.conn, &mut self.frame)?;
        on_payload(&self.frame[HEADER_BYTES..bytes]);
        Ok(Received::Frame)
    }
}

/// The listener of floors (b) and (c).
pub(crate) struct BatchListener(ReadBuffer);

impl BatchListener {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        Ok(Self(ReadBuffer::new(connect(path, LISTENER)?, WIDE_READ_BYTES)))
    }
}

impl FrameSource for BatchListener {
    #[inline]
    fn recv(&mut self, on_payload: impl FnOnce(&[u8])) -> Result<Received> {
        loop {
            if let Some(bytes) = self.0.frame_bytes()
                && let Some(frame) = self.0.unread().get(..bytes)
            {
                on_payload(&frame[HEADER_BYTES..]);
                self.0.consume(bytes);
                return Ok(Received::Frame);
            }
            self.0.fill()?;
        }
    }
}
