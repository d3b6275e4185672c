//! The user of a process, as the kernel reports it. It never looks at a name or at the environment.

use super::text::length;
use std::fmt;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use windows_sys::Win32::Foundation::{ERROR_SUCCESS, HANDLE, LocalFree};
use windows_sys::Win32::Security::Authorization::{ConvertSidToStringSidW, GetSecurityInfo, SE_KERNEL_OBJECT};
use windows_sys::Win32::Security::{
    GetTokenInformation, OWNER_SECURITY_INFORMATION, PSID, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, OpenProcess, OpenProcessToken, PROCESS_QUERY_LIMITED_INFORMATION,
};

/// Room for a user with the longest identifier that there can be, as 64-bit units so that it is aligned.
const TOKEN_USER_UNITS: usize = (size_of::<TOKEN_USER>() + 68).div_ceil(8);

/// The security identifier of a user, such as `S-1-5-21-1004336348-1177238915-682003330-1001`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sid(String);

impl Sid {
    /// The last part of the identifier, which differs between the users of one machine.
    pub fn number(&self) -> u32 {
        self.0.rsplit('-').next().and_then(|last| last.parse().ok()).unwrap_or(0)
    }

    /// The same, but never the number of `own` for another user.
    pub fn number_unlike(&self, own: &Self) -> u32 {
        let number = self.number();
        if number == own.number() && self != own { !number } else { number }
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The user of this process.
///
/// # Errors
///
/// If the system does not report it.
#[allow(unsafe_code)]
pub fn current() -> io::Result<Sid> {
    // SAFETY: the call has no precondition. What it returns stands for this process and needs no closing.
    of_handle(unsafe { GetCurrentProcess() })
}

/// The user of another process.
///
/// # Errors
///
/// If there is no such process any more, or we may not look at it.
#[allow(unsafe_code)]
pub fn of_process(pid: u32) -> io::Result<Sid> {
    // SAFETY: the call has no precondition.
    let process = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, pid) };
    if process.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was just opened, and nothing else has it.
    let process = unsafe { OwnedHandle::from_raw_handle(process) };
    of_handle(process.as_raw_handle())
}

#[allow(unsafe_code)]
fn of_handle(process: HANDLE) -> io::Result<Sid> {
    let mut token = std::ptr::null_mut();
    // SAFETY: the process handle is open, and `token` is a place for a handle.
    if unsafe { OpenProcessToken(process, TOKEN_QUERY, &raw mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was just opened, and nothing else has it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    let mut room = [0_u64; TOKEN_USER_UNITS];
    let (size, mut used) = (length(size_of_val(&room)), 0);
    let place = room.as_mut_ptr().cast();
    // SAFETY: `room` has `size` bytes and is aligned for the structure that is asked for.
    if unsafe { GetTokenInformation(token.as_raw_handle(), TokenUser, place, size, &raw mut used) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has put a `TOKEN_USER` there, whose pointer leads into `room`, which has not moved.
    unsafe { text_of((*room.as_ptr().cast::<TOKEN_USER>()).User.Sid) }
}

/// The user who owns an object, such as a pipe: the one who has made it.
///
/// # Errors
///
/// If the handle does not allow to look.
#[allow(unsafe_code)]
pub fn owner(object: &impl AsRawHandle) -> io::Result<Sid> {
    let (mut owner, mut descriptor) = (std::ptr::null_mut(), std::ptr::null_mut());
    let unasked = std::ptr::null_mut();
    let unasked_lists = std::ptr::null_mut();
    // SAFETY: the handle is open; null asks for nothing, and the others are places for pointers.
    let error = unsafe {
        GetSecurityInfo(
            object.as_raw_handle(),
            SE_KERNEL_OBJECT,
            OWNER_SECURITY_INFORMATION,
            &raw mut owner,
            unasked,
            unasked_lists,
            unasked_lists,
            &raw mut descriptor,
        )
    };
    if error != ERROR_SUCCESS {
        return Err(io::Error::from_raw_os_error(error.cast_signed()));
    }
    // SAFETY: the owner is in the descriptor, which the system has allocated for us, and which is freed once, after that.
    unsafe {
        let sid = if owner.is_null() { Err(io::Error::other("an object without an owner")) } else { text_of(owner) };
        LocalFree(descriptor);
        sid
    }
}

/// # Safety
///
/// `sid` must point to a valid identifier.
#[allow(unsafe_code)]
unsafe fn text_of(sid: PSID) -> io::Result<Sid> {
    let mut text = std::ptr::null_mut();
    // SAFETY: the identifier is valid, and `text` is a place for a pointer.
    if unsafe { ConvertSidToStringSidW(sid, &raw mut text) } == 0 {
        return Err(io::Error::last_os_error());
    }
    let mut units = Vec::new();
    let mut at: *const u16 = text;
    // SAFETY: the text ends with a zero, and no unit behind it is read.
    unsafe {
        while *at != 0 {
            units.push(*at);
            at = at.add(1);
        }
        LocalFree(text.cast());
    }
    String::from_utf16(&units).map(Sid).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_belongs_to_the_user_whom_its_number_leads_to() {
        let own = current().expect("some user");
        assert!(own.as_str().starts_with("S-1-5-"), "{own}");
        assert_eq!(of_process(std::process::id()).expect("it lives"), own);
    }

    #[test]
    fn two_users_never_have_one_number() {
        let of = |text: &str| Sid(text.to_owned());
        let (own, other, far) = (of("S-1-5-21-1-2-3-1001"), of("S-1-5-21-1-2-3-500"), of("S-1-5-21-9-9-9-1001"));
        assert_eq!((own.number(), other.number_unlike(&own)), (1001, 500));
        assert_ne!(far.number_unlike(&own), own.number());
        assert_eq!(own.number_unlike(&own), own.number());
    }
}
