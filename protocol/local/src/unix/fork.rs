//! The files that a forked child must not keep: the lock of the bus, the sockets that this process serves, and the connections that it
//! accepted. The child's copies are closed before `fork` returns there. A file that was not recorded is never closed.
//!
//! A child that kept them would hold the lock as long as it lives, and the kernel would queue connections on its copies of the sockets,
//! which no process accepts. A program that hosts the bus and then turns itself into a daemon would take the bus down.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// Descriptors below this number are recorded. Higher ones stay open in a child.
const DESCRIPTORS_MAX: usize = 1 << 16;

/// The file recorded under each number; 0 if none. An entry outlives its file, so a later file may have its number.
static FILES: [AtomicU64; DESCRIPTORS_MAX] = [const { AtomicU64::new(0) }; DESCRIPTORS_MAX];

/// One more than the highest recorded number.
static END: AtomicUsize = AtomicUsize::new(0);

/// Held while a file is opened and recorded, and during `fork`, so that no child is created in between.
static OPENING: Mutex<()> = Mutex::new(());

thread_local! {
    /// The lock on [`OPENING`], while this thread forks.
    static FORKING: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// Opens a file that a forked child does not keep. `open` must neither fork nor wait.
pub(crate) fn open_unshared<F: AsFd>(open: impl FnOnce() -> io::Result<F>) -> io::Result<F> {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(install);
    let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let file = open()?;
    record(file.as_fd());
    Ok(file)
}

#[allow(unsafe_code)]
fn install() {
    // SAFETY: the three functions may be called at any time. The only error is that the system is out of memory for them.
    let _ = unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child)) };
}

fn record(file: BorrowedFd<'_>) {
    let Some(id) = identify(file) else { return };
    let Ok(number) = usize::try_from(file.as_raw_fd()) else { return };
    if let Some(entry) = FILES.get(number) {
        entry.store(id, Ordering::Relaxed);
        END.fetch_max(number + 1, Ordering::Relaxed);
    }
}

/// A number that identifies the open file, never 0. Makes only calls that a signal handler may make.
#[allow(clippy::useless_conversion, clippy::unnecessary_cast, clippy::cast_sign_loss)]
fn identify(file: BorrowedFd<'_>) -> Option<u64> {
    let stat = rustix::fs::fstat(file).ok()?;
    Some((stat.st_ino as u64 ^ (stat.st_dev as u64).rotate_left(40)) | 1 << 63)
}

extern "C" fn before_fork() {
    let opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    // At the end of a thread, its storage may be gone already. Then the lock is released early.
    let _ = FORKING.try_with(|forking| forking.replace(Some(opening)));
}

extern "C" fn after_fork_in_parent() {
    let _ = FORKING.try_with(RefCell::take);
}

/// Makes only calls that a signal handler may make: other threads of the parent may have held any lock.
#[allow(unsafe_code)]
extern "C" fn after_fork_in_child() {
    for (number, entry) in FILES.iter().enumerate().take(END.load(Ordering::Relaxed)) {
        let id = entry.swap(0, Ordering::Relaxed);
        let Ok(descriptor) = RawFd::try_from(number) else { break };
        if id == 0 {
            continue;
        }
        // SAFETY: the descriptor is used for this call only. If it is closed, the call fails.
        let file = unsafe { BorrowedFd::borrow_raw(descriptor) };
        if identify(file) == Some(id) {
            // SAFETY: it is a copy of a file that this crate opened. The owner of the descriptor ran on a thread that does not exist
            // in this process, or no longer uses it.
            unsafe { rustix::io::close(descriptor) };
        }
    }
    let _ = FORKING.try_with(RefCell::take);
}

#[cfg(test)]
mod tests {
    use crate::{Directory, LockFile, is_accepting, is_unlocked};
    use std::io::Read;
    use std::os::fd::AsRawFd;

    /// A child that writes a byte to `ready` when it runs, and lives until the writer of the pipe is gone. It makes only system calls.
    #[allow(unsafe_code)]
    fn fork(ready: &impl AsRawFd, until_end_of: &impl AsRawFd, writer: &impl AsRawFd) -> libc::pid_t {
        // SAFETY: the child calls only functions that a signal handler may call, and ends without running any destructor.
        match unsafe { libc::fork() } {
            0 => {
                let mut byte = 0_u8;
                // SAFETY: the descriptors are open, and there is room for one byte.
                unsafe {
                    libc::close(writer.as_raw_fd());
                    libc::write(ready.as_raw_fd(), (&raw const byte).cast(), 1);
                    libc::read(until_end_of.as_raw_fd(), (&raw mut byte).cast(), 1);
                    libc::_exit(0)
                }
            }
            child => child,
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn forked_child_holds_neither_lock_nor_socket() {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("bus.sock");
        let directory = Directory::open(&socket).expect("opened");
        let lock = LockFile::take(&directory, &socket).expect("taken");
        let (listener, _file) = directory.listen(&socket).expect("listens");
        let plain = std::fs::File::open(place.path()).expect("opened");
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let (mut runs, ready) = std::io::pipe().expect("a pipe");
        let child = fork(&ready, &reader, &writer);
        assert!(child > 0);
        // The child closes its copies before `fork` returns there, which may be after it returns here.
        assert_eq!(runs.read(&mut [0]).expect("readable"), 1);
        assert!(!is_unlocked(&socket), "the parent holds it");
        drop((lock, listener));
        assert!(is_unlocked(&socket), "the child does not");
        assert!(!is_accepting(&socket).expect("known"), "nor does it listen");
        drop(writer);
        let mut status = 0;
        // SAFETY: it is a child of this process, and there is room for its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
        drop(plain);
    }
}
