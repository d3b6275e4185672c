//! The result of an attempt to connect. It never carries a connection to a process of another user.

use crate::Socket;

/// The result of an attempt to connect.
#[derive(Debug)]
pub enum Connected {
    /// Connected to a process of this user.
    Yes(Socket),
    /// No process listens there.
    NotListening,
    /// A process listens there and cannot accept another connection at the moment.
    Busy,
    /// A process of the user with this id listens there. Nothing was sent to it.
    OtherUser(u32),
}
