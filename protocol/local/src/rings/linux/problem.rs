//! Whether rings can be made here. It tries everything that a ring needs, once.

use super::{Doorbells, make_doorbell, make_memory, open_memory, ring_doorbell};
use broadcaster_ring::{Words, WordsMut};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

/// The bytes of memory for the attempt.
const BYTES: usize = 4096;

/// Why this process cannot make and read rings, for people; `None` if it can.
///
/// The first call tries, with a page of memory and a doorbell. Its result holds for the process, unless the reason may pass: then the next
/// call tries again. A system before Linux 5.1, a filter of system calls, or a limit on the size of files can be the reason.
pub fn shared_memory_problem() -> Option<String> {
    static PROBLEM: OnceLock<Option<String>> = OnceLock::new();
    if let Some(known) = PROBLEM.get() {
        return known.clone();
    }
    let problem = try_everything().err();
    let may_pass = problem.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory);
    let problem = problem.map(|error| error.to_string());
    if may_pass { problem } else { PROBLEM.get_or_init(|| problem).clone() }
}

fn try_everything() -> io::Result<()> {
    let (descriptor, memory) = make_memory("broadcaster-probe", BYTES)?;
    let view = open_memory(&descriptor, BYTES..=BYTES)?;
    memory.store(0, u64::MAX, Ordering::Release);
    if view.load(0, Ordering::Acquire) != u64::MAX {
        return Err(io::Error::other("a mapping does not show what was stored in another one"));
    }
    let doorbell = make_doorbell()?;
    Doorbells::new()?.add(&doorbell)?;
    ring_doorbell(&doorbell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_of_the_attempt_is_kept() {
        let expected = try_everything().err().map(|error| error.to_string());
        assert_eq!(shared_memory_problem(), expected);
        assert_eq!(shared_memory_problem(), expected);
    }
}
