//! Descriptors that travel with the first byte of a frame. It never matches a descriptor to a frame.

use super::{Descriptor, is_shortage};
use crate::unix::SEND_FLAGS;
use crate::{Socket, buffer, failpoint};
use bytes::BytesMut;
use bytes::buf::Limit;
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

/// The most descriptors that one frame carries, and the most that wait for their frame at a receiver.
const DESCRIPTORS_MAX: usize = 4;

/// Writes as much of `frame` as the socket accepts, with `descriptors` on its first byte. If at least one byte was written, so were the
/// descriptors, and the rest of the frame is written without any.
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if the socket is full, [`OutOfMemory`](io::ErrorKind::OutOfMemory) if the system has no
/// buffer for it at the moment or this user has too many descriptors in flight. Nothing was written then.
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if the frame is empty or there are more than 4 descriptors.
pub fn write_with_descriptors(socket: &Socket, frame: &[u8], descriptors: &[&Descriptor]) -> io::Result<usize> {
    let count = descriptors.len();
    if frame.is_empty() || count > DESCRIPTORS_MAX {
        let len = frame.len();
        let problem = format!("a frame of {len} bytes cannot carry {count} descriptors (at most {DESCRIPTORS_MAX})");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let files: Vec<BorrowedFd<'_>> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    failpoint::step("descriptors: to be written");
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(frame)], &mut control, SEND_FLAGS) {
            Err(Errno::INTR) => {}
            Err(errno) if is_shortage(errno) => return Err(io::ErrorKind::OutOfMemory.into()),
            other => {
                failpoint::step("descriptors: written");
                return Ok(other?);
            }
        }
    }
}

/// Reads what has arrived into `target`, without waiting, and appends the descriptors that came with it to `received`; 0 is the end of the
/// stream.
///
/// One call returns the descriptors of one frame at most, and that frame begins in the bytes that it returns. It is slower than
/// [`read`](crate::read) in the kernel, whether descriptors arrive or not.
///
/// # Errors
///
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if nothing has arrived. [`InvalidData`](io::ErrorKind::InvalidData) if a frame came with more than
/// 4 descriptors, or more than 4 would wait in `received`; another error if descriptors were lost, because this process cannot have more. The
/// connection is of no use after these.
#[inline]
pub fn read_with_descriptors(
    socket: &Socket,
    target: &mut Limit<&mut BytesMut>,
    received: &mut VecDeque<Descriptor>,
) -> io::Result<usize> {
    receive(socket, target, received, RecvFlags::DONTWAIT)
}

/// The same as [`read_with_descriptors`], except that it waits for something to read, where [`read_blocking`](crate::read_blocking) does.
///
/// # Errors
///
/// Those of [`read_with_descriptors`]; [`WouldBlock`](io::ErrorKind::WouldBlock) only where `read_blocking` does not wait.
#[inline]
pub fn read_blocking_with_descriptors(
    socket: &Socket,
    target: &mut Limit<&mut BytesMut>,
    received: &mut VecDeque<Descriptor>,
) -> io::Result<usize> {
    receive(socket, target, received, RecvFlags::empty())
}

