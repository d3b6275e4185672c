//! Memory that one process writes and others read. It verifies that no other process can change its size or write to it.

use super::mapping::Mapping;
use super::{Descriptor, failed};
use crate::failpoint;
use broadcaster_ring::{Words, WordsMut};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::ProtFlags;
use rustix::process::Resource;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

/// The memory can neither shrink nor grow, no other mapping can write to it, and this stays so.
const SEALS: [(SealFlags, &str); 4] = [
    (SealFlags::SHRINK, "SHRINK"),
    (SealFlags::GROW, "GROW"),
    (SealFlags::FUTURE_WRITE, "FUTURE_WRITE"),
    (SealFlags::SEAL, "SEAL"),
];

/// The file system of memory that is not made of huge pages.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Memory that this process made and writes. No other mapping can write to it, except for the copy of this one in a forked child.
#[derive(Debug)]
pub struct WritableMemory(Mapping);

/// Memory that another process made, as this process reads it.
#[derive(Debug)]
pub struct ReadOnlyMemory(Mapping);

/// Makes memory of `bytes` zeros, which must be a multiple of 8, and its descriptor for the processes that will read it. `/proc` shows it
/// with this name.
///
/// It is as large as this from the beginning to the end. The system provides pages when they are first used.
///
/// # Errors
///
/// [`OutOfMemory`](io::ErrorKind::OutOfMemory) if this process or the system is out of descriptors or memory, which may pass. Another error
/// if the system does not allow it: see [`shared_memory_problem`](crate::shared_memory_problem).
pub fn make_memory(name: &str, bytes: usize) -> io::Result<(Descriptor, WritableMemory)> {
    let size = size_of_words(bytes)?;
    failpoint::step("memory: to be made");
    let file = create(name)?;
    failpoint::step("memory: made");
    // The system would end a process that exceeds its limit.
    let limit = rustix::process::getrlimit(Resource::Fsize).current;
    if let Some(limit) = limit.filter(|&limit| size > limit) {
        let problem = format!("memory of {bytes} bytes is larger than the limit on the size of files, {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    rustix::fs::ftruncate(&file, size).map_err(|errno| failed("ftruncate", errno))?;
    // A mapping from before the seals keeps its access.
    let mapping = map(&file, bytes, ProtFlags::READ | ProtFlags::WRITE)?;
    failpoint::step("memory: mapped, not sealed");
    let seals = SEALS.iter().fold(SealFlags::empty(), |seals, (seal, _)| seals | *seal);
    rustix::fs::fcntl_add_seals(&file, seals).map_err(|errno| failed("F_ADD_SEALS", errno))?;
    failpoint::step("memory: sealed");
    Ok((file.into(), WritableMemory(mapping)))
}

/// Maps memory that another process made, after checking that its size is one of `sizes` in bytes, and that nothing can change its size
/// or open it for writing. Its maker can still write to it at any time.
///
/// # Errors
///
/// [`InvalidData`](io::ErrorKind::InvalidData) if the descriptor refers to anything else. [`OutOfMemory`](io::ErrorKind::OutOfMemory) if this
/// process or the system is out of memory, which may pass.
pub fn open_memory(descriptor: &Descriptor, sizes: RangeInclusive<usize>) -> io::Result<ReadOnlyMemory> {
    let seals = match rustix::fs::fcntl_get_seals(descriptor) {
        Ok(seals) => seals,
        Err(Errno::INVAL) => return Err(invalid("the descriptor does not refer to memory")),
        Err(errno) => return Err(failed("F_GET_SEALS", errno)),
    };
    if let Some((_, name)) = SEALS.iter().find(|(seal, _)| !seals.contains(*seal)) {
        return Err(invalid(&format!("the memory lacks the seal {name}")));
    }
    let size = rustix::fs::fstat(descriptor).map_err(|errno| failed("fstat", errno))?.st_size;
    let bytes = usize::try_from(size).ok().filter(|bytes| sizes.contains(bytes)).ok_or_else(|| {
        let (min, max) = (sizes.start(), sizes.end());
        invalid(&format!("the memory has {size} bytes, and not {min} to {max}"))
    })?;
    size_of_words(bytes).map_err(|error| invalid(&error.to_string()))?;
    let system = rustix::fs::fstatfs(descriptor).map_err(|errno| failed("fstatfs", errno))?.f_type;
    #[allow(clippy::useless_conversion)] // its type depends on the system
    let is_tmpfs = u64::try_from(system) == Ok(TMPFS_MAGIC);
    if !is_tmpfs {
        // Huge pages may run out, and then a load would end this process.
        return Err(invalid(&format!(
            "the memory belongs to a file system of the type {system:#x}, and not {TMPFS_MAGIC:#x}"
        )));
    }
    failpoint::step("memory: verified");
    let mapping = map(descriptor, bytes, ProtFlags::READ)?;
    failpoint::step("memory: mapped");
    Ok(ReadOnlyMemory(mapping))
}

fn create(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags), // before Linux 6.3
        other => other,
    };
    file.map_err(|errno| failed("memfd_create", errno))
}

