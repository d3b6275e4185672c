//! What a caller can do that the daemon or a listener answers, through the public interface of the library only.

use std::path::Path;
use std::time::Duration;

use system_broadcaster::{Listener, Options, Sender, SharedMemory};

use crate::error::{Result, fail};

const THERE: &str = "bench.there";
const BACK: &str = "bench.back";
const ANSWER_MAX: Duration = Duration::from_secs(10);

fn options(path: &Path) -> Options {
    Options::new().socket(path.to_path_buf()).autostart(false).embedded(false)
}

/// What a caller does, and waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// It sends a message, and the listener sends one back.
    Messages,
    /// It sends a request, and the listener replies.
    Request,
    /// The same; the request goes through shared memory.
    MemoryRequest,
    /// It sends a message, and the daemon gives a receipt.
    Receipt,
    /// It sends a message, and the daemon confirms everything that was sent.
    Confirmation,
}

impl Exchange {
    pub(crate) const ALL: [Self; 5] =
        [Self::Messages, Self::Request, Self::MemoryRequest, Self::Receipt, Self::Confirmation];

    /// One word.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Request => "request",
            Self::MemoryRequest => "memory-request",
            Self::Receipt => "receipt",
            Self::Confirmation => "confirmation",
        }
    }
}

impl std::str::FromStr for Exchange {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        Self::ALL.into_iter().find(|exchange| exchange.label() == text).ok_or(())
    }
}

/// The side that begins.
pub(crate) struct Caller {
    exchange: Exchange,
    sender: Sender,
    /// Only for messages.
    back: Option<Listener>,
}

impl Caller {
    pub(crate) fn connect(path: &Path, exchange: Exchange) -> Result<Self> {
        let back = if exchange == Exchange::Messages { Some(options(path).listener(BACK)?) } else { None };
        let memory = if exchange == Exchange::MemoryRequest { SharedMemory::Always } else { SharedMemory::Never };
        Ok(Self { exchange, sender: options(path).shared_memory(memory).sender(THERE)?, back })
    }

    /// One exchange, from the send to the answer.
    #[inline]
    pub(crate) fn call(&mut self, payload: &[u8]) -> Result<()> {
        let complete = match (self.exchange, &mut self.back) {
            (Exchange::Messages, Some(back)) => {
                self.sender.send(payload)?;
                back.recv_ref()?.payload() == payload
            }
            (Exchange::Request | Exchange::MemoryRequest, _) => {
                self.sender.request_one(payload, ANSWER_MAX)?.payload() == payload
            }
            (Exchange::Receipt, _) => self.sender.send_confirmed(payload)?.took == 1,
            (Exchange::Confirmation | Exchange::Messages, _) => {
                self.sender.send(payload)?;
                self.sender.confirm()?;
                true
            }
        };
        if complete { Ok(()) } else { fail("an answer is not what it should be") }
    }
}

/// The side that receives, and answers as long as it lives.
pub(crate) struct Answerer {
    exchange: Exchange,
    listener: Listener,
    back: Sender,
}

impl Answerer {
    pub(crate) fn connect(path: &Path, exchange: Exchange) -> Result<Self> {
        Ok(Self { exchange, listener: options(path).listener(THERE)?, back: options(path).sender(BACK)? })
    }

    #[inline]
    pub(crate) fn answer(&mut self) -> Result<()> {
        match self.exchange {
            Exchange::Messages => {
                let message = self.listener.recv_ref()?;
                Ok(self.back.send(message.payload())?)
            }
            Exchange::Request | Exchange::MemoryRequest => {
                let message = self.listener.recv()?;
                Ok(self.listener.reply(&message, message.payload())?)
            }
            Exchange::Receipt | Exchange::Confirmation => {
                self.listener.recv_ref()?;
                Ok(())
            }
        }
    }
}