#[inline]
fn receive(
    socket: &Socket,
    target: &mut Limit<&mut BytesMut>,
    received: &mut VecDeque<Descriptor>,
    flags: RecvFlags,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut returned = ReturnFlags::empty();
    let len = loop {
        let attempt = buffer::fill(target, |spare| {
            let (filled, flags) = receive_message(socket, spare, &mut control, flags | RecvFlags::CMSG_CLOEXEC)?;
            returned = flags;
            Ok(filled)
        });
        match attempt {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    let before = received.len();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            received.extend(files.map(Descriptor::from));
        }
    }
    let waiting = received.len();
    if len > 0 {
        failpoint::step(if waiting > before { "descriptors: read" } else { "socket: read" });
    }
    let is_truncated = returned.contains(ReturnFlags::CTRUNC);
    if waiting > DESCRIPTORS_MAX || (is_truncated && waiting - before == DESCRIPTORS_MAX) {
        let problem = format!("the peer has sent more than {DESCRIPTORS_MAX} descriptors before their frames");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    if is_truncated {
        return Err(io::Error::other("descriptors were lost: this process cannot receive more of them"));
    }
    Ok(len)
}

/// One `recvmsg`. Returns the part of `spare` that it has filled.
#[inline]
#[allow(unsafe_code)]
fn receive_message<'a>(
    socket: &Socket,
    spare: &'a mut [MaybeUninit<u8>],
    control: &mut RecvAncillaryBuffer<'_>,
    flags: RecvFlags,
) -> io::Result<(&'a mut [u8], ReturnFlags)> {
    let entry = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: spare.len() };
    // SAFETY: `IoSliceMut` has the layout of `iovec`, as its documentation guarantees. These bytes are borrowed mutably for longer than it
    // lives, and only the kernel uses it, which writes to them: it does not matter that they may be uninitialised.
    let slice = unsafe { std::mem::transmute::<libc::iovec, IoSliceMut<'_>>(entry) };
    let message = rustix::net::recvmsg(socket, &mut [slice], control, flags)?;
    let filled = &mut spare[..message.bytes];
    // SAFETY: the kernel has written so many bytes.
    let filled = unsafe { &mut *(std::ptr::from_mut(filled) as *mut [u8]) };
    Ok((filled, message.flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{make_doorbell, ring_doorbell};
    use rustix::io::FdFlags;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Socket, Socket) {
        let (one, other) = UnixStream::pair().expect("a pair");
        (one.into(), other.into())
    }

    fn doorbells<const N: usize>() -> [Descriptor; N] {
        [(); N].map(|()| make_doorbell().expect("made"))
    }

    /// One read of at most `room` bytes.
    fn read(socket: &Socket, room: usize, received: &mut VecDeque<Descriptor>) -> io::Result<Vec<u8>> {
        let mut buffer = BytesMut::with_capacity(room);
        let len = read_with_descriptors(socket, &mut bytes::BufMut::limit(&mut buffer, room), received)?;
        assert_eq!(len, buffer.len());
        Ok(buffer.to_vec())
    }

    /// Rings what was received, and asserts that the doorbell was rung.
    fn assert_same(received: &Descriptor, doorbell: &Descriptor) {
        ring_doorbell(received).expect("rung");
        assert_eq!(rustix::io::read(doorbell, &mut [0; 8]).expect("rung"), 8);
    }

    /// Sends any number of descriptors.
    fn flood(socket: &Socket, files: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        rustix::net::sendmsg(socket, &[IoSlice::new(b"x")], &mut control, SEND_FLAGS).expect("sent");
    }

    #[test]
    fn descriptors_arrive_with_their_frame_and_close_on_exec() {
        let (one, other) = pair();
        let [first, second] = doorbells();
        assert_eq!(write_with_descriptors(&one, b"frame", &[&first, &second]).expect("written"), 5);
        let mut received = VecDeque::new();
        assert_eq!(read(&other, 100, &mut received).expect("read"), b"frame");
        assert_eq!(received.len(), 2);
        assert_same(&received[0], &first);
        assert_same(&received[1], &second);
        for file in &received {
            assert!(rustix::io::fcntl_getfd(file).expect("open").contains(FdFlags::CLOEXEC));
        }
        let error = read(&other, 100, &mut received).expect_err("nothing more");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert_eq!(read(&other, 100, &mut received).expect("the end"), b"");
    }

    #[test]
    fn frame_without_descriptors_is_plain_bytes() {
        let (one, other) = pair();
        assert_eq!(write_with_descriptors(&one, b"frame", &[]).expect("written"), 5);
        let mut received = VecDeque::new();
        assert_eq!(read(&other, 3, &mut received).expect("read"), b"fra");
        let mut buffer = BytesMut::with_capacity(100);
        let mut target = bytes::BufMut::limit(&mut buffer, 100);
        assert_eq!(read_blocking_with_descriptors(&other, &mut target, &mut received).expect("read"), 2);
        assert_eq!((&buffer[..], received.len()), (&b"me"[..], 0));
    }

    #[test]
    fn partial_write_carries_the_descriptors_with_its_first_bytes() {
        let (one, other) = pair();
        let [doorbell] = doorbells();
        let frame = vec![7; 4 << 20];
        let written = write_with_descriptors(&one, &frame, &[&doorbell]).expect("written");
        assert!(written < frame.len(), "{written} bytes fit into the socket");
        let error = write_with_descriptors(&one, &frame, &[&doorbell]).expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let mut received = VecDeque::new();
        assert_eq!(read(&other, 1, &mut received).expect("read"), [7]);
        assert_same(&received.pop_front().expect("with the first byte"), &doorbell);
        let mut read_bytes = 1;
        while let Ok(bytes) = read(&other, 1 << 20, &mut received) {
            read_bytes += bytes.len();
        }
        assert_eq!(
            (read_bytes, received.len()),
            (written, 0),
            "they were sent once, and the second write sent nothing"
        );
    }

    #[test]
    fn read_ends_behind_the_frame_with_descriptors_and_may_begin_before_it() {
        let (one, other) = pair();
        let [first, second] = doorbells();
        crate::write(&one, b"plain ").expect("written");
        write_with_descriptors(&one, b"first ", &[&first]).expect("written");
        crate::write(&one, b"more ").expect("written");
        write_with_descriptors(&one, b"second", &[&second]).expect("written");
        let mut received = VecDeque::new();
        assert_eq!(read(&other, 100, &mut received).expect("read"), b"plain first ");
        assert_same(&received.pop_front().expect("one"), &first);
        assert!(received.is_empty());
        assert_eq!(read(&other, 100, &mut received).expect("read"), b"more second");
        assert_same(&received.pop_front().expect("one"), &second);
    }

    #[test]
    fn descriptors_are_dropped_by_a_receiver_that_expects_none() {
        let (one, other) = pair();
        let (reader, writer) = io::pipe().expect("a pipe");
        write_with_descriptors(&one, b"frame", &[&OwnedFd::from(writer).into()]).expect("written");
        let mut buffer = BytesMut::with_capacity(100);
        assert_eq!(crate::read(&other, &mut bytes::BufMut::limit(&mut buffer, 100)).expect("read"), 5);
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]).expect("the end"), 0, "no writer is left");
    }

    #[test]
    fn too_many_descriptors_are_refused_and_closed() {
        for count in [5, 6, 7, 8, 64] {
            let (one, other) = pair();
            let (reader, writer) = io::pipe().expect("a pipe");
            flood(&one, &vec![writer.as_fd(); count]);
            drop(writer);
            let mut received = VecDeque::new();
            let error = read(&other, 100, &mut received).expect_err("too many");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{count}: {error}");
            assert!(error.to_string().contains("more than 4"), "{error}");
            drop(received);
            assert_eq!(rustix::io::read(&reader, &mut [0; 1]).expect("the end"), 0, "{count}: one is still open");
        }
    }

    #[test]
    fn descriptors_without_frames_are_refused() {
        let (one, other) = pair();
        let [doorbell] = doorbells();
        let mut received = VecDeque::new();
        for _ in 0..4 {
            write_with_descriptors(&one, b"x", &[&doorbell]).expect("written");
            read(&other, 100, &mut received).expect("as many may wait");
        }
        write_with_descriptors(&one, b"x", &[&doorbell]).expect("written");
        let error = read(&other, 100, &mut received).expect_err("one too many");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }

    #[test]
    fn what_a_frame_cannot_carry_is_not_sent() {
        let (one, other) = pair();
        let all: [Descriptor; 5] = doorbells();
        let all: Vec<&Descriptor> = all.iter().collect();
        for error in [write_with_descriptors(&one, b"", &all[..1]), write_with_descriptors(&one, b"frame", &all)] {
            assert_eq!(error.expect_err("refused").kind(), io::ErrorKind::InvalidInput);
        }
        let mut received = VecDeque::new();
        assert_eq!(read(&other, 100, &mut received).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
        write_with_descriptors(&one, b"frame", &all[..4]).expect("written");
        read(&other, 100, &mut received).expect("read");
        assert_eq!(received.len(), 4);
    }

    #[test]
    fn write_to_a_closed_socket_fails_without_a_signal() {
        let (one, other) = pair();
        drop(other);
        let [doorbell] = doorbells();
        let error = write_with_descriptors(&one, b"frame", &[&doorbell]).expect_err("closed");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
