//! A listener and a sender that use notifications of macOS rather than fail when no daemon is available:
//! `notifications listen CHANNEL`, `notifications send CHANNEL TEXT`.
//!
//! On macOS the run loop of the main thread delivers notifications, so that the listener receives on another thread.

use std::error::Error;
use system_broadcaster::{Capabilities, Fallback, Listener, Options, RecvError};

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::new().fallback(Fallback::Notifications);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["send", channel, text] => {
            let mut sender = options.sender(channel)?;
            show("sending", sender.capabilities());
            Ok(sender.send(text.as_bytes())?)
        }
        ["listen", channel] => {
            let listener = options.listener(channel)?;
            show("listening", listener.capabilities());
            let listening = std::thread::spawn(move || listen(listener));
            run_loop();
            listening.join().map_err(|_| "the listening thread panicked")?.map_err(Into::into)
        }
        _ => Err("usage: notifications listen CHANNEL | notifications send CHANNEL TEXT".into()),
    }
}

fn show(doing: &str, can: Capabilities) {
    let payload = if can.payload { "with" } else { "without" };
    eprintln!("{doing} through {:?}, {payload} payloads, of at most {} bytes", can.transport, can.payload_bytes_max);
}

fn listen(mut listener: Listener) -> Result<(), RecvError> {
    let mut before = listener.capabilities();
    loop {
        match listener.recv() {
            Ok(message) => println!("{}", String::from_utf8_lossy(message.payload())),
            Err(RecvError::Lagged(lag)) => eprintln!("{lag}"),
            Err(error) => return Err(error),
        }
        let now = listener.capabilities();
        if now != before {
            show("now listening", now);
            before = now;
        }
    }
}

/// Lets the main thread deliver notifications for as long as the program runs.
#[cfg(target_os = "macos")]
fn run_loop() {
    loop {
        // It returns when there is nothing to wait for, as when the listener has found the daemon.
        objc2_core_foundation::CFRunLoop::run();
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

#[cfg(not(target_os = "macos"))]
fn run_loop() {}
