//! Facts about this process. It never looks at another process.

use super::user;

/// A number for the user of this process, which no other user has in a [`Peer`](crate::Peer) or a
/// [`Connected::OtherUser`](crate::Connected::OtherUser).
pub fn euid() -> u32 {
    user::current().map_or(0, |user| user.number())
}

/// This process.
pub fn pid() -> u32 {
    std::process::id()
}

/// How many handles this process may have open: there is no limit to speak of.
pub fn descriptors_max() -> usize {
    usize::MAX
}

/// Does nothing: there is no limit to raise.
pub fn raise_descriptor_limit() -> Option<u64> {
    None
}

/// Does nothing: there is no limit to speak of.
///
/// # Errors
///
/// Never on this system.
pub fn check_descriptors(_count: usize) -> std::io::Result<()> {
    Ok(())
}
