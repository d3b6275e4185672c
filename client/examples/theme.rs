//! A theme switcher: a retained value, and windows that receive it in an event loop of their own, here `mio`.
//!
//! `theme set NAME` sets the theme and exits. `theme window` applies the theme that is set when it starts, and each change after that. Like a
//! GUI toolkit it waits for everything in one place: a line on its standard input stands for a key press. `theme clear` returns to the default.

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use system_broadcaster::{Options, Sender};
    use window::CHANNEL;

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["set", theme] => Sender::create(CHANNEL)?.retain(theme.as_bytes()).map(drop)?,
        ["clear"] => Sender::create(CHANNEL)?.clear_retained().map(drop)?,
        ["window"] => window::run(Options::new().purpose("window").listener(CHANNEL)?)?,
        _ => return Err("usage: theme set NAME | theme clear | theme window".into()),
    }
    Ok(())
}

#[cfg(not(unix))]
fn main() {}

#[cfg(unix)]
mod window {
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};
    use std::error::Error;
    use std::io::{ErrorKind, Read};
    use std::os::fd::{AsFd, AsRawFd};
    use system_broadcaster::{Listener, Message, RecvError};

    pub(super) const CHANNEL: &str = "com.example.theme";

    const THEMES: Token = Token(0);
    const KEYS: Token = Token(1);

    /// Runs until the keyboard is gone.
    pub(super) fn run(mut listener: Listener) -> Result<(), Box<dyn Error>> {
        let mut keyboard = std::io::stdin().lock();
        let mut poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&listener.as_fd().as_raw_fd()), THEMES, Interest::READABLE)?;
        poll.registry().register(&mut SourceFd(&keyboard.as_fd().as_raw_fd()), KEYS, Interest::READABLE)?;
        println!("open");
        apply_changes(&mut listener)?;
        let mut events = Events::with_capacity(8);
        loop {
            if let Err(error) = poll.poll(&mut events, None)
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            for event in &events {
                match event.token() {
                    THEMES => apply_changes(&mut listener)?,
                    _ => {
                        let mut keys = [0; 4096];
                        let pressed = keyboard.read(&mut keys)?;
                        if pressed == 0 {
                            return Ok(());
                        }
                        String::from_utf8_lossy(&keys[..pressed])
                            .split_whitespace()
                            .for_each(|key| println!("key {key}"));
                    }
                }
            }
        }
    }

    /// Takes everything that has arrived, because mio reports edges. Only the newest theme matters.
    fn apply_changes(listener: &mut Listener) -> Result<(), RecvError> {
        let mut newest = None;
        loop {
            match listener.try_recv() {
                Ok(message) => newest = Some(message),
                // A lost theme was followed by a newer one. After a restart of the daemon, the value arrives again.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Empty | RecvError::Connecting) => break,
                Err(error) => return Err(error),
            }
        }
        if let Some(theme) = newest {
            println!("theme {}", if theme.is_cleared() { "default".into() } else { name(&theme) });
        }
        Ok(())
    }

    fn name(theme: &Message) -> String {
        String::from_utf8_lossy(theme.payload()).into_owned()
    }
}
