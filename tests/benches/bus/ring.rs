//! The floors of shared memory: the ring of the bus between one sender and its listeners, and nothing else. No daemon introduces them, nothing
//! is counted, and a listener that sleeps waits for a futex instead of a descriptor. The polled floor never sleeps.
//!
//! The process of the broker only owns the memory: a control page, one page for each listener, and the ring.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use broadcaster_ring::{Doorbell, HEADER_WORDS, Poll, Reader, Record, Ringer, Start, Words, WordsMut, Writer};
use bytes::{Buf, BytesMut};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::thread::futex;

use crate::error::{Result, fail};
use crate::system::{FrameSink, FrameSource, Received};

const PAGE_WORDS: usize = 512;
const LISTENERS_MAX: usize = 64;
/// Words of data: 4 MiB, as in the rings of the bus.
const CAPACITY_WORDS: usize = 512 * 1024;
const RING_AT: usize = (1 + LISTENERS_MAX) * PAGE_WORDS;
const WORDS: usize = RING_AT + HEADER_WORDS + CAPACITY_WORDS;
/// What a listener copies at once, as the listeners of the bus do.
const INTAKE_BYTES: usize = 64 * 1024;
/// Words of a page: the doorbell of the listener, and how often the sender has rung it.
const ARMED: usize = 0;
const RUNG: usize = 16;
const LEN_BYTES: usize = size_of::<u32>();

/// The whole memory, which every process of a run maps. It is never unmapped.
#[derive(Clone, Copy)]
struct Shared(NonNull<AtomicU64>);

// SAFETY: it is a pointer to atomic words, which every thread may use at any time.
unsafe impl Send for Shared {}

impl Shared {
    fn map(file: &File) -> Result<Self> {
        let (bytes, access) = (WORDS * size_of::<u64>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping at an address that the kernel chooses; it touches no memory that is in use.
        let address = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0)? };
        NonNull::new(address.cast()).map_or_else(|| fail("mapped at 0"), |words| Ok(Self(words)))
    }

    fn row(self, at: usize, count: usize) -> Row {
        Row { shared: self, at, count }
    }

    fn page(self, listener: usize) -> Row {
        self.row((1 + listener) * PAGE_WORDS, PAGE_WORDS)
    }

    fn ring(self) -> Row {
        self.row(RING_AT, HEADER_WORDS + CAPACITY_WORDS)
    }
}

/// Consecutive words of the memory.
#[derive(Clone, Copy)]
struct Row {
    shared: Shared,
    at: usize,
    count: usize,
}

impl Row {
    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count);
        // SAFETY: the row is within the mapping, which is aligned to pages, holds only words, and is never unmapped.
        unsafe { self.shared.0.add(self.at + index).as_ref() }
    }

    /// The lower half of a word, for a futex.
    fn half(&self, index: usize) -> &AtomicU32 {
        let word = ptr::from_ref(self.word(index)).cast::<AtomicU32>();
        // SAFETY: the word is valid for as long as the mapping. Processors mix atomic accesses of both sizes; this is not so in the language, and
        // only the kernel loads the half.
        unsafe { &*word.add(usize::from(cfg!(target_endian = "big"))) }
    }
}

impl Words for Row {
    fn count(&self) -> usize {
        self.count
    }

    fn load(&self, index: usize, ordering: Ordering) -> u64 {
        self.word(index).load(ordering)
    }

    fn fence(&self, ordering: Ordering) {
        fence(ordering);
    }
}

impl WordsMut for Row {
    fn store(&self, index: usize, word: u64, ordering: Ordering) {
        self.word(index).store(word, ordering);
    }
}

/// Owns the memory until the process is killed. The file at `path` states where it is.
pub(crate) fn own(path: &Path, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let memory = File::from(memfd_create("bench-ring", MemfdFlags::CLOEXEC)?);
    ftruncate(&memory, (WORDS * size_of::<u64>()) as u64)?;
    fs::write(path, format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd()))?;
    let shared = Shared::map(&memory)?;
    // Every process finds a ring. The sender begins it anew, in the same state.
    Writer::new(shared.ring(), 0);
    ready()?;
    loop {
        std::thread::park();
    }
}

fn attach(path: &Path) -> Result<Shared> {
    let memory = fs::read_to_string(path)?;
    Shared::map(&File::options().read(true).write(true).open(memory)?)
}

pub(crate) struct RingSender {
    shared: Shared,
    writer: Writer<Row>,
    listeners: Vec<Ringer<Row>>,
}

impl RingSender {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let shared = attach(path)?;
        Ok(Self { shared, writer: Writer::new(shared.ring(), 0), listeners: Vec::new() })
    }

    /// All listeners are there before the first frame.
    #[cold]
    fn find_listeners(&mut self) -> Result<()> {
        let count = self.shared.row(0, 1).load(0, SeqCst) as usize;
        self.listeners = (0..count).map(|listener| Ringer::new(self.shared.page(listener), ARMED)).collect();
        if count == 0 { fail("a ring without listeners") } else { Ok(()) }
    }
}

impl FrameSink for RingSender {
    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        if self.listeners.is_empty() {
            self.find_listeners()?;
        }
        self.writer.push(1, &[], payload)?;
        let published = self.writer.publish();
        for (at, listener) in self.listeners.iter_mut().enumerate() {
            if listener.must_ring(&published) {
                let rung = self.shared.page(at);
                rung.half(RUNG).fetch_add(1, SeqCst);
                futex::wake(rung.half(RUNG), futex::Flags::empty(), 1)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

pub(crate) struct RingListener {
    page: Row,
    reader: Reader<Row>,
    doorbell: Doorbell<Row>,
    sleeps: bool,
    frames: BytesMut,
}

impl RingListener {
    pub(crate) fn connect(path: &Path, sleeps: bool) -> Result<Self> {
        let shared = attach(path)?;
        let listener = shared.row(0, 1).word(0).fetch_add(1, SeqCst) as usize;
        if listener >= LISTENERS_MAX {
            return fail(format!("more than {LISTENERS_MAX} listeners"));
        }
        let page = shared.page(listener);
        let reader = Reader::open(shared.ring(), Start::Oldest)?;
        Ok(Self { page, reader, doorbell: Doorbell::new(page, ARMED), sleeps, frames: BytesMut::new() })
    }

    fn wait(&mut self) -> Result<()> {
        if !self.sleeps {
            std::hint::spin_loop();
            return Ok(());
        }
        let rung = self.page.half(RUNG).load(SeqCst);
        let reader = &self.reader;
        if self.doorbell.arm(|| reader.is_ready()) {
            match futex::wait(self.page.half(RUNG), futex::Flags::empty(), rung, None) {
                Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl FrameSource for RingListener {
    #[inline]
    fn recv(&mut self, on_payload: impl FnOnce(&[u8])) -> Result<Received> {
        loop {
            if self.frames.len() >= LEN_BYTES {
                let len = self.frames.get_u32_le() as usize;
                on_payload(&self.frames[..len]);
                self.frames.advance(len);
                return Ok(Received::Frame);
            }
            self.frames.clear();
            let header = |record: &Record| record.payload_bytes.to_le_bytes();
            match self.reader.poll(&mut self.frames, INTAKE_BYTES, header)? {
                Poll::Messages(_) => {}
                Poll::Lapped { lost } => return Ok(Received::Lagged(Some(lost))),
                Poll::Empty => self.wait()?,
                Poll::Closed => return fail("the ring was closed"),
            }
        }
    }
}
