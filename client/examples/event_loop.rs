//! A listener and a sender in an event loop of their own, here `mio`: `event_loop CHANNEL`.
//!
//! Both handles have one descriptor for their whole life. It stays registered when the daemon is replaced. Every line from the
//! standard input is sent; every message is printed.

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::BufRead;
    use system_broadcaster::{Listener, Sender};

    let channel = std::env::args().nth(1).ok_or("usage: event_loop CHANNEL")?;
    let mut sender = Sender::create(&channel)?;
    let lines = std::thread::spawn(move || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for line in std::io::stdin().lock().lines() {
            sender.send(line?.as_bytes())?;
        }
        Ok(())
    });
    event_loop::run(&mut Listener::create(&channel)?, |event| {
        println!("{event}");
        !lines.is_finished()
    })?;
    Ok(())
}

#[cfg(not(unix))]
fn main() {}

/// The loop, which a test runs as well.
#[cfg(unix)]
pub mod event_loop {
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};
    use std::io;
    use std::os::fd::{AsFd, AsRawFd};
    use system_broadcaster::{Listener, RecvError};

    /// Calls `on_event` with each message and each gap as text, until it returns `false`.
    pub fn run(listener: &mut Listener, mut on_event: impl FnMut(String) -> bool) -> io::Result<()> {
        let mut poll = Poll::new()?;
        let descriptor = listener.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE)?;
        let mut events = Events::with_capacity(8);
        loop {
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue, // as by a debugger
                polled => polled?,
            }
            // mio reports edges, so take everything. In a level-triggered loop one message per round is enough.
            loop {
                let event = match listener.try_recv() {
                    Ok(message) => String::from_utf8_lossy(message.payload()).into_owned(),
                    Err(RecvError::Lagged(lag)) => lag.to_string(),
                    // The descriptor becomes readable when there is more to do, also in order to connect again.
                    Err(RecvError::Empty | RecvError::Connecting) => break,
                    Err(error) => error.to_string(),
                };
                if !on_event(event) {
                    return Ok(());
                }
            }
        }
    }
}
