//! One end of a connected pipe, read and written without waiting, and waited for in two ways. It keeps at most one piece of what was written to
//! it, and never a byte of what is read.

use super::event::{Event, Waiter};
use super::operation::{Operation, code};
use super::text::length;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use windows_sys::Win32::Foundation::{ERROR_BROKEN_PIPE, ERROR_NO_DATA, ERROR_PIPE_NOT_CONNECTED, HANDLE};
use windows_sys::Win32::Storage::FileSystem::{ReadFile, WriteFile};
use windows_sys::Win32::System::Pipes::PeekNamedPipe;

/// Most bytes of one write, and so of what is kept while a pipe is full.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// A piece up to this size keeps its memory for the next one.
const PIECE_BYTES_KEPT: usize = 4 * 1024;

/// One end of a connected pipe.
///
/// # Reading
///
/// A read of no bytes is under way during a wait. It ends when there is something to read, or no writer is left, and takes nothing. So a wait
/// may be given up at any time, and nothing is lost.
///
/// # Writing
///
/// Windows takes a write as a whole, and has it *under way* until all of it fits. A piece that is under way counts as written
/// without its last byte; that byte counts when the pipe has taken the piece. So a writer whose bytes are all counted knows that they are in
/// the pipe, where they stay readable even if this end is closed; and a writer that has begun a frame goes on with it, as with any stream that
/// took a part.
#[derive(Debug)]
pub struct Pipe {
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
    /// Last, so that it outlives both.
    handle: OwnedHandle,
}

#[derive(Debug)]
struct Incoming {
    /// The read of no bytes.
    probe: Operation,
    /// The read of what is there.
    read: Operation,
}

#[derive(Debug)]
struct Outgoing {
    write: Operation,
    piece: Vec<u8>,
}

impl Pipe {
    /// The pipe with this handle, which must be that of a pipe's connected end that was opened for overlapped use.
    pub(super) fn new(handle: OwnedHandle) -> io::Result<Self> {
        let incoming = Mutex::new(Incoming { probe: Operation::new()?, read: Operation::new()? });
        let outgoing = Mutex::new(Outgoing { write: Operation::new()?, piece: Vec::new() });
        Ok(Self { incoming, outgoing, handle })
    }

    pub(super) fn raw(&self) -> HANDLE {
        self.handle.as_raw_handle()
    }

