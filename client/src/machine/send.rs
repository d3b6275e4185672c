//! The send loop: one message directly from the caller's memory, or everything that waits; and the confirmation of what was sent. It
//! never waits for a listener.

use super::{Carrier, Link, Loss, Machine, Posted, Publisher, Step, TooLarge, Transfer};
use broadcaster_protocol::Header;
use broadcaster_protocol::limits::HEADER_BYTES;

/// A payload of up to this size is copied behind its header: one buffer is cheaper for the kernel than two.
const COPIED_BYTES_MAX: usize = 4096;

/// One message being sent, directly from the caller's memory.
///
/// When it is dropped after a part of it was written, the publisher keeps the rest: the daemon would take the bytes that
/// follow for a part of this message.
#[derive(Debug)]
pub struct PendingSend<'a, L: Link> {
    publisher: &'a mut Publisher,
    link: &'a mut L,
    metadata: &'a [u8],
    payload: &'a [u8],
    /// As it was made for the present connection.
    header: Option<Header>,
    written: usize,
}

impl<'a, L: Link> PendingSend<'a, L> {
    /// A message with `metadata` that is at most [`META_BYTES_MAX`](broadcaster_protocol::limits::META_BYTES_MAX) bytes long.
    pub fn new(publisher: &'a mut Publisher, link: &'a mut L, metadata: &'a [u8], payload: &'a [u8]) -> Self {
        Self { publisher, link, metadata, payload, header: None, written: 0 }
    }

    /// Whether a part of the message was written.
    pub fn has_begun(&self) -> bool {
        self.written > 0
    }

    /// Goes on as far as that is possible without waiting; done when the message was written completely.
    ///
    /// # Errors
    ///
    /// If the payload is too large, or there is no connection and will be none. The message was not sent.
    #[inline]
    pub fn poll<E>(&mut self) -> Result<Step<(), L::Wait>, E>
    where
        E: From<TooLarge> + From<L::Error>,
    {
        loop {
            match self.link.connect(self.publisher)? {
                Step::Wait(wait) => return Ok(Step::Wait(wait)),
                Step::Done(Carrier::Messages) => return Ok(Step::Done(post(self.publisher, self.link, self.payload)?)),
                Step::Done(Carrier::Stream) => {}
            }
            if !self.publisher.is_flushed() {
                if let Step::Wait(wait) = flush::<L, E>(self.publisher, self.link)? {
                    return Ok(Step::Wait(wait));
                }
                continue;
            }
            let header = match self.header {
                Some(header) => header,
                None => self.begin()?,
            };
            let copied = &self.publisher.scratch;
            let transfer = if copied.len() == header.frame_bytes() {
                self.link.write(&copied[self.written..], &[])
            } else if self.written < copied.len() {
                self.link.write(&copied[self.written..], self.payload)
            } else {
                self.link.write(&self.payload[self.written - copied.len()..], &[])
            };
            match transfer {
                Transfer::Bytes(bytes) => {
                    self.written += bytes;
                    if self.written == header.frame_bytes() {
                        self.written = 0;
                        if self.link.duplicates() {
                            let message = Posted { sequence: header.sequence(), payload: self.payload };
                            self.link.written(self.publisher, message);
                        }
                        self.publisher.commit();
                        return Ok(Step::Done(()));
                    }
                }
                Transfer::Wait(wait) => return Ok(Step::Wait(wait)),
                Transfer::Broken => {
                    // No daemon has the complete message: it starts over on the next connection.
                    (self.header, self.written) = (None, 0);
                    lose::<L, E>(self.publisher, self.link, Loss::Write)?;
                }
            }
        }
    }

    /// Lays the frame out for the present connection.
    fn begin(&mut self) -> Result<Header, TooLarge> {
        self.publisher.report_rejected()?;
        let meta_bytes = u16::try_from(self.metadata.len()).expect("metadata never exceeds its limit");
        let header = self.publisher.next_header(self.payload.len())?.with_metadata(meta_bytes);
        let scratch = &mut self.publisher.scratch;
        scratch.clear();
        scratch.extend_from_slice(header.as_bytes());
        scratch.extend_from_slice(self.metadata);
        if self.payload.len() <= COPIED_BYTES_MAX {
            scratch.extend_from_slice(self.payload);
        }
        debug_assert!(scratch.len() >= HEADER_BYTES);
        Ok(*self.header.insert(header))
    }
}

