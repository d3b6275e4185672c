//! One overlapped operation at a time on a pipe: started, looked at, waited for, cancelled. It never frees memory that the system may still
//! write to.

use super::event::Event;
use std::cell::UnsafeCell;
use std::io;
use windows_sys::Win32::Foundation::{ERROR_IO_INCOMPLETE, ERROR_IO_PENDING, HANDLE};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};

/// What the system knows of an operation, at an address that does not change.
pub(super) struct Operation {
    overlapped: Box<UnsafeCell<OVERLAPPED>>,
    event: Event,
    under_way: bool,
}

// SAFETY: the pointers in `OVERLAPPED` are the system's and the event's handle; neither belongs to a thread.
#[allow(unsafe_code)]
unsafe impl Send for Operation {}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operation").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

impl Operation {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { overlapped: Box::default(), event: Event::new()?, under_way: false })
    }

    /// Set when the operation has ended.
    pub(super) fn event(&self) -> &Event {
        &self.event
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Starts an operation, for which `call` gets the memory that it needs and says whether the system has taken it.
    ///
    /// # Errors
    ///
    /// If the system has not taken it. Nothing is under way then.
    ///
    /// # Panics
    ///
    /// If one is under way.
    pub(super) fn start(&mut self, call: impl FnOnce(*mut OVERLAPPED) -> bool) -> io::Result<()> {
        assert!(!self.under_way, "one operation at a time");
        *self.overlapped.get_mut() = OVERLAPPED { hEvent: self.event.handle(), ..OVERLAPPED::default() };
        if !call(self.overlapped.get()) {
            let error = io::Error::last_os_error();
            if code(&error) != ERROR_IO_PENDING {
                return Err(error);
            }
        }
        self.under_way = true;
        Ok(())
    }

    /// How many bytes the operation has moved, if it has ended; `patient` waits for that.
    #[allow(unsafe_code)]
    pub(super) fn outcome(&mut self, handle: HANDLE, patient: bool) -> Option<io::Result<usize>> {
        if !self.under_way {
            return Some(Ok(0));
        }
        let mut moved = 0;
        // SAFETY: the operation was started on this handle with this memory, which has not moved since.
        let ended = unsafe { GetOverlappedResult(handle, self.overlapped.get(), &raw mut moved, patient.into()) };
        if ended != 0 {
            self.under_way = false;
            return Some(Ok(moved as usize));
        }
        let error = io::Error::last_os_error();
        if code(&error) == ERROR_IO_INCOMPLETE {
            return None;
        }
        self.under_way = false;
        Some(Err(error))
    }

    /// Takes the operation back, if it is under way, and waits until the system has let go of its memory.
    #[allow(unsafe_code)]
    pub(super) fn cancel(&mut self, handle: HANDLE) {
        if self.under_way {
            // SAFETY: the operation was started on this handle with this memory. If it has ended already, nothing happens.
            unsafe { CancelIoEx(handle, self.overlapped.get()) };
            let _ = self.outcome(handle, true);
        }
    }
}

/// The system's number of an error.
pub(super) fn code(error: &io::Error) -> u32 {
    error.raw_os_error().map_or(0, i32::cast_unsigned)
}
