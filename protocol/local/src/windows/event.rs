//! An event of the system, which is set once, and the two ways to wait for it. It never polls.

use super::text::length;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use windows_sys::Win32::Foundation::{HANDLE, WAIT_FAILED, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{
    CloseThreadpoolWait, CreateEventW, CreateThreadpoolWait, DisassociateCurrentThreadFromCallback, INFINITE,
    PTP_CALLBACK_INSTANCE, PTP_WAIT, SetThreadpoolWait, WaitForMultipleObjects, WaitForSingleObject,
    WaitForThreadpoolWaitCallbacks,
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// A waiter that waits for nothing yet.
    ///
    /// # Errors
    ///
    /// If the system has no memory for it.
    #[allow(unsafe_code)]
    pub fn new() -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let context = Arc::as_ptr(&shared).cast_mut().cast();
        // SAFETY: `shared` lives until the wait object is closed and its last callback has let go of it: see `drop`.
        let wait = unsafe { CreateThreadpoolWait(Some(called), context, std::ptr::null()) };
        if wait == 0 { Err(io::Error::last_os_error()) } else { Ok(Self { wait, shared }) }
    }

    /// Ready when the event is set; otherwise the task is woken when it is.
    #[allow(unsafe_code)]
    pub(super) fn poll(&self, cx: &mut Context<'_>, event: &Event) -> Poll<io::Result<()>> {
        if event.wait(Some(Duration::ZERO))? {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.shared.lock();
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
        // SAFETY: the wait object is open. It is told to wait for nothing, a callback that is still to come is cancelled, and one
        // that runs either has its own reference to `shared` or is waited for; only then it is closed, once.
        unsafe {
            SetThreadpoolWait(self.wait, std::ptr::null_mut(), std::ptr::null());
            WaitForThreadpoolWaitCallbacks(self.wait, 1);
            CloseThreadpoolWait(self.wait);
        }
    }
}

/// The event is set.
#[allow(unsafe_code)]
unsafe extern "system" fn called(
    instance: PTP_CALLBACK_INSTANCE,
    context: *mut core::ffi::c_void,
    _: PTP_WAIT,
    _: u32,
) {
    let context: *const Shared = context.cast();
    // SAFETY: the context is the `Arc` of a `Waiter` whose `drop` waits for this call, at least up to where it is disassociated.
    let shared = unsafe {
        Arc::increment_strong_count(context);
        Arc::from_raw(context)
    };
    // From here on, `drop` does not wait for this call any more: a waker may drop the very waiter that called it.
    // SAFETY: the instance is the one of this call.
    unsafe { DisassociateCurrentThreadFromCallback(instance) };
    let waker = {
        let mut state = shared.lock();
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