impl<L: Link> Drop for PendingSend<'_, L> {
    fn drop(&mut self) {
        if let (Some(header), 1..) = (&self.header, self.written) {
            self.publisher.adopt(header, self.metadata, self.payload, self.written);
        }
    }
}

/// Writes everything that waits, as far as that is possible without waiting.
///
/// # Errors
///
/// If there is no connection and will be none. What was not written still waits, unless the daemon refused it. [`TooLarge`]: everything
/// was written except what the daemon does not accept.
pub fn flush<L: Link, E>(publisher: &mut Publisher, link: &mut L) -> Result<Step<(), L::Wait>, E>
where
    E: From<TooLarge> + From<L::Error>,
{
    while !publisher.is_flushed() {
        match link.connect(publisher)? {
            Step::Wait(wait) => return Ok(Step::Wait(wait)),
            Step::Done(Carrier::Messages) => return Ok(Step::Done(post_waiting(publisher, link)?)),
            Step::Done(Carrier::Stream) => {}
        }
        match link.write(publisher.outgoing(), &[]) {
            Transfer::Bytes(bytes) => publisher.sent(bytes),
            Transfer::Wait(wait) => return Ok(Step::Wait(wait)),
            Transfer::Broken => lose::<L, E>(publisher, link, Loss::Write)?,
        }
    }
    publisher.report_rejected()?;
    Ok(Step::Done(()))
}

/// What is known of everything that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// A daemon has accepted it.
    Accepted,
    /// So many messages may be lost: no connection leads to the daemon that took them, if one did. They are counted once.
    InDoubt(u64),
}

/// Writes everything that waits, and asks the daemon whether it has accepted everything that was sent. What an earlier connection took,
/// this daemon cannot confirm.
///
/// # Errors
///
/// If there is no connection and will be none for what waits, or the daemon refused it.
pub fn confirm<L: Link, E>(publisher: &mut Publisher, link: &mut L) -> Result<Step<Confirmation, L::Wait>, E>
where
    E: From<TooLarge> + From<L::Error>,
{
    loop {
        if let Step::Wait(wait) = flush::<L, E>(publisher, link)? {
            return Ok(Step::Wait(wait));
        }
        match publisher.take_doubt() {
            0 if publisher.is_settled() => return Ok(Step::Done(Confirmation::Accepted)),
            0 if publisher.ask() => continue,
            0 => {}
            count => return Ok(Step::Done(Confirmation::InDoubt(count))),
        }
        match link.read_answer(publisher) {
            Transfer::Bytes(_) => {
                if let Err(ended) = publisher.received() {
                    lose::<L, E>(publisher, link, Loss::Ended(ended))?;
                }
            }
            Transfer::Wait(wait) => return Ok(Step::Wait(wait)),
            Transfer::Broken => lose::<L, E>(publisher, link, Loss::Closed)?,
        }
    }
}

fn lose<L: Link, E: From<L::Error>>(publisher: &mut Publisher, link: &mut L, loss: Loss) -> Result<(), E> {
    link.lose(publisher, loss).map_err(|error| {
        publisher.drop_waiting();
        error.into()
    })
}

/// Sends one message without a daemon, behind those that wait for one.
///
/// # Errors
///
/// [`TooLarge`]: this message, or one that waited, was not sent.
pub fn post<L: Link>(publisher: &mut Publisher, link: &mut L, payload: &[u8]) -> Result<(), TooLarge> {
    post_waiting(publisher, link)?;
    link.post(publisher, Posted { sequence: publisher.committed(), payload })?;
    publisher.commit();
    Ok(())
}

/// Sends what waits without a daemon. A message that is too large for that is lost, which is the error.
fn post_waiting<L: Link>(publisher: &mut Publisher, link: &mut L) -> Result<(), TooLarge> {
    let mut outcome = Ok(());
    for (sequence, payload) in publisher.take_waiting() {
        outcome = outcome.and(link.post(publisher, Posted { sequence, payload: &payload }));
    }
    outcome
}
