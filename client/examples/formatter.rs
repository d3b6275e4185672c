//! A formatter service and the editor plugin that uses it: requests, replies and presence.
//!
//! `formatter serve` formats what it is sent, `formatter format < FILE` is the plugin, and `formatter status` displays which formatters
//! come and go, as an editor would in its status line. Any number of plugins share one service. If there are several services, the plugin
//! takes the first reply.

use std::error::Error;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Duration;
use system_broadcaster::{Listener, Metadata, Options, PresenceEvent, RecvError, ReplyError, RequestError, Sender};

const CHANNEL: &str = "com.example.format";

/// The key of a reply's header that states why the text cannot be formatted.
const PROBLEM: &str = "problem";

/// Longer than any text takes that a person edits.
const FORMAT_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(Options::new().purpose("formatter").listener(CHANNEL)?)?,
        Some("format") => {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text)?;
            return match format(&mut Sender::create(CHANNEL)?, &text) {
                Ok(formatted) => {
                    std::io::stdout().write_all(&formatted).map(|()| ExitCode::SUCCESS).map_err(Into::into)
                }
                Err(error) => {
                    eprintln!("formatter: {error}");
                    Ok(ExitCode::FAILURE)
                }
            };
        }
        Some("status") => status()?,
        _ => return Err("usage: formatter serve | formatter format < FILE | formatter status".into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The service: replies to each request until the daemon refuses it.
fn serve(mut listener: Listener) -> Result<(), Box<dyn Error>> {
    println!("serving");
    loop {
        let request = match listener.recv() {
            Ok(request) => request,
            // The plugins of the lost requests time out. What follows is served.
            Err(RecvError::Lagged(lag)) => {
                eprintln!("formatter: {lag}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let replied = match reindent(&String::from_utf8_lossy(request.payload())) {
            Ok(formatted) => listener.reply(&request, formatted.as_bytes()),
            Err(problem) => {
                let metadata = Metadata::new().header(PROBLEM, problem.as_bytes())?;
                listener.reply_with(&request, &metadata, b"")
            }
        };
        match replied {
            // A message that is not a request, or a plugin whose daemon is gone.
            Ok(()) | Err(ReplyError::NotRequested | ReplyError::Gone) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The plugin: the formatted text, from the first formatter that replies.
fn format(sender: &mut Sender, text: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let reply = match sender.request_one(text, FORMAT_TIMEOUT) {
        Ok(reply) => reply,
        Err(RequestError::NoListeners) => {
            return Err("no formatter is running; start one with `formatter serve`".into());
        }
        Err(error) => return Err(error.into()),
    };
    match reply.metadata().header(PROBLEM) {
        Some(problem) => Err(String::from_utf8_lossy(problem).into()),
        None => Ok(reply.payload().to_vec()),
    }
}

/// The status line.
fn status() -> Result<(), Box<dyn Error>> {
    let mut presence = Options::new().presence(CHANNEL)?;
    println!("{} formatters", presence.present().count());
    loop {
        let event = presence.recv()?;
        let sign = if matches!(event, PresenceEvent::Joined(_)) { '+' } else { '-' };
        println!("{sign} {} {}", event.peer().purpose(), event.peer().pid().unwrap_or_default());
    }
}

/// Indents each line by four spaces for each bracket that is open before it, and removes blanks at its end.
fn reindent(text: &str) -> Result<String, String> {
    let (mut formatted, mut open) = (String::with_capacity(text.len()), Vec::new());
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        let closing = line.chars().take_while(|c| matches!(c, '}' | ')' | ']')).count();
        if !line.is_empty() {
            formatted.push_str(&"    ".repeat(open.len().saturating_sub(closing)));
            formatted.push_str(line);
        }
        formatted.push('\n');
        for bracket in line.chars() {
            let opening = match bracket {
                '{' | '(' | '[' => {
                    open.push(bracket);
                    continue;
                }
                '}' => '{',
                ')' => '(',
                ']' => '[',
                _ => continue,
            };
            if open.pop() != Some(opening) {
                return Err(format!("line {number}: {bracket:?} closes nothing"));
            }
        }
    }
    match open.pop() {
        Some(bracket) => Err(format!("{bracket:?} is never closed")),
        None => Ok(formatted),
    }
}