    /// Reads what has arrived, without waiting; returns the part at the beginning of `target` that it has initialised. No byte is the end of the
    /// stream.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if nothing has arrived.
    #[allow(unsafe_code)]
    pub fn read<'a>(&self, target: &'a mut [MaybeUninit<u8>]) -> io::Result<&'a mut [u8]> {
        let len = self.read_raw(target)?;
        // SAFETY: `read_raw` has initialised the first `len` bytes.
        Ok(unsafe { &mut *(std::ptr::from_mut(&mut target[..len]) as *mut [u8]) })
    }

    /// The same, returning how many bytes it has initialised.
    #[allow(unsafe_code)]
    fn read_raw(&self, target: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        let mut incoming = lock(&self.incoming);
        let mut there = 0;
        let (nowhere, unasked) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the handle is open; null asks for nothing, and `there` is a place for a number.
        if unsafe { PeekNamedPipe(self.raw(), nowhere, 0, unasked, &raw mut there, unasked) } == 0 {
            return end_of_stream(io::Error::last_os_error());
        }
        let wanted = there.min(length(target.len()));
        if wanted == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let handle = self.raw();
        // SAFETY: `target` has room for `wanted` bytes, and stays in place until the operation has ended, just below.
        let call =
            |overlapped| unsafe { ReadFile(handle, target.as_mut_ptr().cast(), wanted, unasked, overlapped) } != 0;
        if let Err(error) = incoming.read.start(call) {
            return end_of_stream(error);
        }
        // The probe has ended when this arrived: its result is stale for the next wait.
        let _ = incoming.probe.outcome(handle, false);
        // What has arrived is there for us: nothing else reads, so that this does not wait.
        match incoming.read.outcome(handle, true) {
            Some(Ok(0)) | None => Err(io::ErrorKind::WouldBlock.into()),
            Some(Ok(read)) => Ok(read),
            Some(Err(error)) => end_of_stream(error),
        }
    }

    /// The same to memory that is initialised already.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read)
    #[allow(unsafe_code)]
    pub fn read_over(&self, target: &mut [u8]) -> io::Result<usize> {
        // SAFETY: it is the same memory, and `read_raw` writes initialised bytes to it or nothing.
        self.read_raw(unsafe { &mut *(std::ptr::from_mut(target) as *mut [MaybeUninit<u8>]) })
    }

    /// Writes what the pipe takes of `parts`, in order and without waiting; returns how many bytes count as written, of which the
    /// next write must not repeat any and must not leave any other out.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if the pipe is full.
    #[allow(unsafe_code)]
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut outgoing = lock(&self.outgoing);
        let Outgoing { write, piece } = &mut *outgoing;
        let handle = self.raw();
        let mut taken = 0;
        if write.is_under_way() {
            match write.outcome(handle, false) {
                None => return Err(io::ErrorKind::WouldBlock.into()),
                Some(Ok(_)) => taken = 1,
                Some(Err(error)) => return Err(gone(error)),
            }
        }
        loop {
            piece.clear();
            piece.shrink_to(PIECE_BYTES_KEPT);
            collect(parts, taken, piece);
            if piece.is_empty() {
                return Ok(taken);
            }
            let (bytes, len) = (piece.as_ptr(), length(piece.len()));
            // SAFETY: the piece has `len` bytes, and is neither changed nor freed before the operation has ended.
            let call = |overlapped| unsafe { WriteFile(handle, bytes, len, std::ptr::null_mut(), overlapped) } != 0;
            match write.start(call) {
                Ok(()) => {}
                Err(_) if taken > 0 => return Ok(taken), // the next write meets it again
                Err(error) => return Err(gone(error)),
            }
            match write.outcome(handle, false) {
                Some(Ok(_)) => taken += piece.len(),
                Some(Err(_)) if taken > 0 => return Ok(taken),
                Some(Err(error)) => return Err(gone(error)),
                None => {
                    taken += piece.len() - 1;
                    return if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) };
                }
            }
        }
    }

    /// Waits on this thread until there is something to read, or no writer is left; `false` if the time was over first.
    ///
    /// # Errors
    ///
    /// If the system refuses to wait.
    pub fn wait_readable(&self, timeout: Option<Duration>) -> io::Result<bool> {
        // The probe is this thread's for as long as it waits: another one that reads at the same time would have to wait.
        let mut incoming = lock(&self.incoming);
        if self.probe(&mut incoming) { Ok(true) } else { incoming.probe.event().wait(timeout) }
    }

    /// Waits on this thread until the pipe has taken what is under way; `false` if the time was over first.
    ///
    /// # Errors
    ///
    /// If the system refuses to wait.
    pub fn wait_writable(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let outgoing = lock(&self.outgoing);
        if outgoing.write.is_under_way() { outgoing.write.event().wait(timeout) } else { Ok(true) }
    }

    /// Ready when there is something to read, or no writer is left.
    pub fn poll_readable(&self, cx: &mut Context<'_>, waiter: &Waiter) -> Poll<io::Result<()>> {
        let mut incoming = lock(&self.incoming);
        if self.probe(&mut incoming) { Poll::Ready(Ok(())) } else { waiter.poll(cx, incoming.probe.event()) }
    }

    /// Ready when the pipe has taken what is under way.
    pub fn poll_writable(&self, cx: &mut Context<'_>, waiter: &Waiter) -> Poll<io::Result<()>> {
        let outgoing = lock(&self.outgoing);
        if outgoing.write.is_under_way() { waiter.poll(cx, outgoing.write.event()) } else { Poll::Ready(Ok(())) }
    }

    /// Ends every wait for this end, so that its waiters look again. The pipe itself ends when it is dropped.
    #[allow(unsafe_code)]
    pub fn interrupt(&self) {
        // SAFETY: the handle is open; null means all operations on it, which end and are taken note of where they were started.
        unsafe { windows_sys::Win32::System::IO::CancelIoEx(self.raw(), std::ptr::null()) };
    }

    /// Waits on this thread for the first of several pipes.
    ///
    /// # Errors
    ///
    /// If the system refuses to wait, or there are more pipes than it can wait for at once.
    pub(super) fn wait_any<'a>(
        pipes: impl Iterator<Item = (&'a Self, bool)>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        // Each probe is this thread's for as long as it waits.
        let mut waits = Vec::new();
        for (pipe, writable) in pipes {
            let wait =
                if writable { Wait::Outgoing(lock(&pipe.outgoing)) } else { Wait::Incoming(lock(&pipe.incoming)) };
            waits.push(wait);
            if match waits.last_mut() {
                Some(Wait::Incoming(incoming)) => pipe.probe(incoming),
                Some(Wait::Outgoing(outgoing)) => !outgoing.write.is_under_way(),
                None => false,
            } {
                return Ok(());
            }
        }
        let events: Vec<&Event> = waits.iter().map(Wait::event).collect();
        Event::wait_any(&events, timeout).map(drop)
    }

    /// Whether it is known that there is something to read; otherwise the probe is under way.
    #[allow(unsafe_code)]
    fn probe(&self, incoming: &mut Incoming) -> bool {
        let handle = self.raw();
        if incoming.probe.is_under_way() {
            return incoming.probe.outcome(handle, false).is_some();
        }
        let mut nothing = 0_u8;
        // SAFETY: a read of no bytes writes to no place.
        let call = |overlapped| unsafe { ReadFile(handle, &raw mut nothing, 0, std::ptr::null_mut(), overlapped) } != 0;
        // An error counts as well: the next read meets it.
        incoming.probe.start(call).is_err() || incoming.probe.outcome(handle, false).is_some()
    }
}