fn map(file: impl AsFd, bytes: usize, protection: ProtFlags) -> io::Result<Mapping> {
    Mapping::new(file.as_fd(), bytes, protection).map_err(|errno| failed("mmap", errno))
}

/// The size in bytes of memory that consists of words.
fn size_of_words(bytes: usize) -> io::Result<u64> {
    match u64::try_from(bytes) {
        Ok(size) if bytes > 0 && bytes.is_multiple_of(size_of::<u64>()) => Ok(size),
        _ => {
            let problem = format!("memory consists of words of 8 bytes, and {bytes} bytes do not");
            Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
        }
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

impl Words for WritableMemory {
    #[inline]
    fn count(&self) -> usize {
        self.0.words().len()
    }

    #[inline]
    fn load(&self, index: usize, ordering: Ordering) -> u64 {
        self.0.words()[index].load(ordering)
    }

    #[inline]
    fn fence(&self, ordering: Ordering) {
        fence(ordering);
    }

    #[inline]
    fn load_words(&self, index: usize, words: &mut [[u8; 8]]) {
        self.0.words().load_words(index, words);
    }
}

impl WordsMut for WritableMemory {
    #[inline]
    fn store(&self, index: usize, word: u64, ordering: Ordering) {
        failpoint::step("memory: stores a word");
        self.0.words()[index].store(word, ordering);
    }

    #[inline]
    fn store_words(&self, index: usize, words: &[[u8; 8]]) {
        failpoint::step("memory: stores words");
        if failpoint::IS_ENABLED && words.len() > 1 {
            let (front, back) = words.split_at(words.len() / 2);
            self.0.words().store_words(index, front);
            failpoint::step("memory: has stored half of the words");
            return self.0.words().store_words(index + front.len(), back);
        }
        self.0.words().store_words(index, words);
    }
}

impl Words for ReadOnlyMemory {
    #[inline]
    fn count(&self) -> usize {
        self.0.words().len()
    }

    /// Relaxed loads alone are guaranteed not to store. Fences make one order as much as the load would.
    #[inline]
    fn load(&self, index: usize, ordering: Ordering) -> u64 {
        if ordering == Ordering::SeqCst {
            fence(Ordering::SeqCst);
        }
        let word = self.0.words()[index].load(Ordering::Relaxed);
        if ordering != Ordering::Relaxed {
            fence(Ordering::Acquire);
        }
        word
    }

    #[inline]
    fn fence(&self, ordering: Ordering) {
        fence(ordering);
    }

    #[inline]
    fn load_words(&self, index: usize, words: &mut [[u8; 8]]) {
        self.0.words().load_words(index, words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broadcaster_ring::{Poll, Reader, Start, Writer};
    use bytes::BytesMut;
    use rustix::event::EventfdFlags;
    use rustix::io::FdFlags;
    use std::os::fd::AsRawFd;

    const PAGE: usize = 4096;

    fn page() -> (Descriptor, WritableMemory) {
        make_memory("broadcaster-test", PAGE).expect("made")
    }

    /// Another descriptor of the same memory, as a peer receives it.
    fn sent(descriptor: &Descriptor) -> Descriptor {
        descriptor.as_fd().try_clone_to_owned().expect("duplicated").into()
    }

    fn refusal(descriptor: &Descriptor, sizes: RangeInclusive<usize>) -> String {
        let error = open_memory(descriptor, sizes).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        error.to_string()
    }

    #[test]
    fn reader_sees_what_the_writer_stores() {
        let (descriptor, writable) = page();
        let readable = open_memory(&sent(&descriptor), PAGE..=PAGE).expect("opened");
        assert_eq!((writable.count(), readable.count()), (512, 512));
        assert_eq!(readable.load(511, Ordering::Relaxed), 0, "memory is zeros at first");
        writable.store(511, 1 << 63, Ordering::Release);
        for ordering in [Ordering::Relaxed, Ordering::Acquire, Ordering::SeqCst] {
            assert_eq!(readable.load(511, ordering), 1 << 63);
        }
        writable.store_words(1, &[*b"abcdefgh", *b"ABCDEFGH"]);
        let mut words = [[0; 8]; 3];
        readable.load_words(0, &mut words);
        assert_eq!(words, [[0; 8], *b"abcdefgh", *b"ABCDEFGH"]);
        writable.load_words(0, &mut words[..2]);
        assert_eq!(words[1], *b"abcdefgh");
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn words_behind_the_end_are_not_copied() {
        let (_descriptor, writable) = page();
        writable.load_words(511, &mut [[0; 8]; 2]);
    }

    #[test]
    fn ring_carries_records_between_two_mappings() {
        const RECORDS: u64 = 20_000;
        let bytes = (broadcaster_ring::HEADER_WORDS + 4096) * 8;
        let (descriptor, writable) = make_memory("broadcaster-ring", bytes).expect("made");
        let mut writer = Writer::new(writable, 7);
        let received = sent(&descriptor);
        drop(descriptor);
        let memory = open_memory(&received, bytes..=bytes).expect("opened");
        drop(received);
        let mut reader = Reader::open(memory, Start::Oldest).expect("a ring");
        let writes = std::thread::spawn(move || {
            for number in 0..RECORDS {
                writer.push(1, b"metadata", &number.to_le_bytes()).expect("small");
                let _ = writer.publish();
            }
            let _ = writer.close();
        });
        let (mut received, mut lost, mut taken) = (0_u64, 0_u64, BytesMut::new());
        loop {
            match reader.poll(&mut taken, usize::MAX, |_| [0_u8; 0]).expect("an honest writer") {
                Poll::Messages(count) => {
                    let records = taken.split();
                    assert_eq!(records.len() as u64, count * 16);
                    for record in records.chunks(16) {
                        assert_eq!(record[..8], *b"metadata");
                        assert_eq!(record[8..], (received + lost).to_le_bytes());
                        received += 1;
                    }
                }
                Poll::Lapped { lost: more } => lost += more,
                Poll::Empty => std::thread::yield_now(),
                Poll::Closed => break,
            }
        }
        writes.join().expect("the writer has finished");
        assert_eq!((received + lost, reader.cursor().sequence), (RECORDS, 7 + RECORDS));
    }

    #[test]
    fn neither_size_nor_contents_can_be_changed_through_the_descriptor() {
        let (descriptor, writable) = page();
        let other = rustix::fs::open(
            format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()),
            rustix::fs::OFlags::RDWR,
            rustix::fs::Mode::empty(),
        )
        .expect("opened again");
        for file in [&sent(&descriptor), &Descriptor::from(other)] {
            let refused = |outcome: rustix::io::Result<()>| assert_eq!(outcome, Err(Errno::PERM));
            refused(rustix::fs::ftruncate(file, 0));
            refused(rustix::fs::ftruncate(file, 2 * PAGE as u64));
            refused(rustix::io::write(file, b"x").map(drop));
            refused(Mapping::new(file.as_fd(), PAGE, ProtFlags::READ | ProtFlags::WRITE).map(drop));
            refused(rustix::fs::fcntl_add_seals(file, SealFlags::WRITE));
            let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            refused(rustix::fs::fallocate(file, punch, 0, PAGE as u64));
        }
        writable.store(0, 1, Ordering::Relaxed);
        assert_eq!(writable.load(0, Ordering::Relaxed), 1, "its maker can still write");
    }

    #[test]
    fn memory_without_one_of_the_seals_is_refused() {
        for (missing, name) in SEALS {
            let file = create("broadcaster-test").expect("made");
            rustix::fs::ftruncate(&file, PAGE as u64).expect("resized");
            let others = SEALS.iter().filter(|(seal, _)| *seal != missing).map(|(seal, _)| *seal);
            // No seal can be added after this one.
            let (last, first): (Vec<_>, Vec<_>) = others.partition(|seal| *seal == SealFlags::SEAL);
            for seal in first.into_iter().chain(last) {
                rustix::fs::fcntl_add_seals(&file, seal).expect("sealed");
            }
            assert_eq!(refusal(&file.into(), PAGE..=PAGE), format!("the memory lacks the seal {name}"));
        }
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let (descriptor, _writable) = page();
        for allowed in [PAGE..=PAGE, 0..=PAGE, PAGE..=1 << 30] {
            open_memory(&descriptor, allowed).expect("its size is allowed");
        }
        assert_eq!(refusal(&descriptor, 0..=4095), "the memory has 4096 bytes, and not 0 to 4095");
        assert_eq!(refusal(&descriptor, 4097..=1 << 20), "the memory has 4096 bytes, and not 4097 to 1048576");
        for odd in [0, 1, 4097] {
            let file = create("broadcaster-test").expect("made");
            rustix::fs::ftruncate(&file, odd).expect("resized");
            for (seal, _) in SEALS {
                rustix::fs::fcntl_add_seals(&file, seal).expect("sealed");
            }
            let error = refusal(&file.into(), 0..=1 << 20);
            assert_eq!(error, format!("memory consists of words of 8 bytes, and {odd} bytes do not"));
        }
    }

    #[test]
    fn anything_but_memory_is_refused() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(PAGE as u64).expect("resized");
        refusal(&OwnedFd::from(file).into(), PAGE..=PAGE);
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).expect("made");
        assert_eq!(refusal(&eventfd.into(), PAGE..=PAGE), "the descriptor does not refer to memory");
        let (reader, _writer) = io::pipe().expect("a pipe");
        refusal(&OwnedFd::from(reader).into(), PAGE..=PAGE);
    }

    #[test]
    fn memory_of_huge_pages_is_refused() {
        const HUGE: usize = 2 << 20;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let Ok(file) = rustix::fs::memfd_create("broadcaster-test", flags) else { return };
        rustix::fs::ftruncate(&file, HUGE as u64).expect("resized");
        for (seal, _) in SEALS {
            rustix::fs::fcntl_add_seals(&file, seal).expect("sealed");
        }
        let error = refusal(&file.into(), HUGE..=HUGE);
        assert_eq!(error, "the memory belongs to a file system of the type 0x958458f6, and not 0x1021994");
    }

    #[test]
    fn descriptor_is_closed_on_exec() {
        let (descriptor, _writable) = page();
        assert!(rustix::io::fcntl_getfd(&descriptor).expect("open").contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn memory_outlives_its_descriptors_and_its_writer() {
        let (descriptor, writable) = page();
        let readable = open_memory(&descriptor, PAGE..=PAGE).expect("opened");
        writable.store(3, 4, Ordering::Relaxed);
        drop((descriptor, writable));
        assert_eq!(readable.load(3, Ordering::Relaxed), 4);
    }

    #[test]
    fn memory_that_is_no_row_of_words_is_not_made() {
        for bytes in [0, 4, 4095] {
            let error = make_memory("broadcaster-test", bytes).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn forked_child_unmaps_its_own_mapping_only() {
        let (_descriptor, writable) = page();
        // SAFETY: the child only makes system calls, and ends without running any other destructor.
        let child = unsafe { libc::fork() };
        if child == 0 {
            writable.store(0, 5, Ordering::Relaxed);
            drop(writable);
            // SAFETY: it may be called at any time.
            unsafe { libc::_exit(0) }
        }
        let mut status = 0;
        // SAFETY: it is a child of this process, and there is room for its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!((status, writable.load(0, Ordering::Relaxed)), (0, 5));
    }
}
