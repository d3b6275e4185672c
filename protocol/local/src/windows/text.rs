//! Text and lengths as Windows takes them. It never shortens text.

use std::ffi::OsStr;
use std::io;
use std::os::windows::ffi::OsStrExt;

/// The text in 16-bit units, with a zero at the end.
pub(super) fn wide(text: &OsStr) -> io::Result<Vec<u16>> {
    let mut units: Vec<u16> = text.encode_wide().collect();
    if units.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name with a zero character in it"));
    }
    units.push(0);
    Ok(units)
}

/// A number of bytes. A larger number becomes the largest: every caller accepts a part as the answer.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
