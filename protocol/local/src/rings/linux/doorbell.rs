//! A doorbell: an eventfd whose owner waits for it, and which others write to. Nothing ever reads it.

use super::{Descriptor, failed};
use crate::failpoint;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// Makes a doorbell that was not rung.
///
/// # Errors
///
/// [`OutOfMemory`](io::ErrorKind::OutOfMemory) if this process or the system is out of descriptors or memory, which may pass.
pub fn make_doorbell() -> io::Result<Descriptor> {
    let file = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|errno| failed("eventfd", errno))?;
    Ok(file.into())
}

/// Wakes the owner of a doorbell, without waiting. If the owner does not read it for 2^64 rings, further ones have no effect.
///
/// A hostile owner may make the write block: it shares the flag that prevents this, and may remove it after the check. This is the same as
/// stopping the caller's process, which the same user can do as well.
///
/// # Errors
///
/// [`InvalidData`](io::ErrorKind::InvalidData) if the descriptor is not a doorbell, or writing to it could block.
pub fn ring_doorbell(doorbell: &Descriptor) -> io::Result<()> {
    if !doorbell.is_doorbell.load(Ordering::Relaxed) {
        check_type(doorbell)?;
        doorbell.is_doorbell.store(true, Ordering::Relaxed);
    }
    let flags = rustix::fs::fcntl_getfl(doorbell).map_err(|errno| failed("F_GETFL", errno))?;
    if !flags.contains(OFlags::NONBLOCK) {
        return Err(invalid("writing to the doorbell could block, because its owner has removed O_NONBLOCK"));
    }
    failpoint::step("doorbell: to be rung");
    let rung = rustix::io::retry_on_intr(|| rustix::io::write(doorbell, &1_u64.to_ne_bytes()));
    failpoint::step("doorbell: rung");
    match rung {
        // A full counter is readable.
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(failed("write", errno)),
    }
}

/// Refuses files and pipes: writing to some waits for another process in spite of `O_NONBLOCK`, and writing to others raises SIGPIPE. An
/// eventfd has no type that a path could have.
fn check_type(doorbell: impl AsFd) -> io::Result<()> {
    let mode = rustix::fs::fstat(doorbell).map_err(|errno| failed("fstat", errno))?.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::Unknown => Ok(()),
        other => Err(invalid(&format!("the descriptor refers to a file of the type {other:?}, and not to a doorbell"))),
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::FdFlags;
    use std::os::fd::OwnedFd;

    fn count(doorbell: &Descriptor) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(doorbell, &mut count).expect("rung");
        u64::from_ne_bytes(count)
    }

    #[test]
    fn each_ring_counts() {
        let doorbell = make_doorbell().expect("made");
        ring_doorbell(&doorbell).expect("rung");
        ring_doorbell(&doorbell).expect("rung");
        assert_eq!(count(&doorbell), 2);
        assert!(rustix::io::fcntl_getfd(&doorbell).expect("open").contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn full_doorbell_can_be_rung() {
        let doorbell = make_doorbell().expect("made");
        let full = u64::MAX - 1;
        rustix::io::write(&doorbell, &full.to_ne_bytes()).expect("filled");
        ring_doorbell(&doorbell).expect("rung");
        assert_eq!(count(&doorbell), full);
    }

    #[test]
    fn doorbell_that_could_block_is_not_rung() {
        let doorbell = make_doorbell().expect("made");
        ring_doorbell(&doorbell).expect("rung");
        let owners: Descriptor = doorbell.as_fd().try_clone_to_owned().expect("duplicated").into();
        rustix::fs::fcntl_setfl(&owners, OFlags::empty()).expect("changed");
        let error = ring_doorbell(&doorbell).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        rustix::fs::fcntl_setfl(&owners, OFlags::NONBLOCK).expect("changed");
        assert_eq!(count(&owners), 1);
    }

    #[test]
    fn anything_but_a_doorbell_is_not_rung() {
        let refused = |file: OwnedFd| {
            rustix::fs::fcntl_setfl(&file, OFlags::NONBLOCK).expect("changed");
            let error = ring_doorbell(&file.into()).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        };
        let (_, writer) = io::pipe().expect("a pipe");
        refused(writer.into());
        refused(tempfile::tempfile().expect("a file").into());
        refused(std::os::unix::net::UnixStream::pair().expect("a pair").0.into());
        let (memory, _words) = crate::make_memory("broadcaster-test", 4096).expect("made");
        refused(memory.as_fd().try_clone_to_owned().expect("duplicated"));
    }
}
