//! An event of the system, which is set once, and the two ways to wait for it. It never polls.

use super::text::length;
use std::collections::BTreeMap;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use windows_sys::Win32::Foundation::{HANDLE, WAIT_FAILED, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{
    CloseThreadpoolWait, CreateEventW, CreateThreadpoolWait, INFINITE, PTP_CALLBACK_INSTANCE, PTP_WAIT,
    SetThreadpoolWait, WaitForMultipleObjects, WaitForSingleObject,
};

/// An event that stays set until it is given to the system for the next operation.
#[derive(Debug)]
pub(super) struct Event(OwnedHandle);

impl Event {
    #[allow(unsafe_code)]
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed but null ones, which mean: no attributes, no name.
        let handle = unsafe { CreateEventW(std::ptr::null(), 1, 0, std::ptr::null()) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the event was just made, and nothing else has its handle.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    pub(super) fn handle(&self) -> HANDLE {
        self.0.as_raw_handle()
    }

    /// Waits on this thread; `false` if the time was over first.
    #[allow(unsafe_code)]
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        // SAFETY: the handle is open for as long as `self` lives.
        match unsafe { WaitForSingleObject(self.handle(), milliseconds(timeout)) } {
            WAIT_OBJECT_0 => Ok(true),
            WAIT_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(false),
        }
    }

    /// Waits on this thread for the first of several; `false` if the time was over first.
    #[allow(unsafe_code)]
    pub(super) fn wait_any(events: &[&Self], timeout: Option<Duration>) -> io::Result<bool> {
        let handles: Vec<HANDLE> = events.iter().map(|event| event.handle()).collect();
        // SAFETY: the list has as many handles as the call is given, each of which is open for as long as its event lives.
        match unsafe { WaitForMultipleObjects(length(handles.len()), handles.as_ptr(), 0, milliseconds(timeout)) } {
            WAIT_FAILED => Err(io::Error::last_os_error()),
            WAIT_TIMEOUT => Ok(false),
            _ => Ok(true),
        }
    }
}

/// Rounded up, so that a deadline has passed when the wait is over.
fn milliseconds(timeout: Option<Duration>) -> u32 {
    let Some(timeout) = timeout else { return INFINITE };
    let whole = timeout.as_millis() + u128::from(timeout.subsec_nanos() % 1_000_000 != 0);
    u32::try_from(whole).unwrap_or(INFINITE).min(INFINITE - 1)
}

/// Wakes a task when an event is set. The system's pool of waiting threads does it, without a thread of ours.
#[derive(Debug)]
pub struct Waiter {
    wait: PTP_WAIT,
    number: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The pool waits.
    armed: bool,
    waker: Option<Waker>,
}

/// The waiters that exist, by number. A callback receives the number instead of an address, because it may begin when its waiter has
/// been dropped already: Windows can prevent that, and wine 8 cannot. A number is never used again.
static WAITERS: Mutex<BTreeMap<usize, Arc<Shared>>> = Mutex::new(BTreeMap::new());

/// The lock of `mutex`. Nothing that can panic happens under it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiter {
    /// A waiter that waits for nothing yet.
    ///
    /// # Errors
    ///
    /// If the system has no memory for it.
    #[allow(unsafe_code)]
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the callback uses its context as a number only.
        let wait =
            unsafe { CreateThreadpoolWait(Some(called), std::ptr::without_provenance_mut(number), std::ptr::null()) };
        if wait == 0 {
            return Err(io::Error::last_os_error());
        }
        let shared = Arc::<Shared>::default();
        lock(&WAITERS).insert(number, Arc::clone(&shared));
        Ok(Self { wait, number, shared })
    }

    /// Ready when the event is set; otherwise the task is woken when it is.
    #[allow(unsafe_code)]
    pub(super) fn poll(&self, cx: &mut Context<'_>, event: &Event) -> Poll<io::Result<()>> {
        if event.wait(Some(Duration::ZERO))? {
            return Poll::Ready(Ok(()));
        }
        let mut state = lock(&self.shared.state);
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        if !state.armed {
            state.armed = true;
            // SAFETY: the wait object is open, and so is the event. Should the event be closed first, the pool holds a reference
            // of its own to it.
            unsafe { SetThreadpoolWait(self.wait, event.handle(), std::ptr::null()) };
        }
        Poll::Pending
    }
}

impl Drop for Waiter {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        lock(&WAITERS).remove(&self.number);
        // SAFETY: the wait object is open, waits for nothing any more, and is closed once. The system frees it when its last callback has
        // returned.
        unsafe {
            SetThreadpoolWait(self.wait, std::ptr::null_mut(), std::ptr::null());
            CloseThreadpoolWait(self.wait);
        }
    }
}

/// The event is set.
#[allow(unsafe_code)]
unsafe extern "system" fn called(_: PTP_CALLBACK_INSTANCE, context: *mut core::ffi::c_void, _: PTP_WAIT, _: u32) {
    // Without the lock: a waker may drop the very waiter that calls it.
    let Some(shared) = lock(&WAITERS).get(&context.addr()).cloned() else { return };
    let waker = {
        let mut state = lock(&shared.state);
        state.armed = false;
        state.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_rounded_up_and_never_endless_by_accident() {
        assert_eq!(milliseconds(None), INFINITE);
        assert_eq!(milliseconds(Some(Duration::ZERO)), 0);
        assert_eq!(milliseconds(Some(Duration::from_nanos(1))), 1);
        assert_eq!(milliseconds(Some(Duration::from_micros(2001))), 3);
        assert_eq!(milliseconds(Some(Duration::MAX)), INFINITE - 1);
    }
}
