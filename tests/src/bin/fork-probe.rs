//! A program that hosts the bus and then turns itself into a daemon: it prints `hosting`, forks, and the parent exits. The child then
//! sends each line of its standard input and prints `ok` after each, through a sender that was made before.

#[cfg(not(unix))]
fn main() {}

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::{BufRead, stdin};
    let mut sender = system_broadcaster::Sender::create("news")?;
    sender.send(b"first")?;
    println!("hosting");
    if fork() != 0 {
        std::process::exit(0);
    }
    for line in stdin().lock().lines() {
        sender.send(line?.as_bytes())?;
        println!("ok");
    }
    Ok(())
}

#[cfg(unix)]
#[allow(unsafe_code)]
fn fork() -> i32 {
    unsafe extern "C" {
        fn fork() -> i32;
    }
    // SAFETY: the child uses the sender and the standard streams only, whose locks no other thread of the parent holds: the host thread
    // uses neither.
    unsafe { fork() }
}
