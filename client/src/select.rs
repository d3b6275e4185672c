//! Waiting for several handles at once, on one thread. It never receives from them.

use crate::error::{ConnectError, RecvError};
use crate::path::{Pending, Until, wait_for_any};
use crate::{Listener, Monitor, Presence};
use std::time::Duration;

/// A handle that [`select`] waits for. Only the handles of this library are.
pub trait Select: sealed::Ready {}

impl Select for Listener {}
impl Select for Monitor {}
impl Select for Presence {}

pub(crate) mod sealed {
    use super::{ConnectError, Pending};

    /// Takes a step of a receive.
    pub trait Ready {
        /// What to wait for; `None` if the next receive does not wait.
        #[doc(hidden)]
        fn poll_ready(&mut self) -> Result<Option<Pending>, ConnectError>;
    }
}

/// Waits until at least one of several handles has something to receive, and returns the positions of those that have, in ascending order. The
/// next receive of each of them does not wait: it yields a message, a gap, an event or an error.
///
/// The handles may be [`Listener`]s with different options, [`Monitor`]s and [`Presence`]s of different buses. Channels with the same options need
/// one listener only: see [`Options::listener_on`](crate::Options::listener_on). While it waits, handles without a connection look for the
/// daemon, and what arrives stays in its socket. Serve every handle that is returned before the next call, and none waits for another.
///
/// In async code use streams instead: see the example below. In an event loop use the handles' descriptors.
///
/// # Errors
///
/// [`RecvError::TimedOut`] if nothing has arrived within `timeout`; without one this can wait indefinitely. [`RecvError::Connect`] if the
/// system call fails, which on Windows includes more than 64 handles; a handle with a [`Closer`](crate::Closer) counts twice.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use system_broadcaster::{Options, Overflow, RecvError, select};
///
/// let directory = tempfile::tempdir()?; // a bus of its own, for this example
/// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
/// let mut log = bus.listener("com.example.log")?;
/// let mut position = bus.clone().overflow(Overflow::Latest).listener("com.example.position")?;
/// let mut presence = bus.presence("com.example.log")?;
/// assert_eq!(presence.present().count(), 1);
/// presence.recv()?;
///
/// let nothing = select(&mut [&mut log, &mut position, &mut presence], Some(Duration::from_millis(1)));
/// assert!(matches!(nothing, Err(RecvError::TimedOut { .. })));
///
/// bus.sender("com.example.position")?.send(b"1 2")?;
/// assert_eq!(select(&mut [&mut log, &mut position, &mut presence], None)?, [1]);
/// assert_eq!(position.try_recv()?.payload(), b"1 2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The same in a task, with streams:
///
#[cfg_attr(feature = "tokio", doc = "```")]
#[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
/// use futures_util::StreamExt;
/// use futures_util::stream::select;
/// use system_broadcaster::{Options, Overflow};
///
/// let directory = tempfile::tempdir()?;
/// let bus = Options::new().socket(directory.path().join("bus.sock")).autostart(false);
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// runtime.block_on(async {
///     let mut log = bus.listener_async("com.example.log").await?;
///     let mut position = bus.clone().overflow(Overflow::Latest).listener_async("com.example.position").await?;
///     bus.sender_async("com.example.position").await?.send_async(b"1 2").await?;
///     let message = select(log.messages(), position.messages()).next().await.ok_or("no handle was closed")??;
///     assert_eq!(message.channel().as_str(), "com.example.position");
///
///     bus.sender_async("com.example.log").await?.send_async(b"one line").await?;
///     tokio::select! {
///         message = log.recv_async() => assert_eq!(message?.payload(), b"one line"),
///         message = position.recv_async() => panic!("nothing was sent: {message:?}"),
///     }
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn select(handles: &mut [&mut dyn Select], timeout: Option<Duration>) -> Result<Vec<usize>, RecvError> {
    let until = timeout.map_or(Until::Forever, Until::after);
    loop {
        let (mut ready, mut pending) = (Vec::new(), Vec::with_capacity(handles.len()));
        for (position, handle) in handles.iter_mut().enumerate() {
            match handle.poll_ready()? {
                Some(wait) => pending.push(wait),
                None => ready.push(position),
            }
        }
        if !ready.is_empty() {
            return Ok(ready);
        }
        if !wait_for_any(&pending, until)? {
            return Err(RecvError::TimedOut { after: timeout.unwrap_or(Duration::MAX) });
        }
    }
}
