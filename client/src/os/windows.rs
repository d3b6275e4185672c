//! The client's system calls on Windows, through `broadcaster-windows`. One `unsafe` block: telling a buffer how much was read into
//! it.

pub(crate) use broadcaster_windows::{Connected, output_pipe};

use broadcaster_protocol::endpoint::{DIRECTORY_NAME, Env, SOCKET_VARIABLE, pipe_lock_file};
use broadcaster_windows::{Pipe, user};
use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::windows::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;
#[cfg(feature = "tokio")]
use {
    broadcaster_windows::Waiter,
    std::sync::Arc,
    std::task::{Context, Poll},
    tokio::io::Interest,
};

/// A connection, or the output of a program that was started.
pub(crate) type Socket = Pipe;

/// The program gets a console that nobody sees: no window opens for a program that has none.
const CREATE_NO_WINDOW: u32 = 0x0800_0000;

/// A number for the user of this process, which no other user has in a [`Connected::OtherUser`].
pub(crate) fn euid() -> u32 {
    user::current().map_or(0, |user| user.number())
}

/// This process.
pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// How many handles this process may have open: more than anybody needs.
#[cfg(feature = "embedded")]
pub(crate) fn descriptors_max() -> usize {
    usize::MAX
}

/// The facts that decide where the bus is; `socket` is the pipe that the program was told, if it was.
pub(crate) fn endpoint_env(socket: Option<PathBuf>) -> Env {
    let variable = || std::env::var_os(SOCKET_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user_sid = user::current().ok().map(|user| user.to_string());
    Env { user_sid, socket: socket.or_else(variable), ..Env::default() }
}

/// Only a daemon serves a pipe, and no service manager does it in its place: whoever serves it has the lock.
pub(crate) fn is_unlocked(_: &Path) -> bool {
    false
}

/// Connects without waiting, and checks whose process it is. A pipe whose server has died stays for as long as a client has not let go
/// of its end, and looks busy: then the lock tells.
pub(crate) fn connect(path: &Path) -> io::Result<Connected> {
    match broadcaster_windows::connect(path.as_os_str())? {
        Connected::Busy if !is_locked(path) => Ok(Connected::Nobody),
        connected => Ok(connected),
    }
}

/// Whether a process has the lock of this bus, and has not written on it that it is on its way out. It is held by us, shared, for the time of this call; a daemon that comes up at this very
/// moment tries again.
fn is_locked(socket: &Path) -> bool {
    let project = directories::ProjectDirs::from("", "", DIRECTORY_NAME);
    let (Some(project), Ok(user)) = (project, user::current()) else { return true };
    match File::open(pipe_lock_file(project.data_local_dir(), socket, user.as_str())) {
        Ok(file) => file.metadata().is_ok_and(|file| file.len() == 0) && file.try_lock_shared().is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Reads what is there into `target`; 0 is the end of the stream. Waits only if `patient`.
#[allow(unsafe_code)]
pub(crate) fn read(socket: &Pipe, target: &mut Limit<&mut BytesMut>, patient: bool) -> io::Result<usize> {
    let room = target.remaining_mut();
    let buffer = target.get_mut();
    let spare = buffer.spare_capacity_mut();
    let room = room.min(spare.len());
    let len = loop {
        match socket.read(&mut spare[..room]) {
            Err(error) if patient && error.kind() == io::ErrorKind::WouldBlock => socket.wait_readable(None)?,
            other => break other?,
        };
    };
    // SAFETY: the pipe has initialised the first `len` bytes of the spare capacity, and `len` is at most its size.
    unsafe { buffer.advance_mut(len) };
    Ok(len)
}

/// Writes what the pipe takes of the two parts, without waiting.
pub(crate) fn write(socket: &Pipe, head: &[u8], body: &[u8]) -> io::Result<usize> {
    socket.write(&[IoSlice::new(head), IoSlice::new(body)])
}

/// Waits until `socket` is readable, or writable, or has ended; at most for `timeout`. Without `socket`, waits for all of it.
pub(crate) fn wait(socket: Option<&Pipe>, writable: bool, timeout: Option<Duration>) -> io::Result<()> {
    match socket {
        Some(socket) if writable => socket.wait_writable(timeout).map(drop),
        Some(socket) => socket.wait_readable(timeout).map(drop),
        None => {
            std::thread::sleep(timeout.unwrap_or(Duration::MAX));
            Ok(())
        }
    }
}

/// A pipe that is waited for in a task, in any runtime.
#[cfg(feature = "tokio")]
#[derive(Debug)]
pub(crate) struct Registration {
    socket: Arc<Pipe>,
    waiter: Waiter,
}

/// It was ready. Whether it still is shows when it is used, so there is nothing to clear.
#[cfg(feature = "tokio")]
#[derive(Debug)]
pub(crate) struct Ready;

/// Prepares to wait for the pipe in a task.
#[cfg(feature = "tokio")]
pub(crate) fn register(socket: Arc<Pipe>, _: Interest) -> io::Result<Registration> {
    Ok(Registration { socket, waiter: Waiter::new()? })
}

#[cfg(feature = "tokio")]
impl Registration {
    pub(crate) fn get_ref(&self) -> &Arc<Pipe> {
        &self.socket
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.socket.poll_readable(cx, &self.waiter).map_ok(|()| Ready)
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.socket.poll_writable(cx, &self.waiter).map_ok(|()| Ready)
    }
}

#[cfg(feature = "tokio")]
impl Ready {
    pub(crate) fn clear_ready(&mut self) {}
}

/// Sees to it that a program which is about to be started opens no window.
pub(crate) fn prepare(command: &mut Command) {
    command.creation_flags(CREATE_NO_WINDOW);
}

/// Lets a program go on that nobody waits for any more. It leaves nothing behind when it ends; killed while it starts the daemon, it
/// would leave a process that never begins.
pub(crate) fn abandon(_: &mut Child) {}

/// Reads what is in a program's output without waiting; 0 when its writers are gone.
pub(crate) fn read_output(output: &Pipe, buffer: &mut [u8]) -> io::Result<usize> {
    output.read_over(buffer)
}
