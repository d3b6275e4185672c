//! The signal mask and the ignored signals, which a process inherits from the one that started it. No handler is installed here.

use libc::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Signals that end a process where a system call would fail: a pipe without a reader, and a file at its size limit.
const ERRORS: [c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// Above every signal number of the supported systems.
const NUMBERS_END: c_int = 129;

/// Unblocks every signal, and restores the default action of those that are ignored. The two that duplicate an error of a system
/// call are ignored. Handlers stay: a new program has only those that its runtime installed.
///
/// Must be called before a second thread exists, which would keep its own mask.
pub(crate) fn reset_signals() -> io::Result<()> {
    unblock_all()?;
    for number in (1..NUMBERS_END).filter(|number| !ERRORS.contains(number)) {
        if is_ignored(number) {
            set_action(number, libc::SIG_DFL)?;
        }
    }
    ERRORS.iter().try_for_each(|number| set_action(*number, libc::SIG_IGN))
}

/// Whether this process ignores the signal. Numbers without a signal are not ignored.
#[allow(unsafe_code)]
pub(crate) fn is_ignored(number: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: The new action may be null, and the old one is valid for writes.
    let result = unsafe { libc::sigaction(number, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: All zeros are a valid `sigaction`, and the call has replaced them by another one if it succeeded.
    result == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Ends the process by this signal. Returns only if that fails.
#[allow(unsafe_code)]
pub(crate) fn end_by(number: c_int) {
    if set_action(number, libc::SIG_DFL).is_ok() {
        // SAFETY: The function has no preconditions; the default action runs no code of this process.
        unsafe { libc::raise(number) };
    }
}

#[allow(unsafe_code)]
fn unblock_all() -> io::Result<()> {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: The set is valid for writes.
    check(unsafe { libc::sigemptyset(none.as_mut_ptr()) })?;
    // SAFETY: The new set is initialized, and the old one may be null.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Sets the action to `SIG_DFL` or `SIG_IGN`.
#[allow(unsafe_code)]
fn set_action(number: c_int, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: All zeros are a valid `sigaction`: no flags, and an empty mask.
    let mut new: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    new.sa_sigaction = action;
    // SAFETY: The new action is valid and runs no code of this process; the old one may be null.
    check(unsafe { libc::sigaction(number, &raw const new, ptr::null_mut()) })
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
