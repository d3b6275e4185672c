//! Reading into the spare capacity of a buffer. It makes no system call, and never grows the buffer.

use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use std::io;
use std::mem::MaybeUninit;

/// Lets `read` fill the spare capacity of `target` up to its limit; returns how many bytes were appended.
///
/// `read` returns the initialised part of its argument, which begins at the beginning.
///
/// # Panics
///
/// If `read` returns any other slice.
#[allow(unsafe_code)]
pub(crate) fn fill(
    target: &mut Limit<&mut BytesMut>,
    read: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>]) -> io::Result<&'a mut [u8]>,
) -> io::Result<usize> {
    let room = target.remaining_mut();
    let spare = target.get_mut().spare_capacity_mut();
    let room = room.min(spare.len());
    let start = spare.as_ptr();
    let filled = read(&mut spare[..room])?;
    let len = filled.len();
    assert!(
        len <= room && (len == 0 || start.cast() == filled.as_ptr()),
        "`read` returned another slice than its argument"
    );
    // SAFETY: `filled` is an initialised slice that begins where the spare capacity begins, and has `len` bytes.
    unsafe { target.advance_mut(len) };
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_appended_up_to_the_limit() {
        let mut buffer = BytesMut::with_capacity(64);
        buffer.extend_from_slice(b"ab");
        let mut target = (&mut buffer).limit(3);
        let len = fill(&mut target, |spare| {
            assert_eq!(spare.len(), 3);
            Ok(spare.filled_with(b'c'))
        });
        assert_eq!(len.expect("filled"), 3);
        assert_eq!(target.remaining_mut(), 0);
        assert_eq!(&buffer[..], b"abccc");
    }

    trait FilledWith {
        fn filled_with(&mut self, byte: u8) -> &mut [u8];
    }

    impl FilledWith for [MaybeUninit<u8>] {
        #[allow(unsafe_code)]
        fn filled_with(&mut self, byte: u8) -> &mut [u8] {
            self.fill(MaybeUninit::new(byte));
            // SAFETY: every byte was just written.
            unsafe { &mut *(std::ptr::from_mut(self) as *mut [u8]) }
        }
    }
}