/// One direction of a pipe, for as long as a thread waits for it.
enum Wait<'a> {
    Incoming(MutexGuard<'a, Incoming>),
    Outgoing(MutexGuard<'a, Outgoing>),
}

impl Wait<'_> {
    fn event(&self) -> &Event {
        match self {
            Self::Incoming(incoming) => incoming.probe.event(),
            Self::Outgoing(outgoing) => outgoing.write.event(),
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let handle = self.raw();
        let incoming = self.incoming.get_mut().unwrap_or_else(PoisonError::into_inner);
        incoming.probe.cancel(handle);
        incoming.read.cancel(handle);
        let outgoing = self.outgoing.get_mut().unwrap_or_else(PoisonError::into_inner);
        outgoing.write.cancel(handle);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next piece of `parts` after the first `taken` bytes.
fn collect(parts: &[IoSlice<'_>], mut taken: usize, piece: &mut Vec<u8>) {
    for part in parts {
        let rest = part.get(taken..).unwrap_or_default();
        taken = taken.saturating_sub(part.len());
        let room = PIECE_BYTES_MAX - piece.len();
        piece.extend_from_slice(&rest[..rest.len().min(room)]);
    }
}

/// An end of the stream by any of its names.
fn end_of_stream(error: io::Error) -> io::Result<usize> {
    match code(&error) {
        ERROR_BROKEN_PIPE | ERROR_PIPE_NOT_CONNECTED => Ok(0),
        _ => Err(error),
    }
}

/// A write that has no reader left, by the one name that callers know.
fn gone(error: io::Error) -> io::Error {
    match code(&error) {
        ERROR_NO_DATA | ERROR_PIPE_NOT_CONNECTED => io::Error::new(io::ErrorKind::BrokenPipe, error),
        _ => error,
    }
}
