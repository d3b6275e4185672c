//! Which signals a thread takes. It never handles one.

use std::mem::MaybeUninit;

/// The signals that report a fault of the thread itself. Their handlers, such as that for a stack overflow, must run.
const FAULTS: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// Runs `start` with the signals of the program blocked: a thread that it starts takes none of them, whatever the program blocks or waits
/// for on its own threads.
pub fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let _restored = Blocked::new();
    start()
}

/// The mask of this thread as it was, which is restored in the end.
struct Blocked(Option<libc::sigset_t>);

impl Blocked {
    #[allow(unsafe_code)]
    fn new() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: it fills the set.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        for fault in FAULTS {
            // SAFETY: the set was filled.
            unsafe { libc::sigdelset(set.as_mut_ptr(), fault) };
        }
        let mut before = MaybeUninit::uninit();
        // SAFETY: the set was filled, and there is room for the mask as it was.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: a call that succeeds has written the mask.
        Self((result == 0).then(|| unsafe { before.assume_init() }))
    }
}

impl Drop for Blocked {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // SAFETY: it is a mask of this thread; null means that the present one is not wanted.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
        }
    }
}
