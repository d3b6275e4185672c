//! One reply of a subscriber, directly from the caller's memory. It never waits for the requester.

use super::{Link, Machine, Step, Subscriber, TooLarge, Transfer};
use broadcaster_protocol::Header;
use broadcaster_protocol::meta::ReplyAddress;

/// A payload of up to this size is copied behind its header: one buffer is cheaper for the kernel than two.
const COPIED_BYTES_MAX: usize = 4096;

/// One reply, over the connection on which the request came.
///
/// A caller that stops before it is done calls [`leave`](Self::leave).
#[derive(Debug)]
pub struct Replying<'a> {
    /// The connection on which the request came.
    connection: u64,
    /// Header and metadata, and the payload if it is small.
    head: Vec<u8>,
    /// The payload, unless it is a part of the head.
    payload: &'a [u8],
    written: usize,
}

/// The connection is gone on which the request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequesterGone;

impl<'a> Replying<'a> {
    /// A reply to the request that came to `address` on the [`connection`](Subscriber::connection) with this number, with `metadata` that
    /// is at most [`META_BYTES_MAX`](broadcaster_protocol::limits::META_BYTES_MAX) bytes long.
    ///
    /// # Errors
    ///
    /// [`TooLarge`].
    pub fn new(
        subscriber: &Subscriber,
        (connection, address): (u64, ReplyAddress),
        metadata: &[u8],
        payload: &'a [u8],
    ) -> Result<Self, TooLarge> {
        let (len, max) = (payload.len(), subscriber.payload_bytes_max());
        let payload_bytes = u32::try_from(len).ok().filter(|&bytes| bytes <= max).ok_or(TooLarge { len, max })?;
        let meta_bytes = u16::try_from(metadata.len()).expect("metadata never exceeds its limit");
        let header = Header::reply(address.inbox, subscriber.id(), address.number, payload_bytes);
        let mut head = header.with_metadata(meta_bytes).as_bytes().to_vec();
        head.extend_from_slice(metadata);
        if len > COPIED_BYTES_MAX {
            return Ok(Self { connection, head, payload, written: 0 });
        }
        head.extend_from_slice(payload);
        Ok(Self { connection, head, payload: &[], written: 0 })
    }

    /// Whether a part of the reply was written.
    pub fn has_begun(&self) -> bool {
        self.written > 0
    }

    /// Goes on as far as that is possible without waiting; done when the reply was written completely.
    ///
    /// # Errors
    ///
    /// [`RequesterGone`].
    pub fn poll<L: Link>(
        &mut self,
        subscriber: &mut Subscriber,
        link: &mut L,
    ) -> Result<Step<(), L::Wait>, RequesterGone> {
        if !subscriber.is_ready() || subscriber.connection() != self.connection {
            return Err(RequesterGone);
        }
        loop {
            let rest = &self.head[self.written.min(self.head.len())..];
            let transfer = match (subscriber.outgoing(), rest) {
                (earlier @ [_, ..], _) => link.write(earlier, &[]),
                ([], []) => link.write(&self.payload[self.written - self.head.len()..], &[]),
                ([], head) => link.write(head, self.payload),
            };
            match transfer {
                Transfer::Bytes(bytes) if !subscriber.outgoing().is_empty() => subscriber.sent(bytes),
                Transfer::Bytes(bytes) => self.written += bytes,
                Transfer::Wait(wait) => return Ok(Step::Wait(wait)),
                Transfer::Broken => {
                    // What the daemon has sent is received first, and then the end of the connection.
                    subscriber.discard_requests();
                    self.written = 0;
                    return Err(RequesterGone);
                }
            }
            if self.written == self.head.len() + self.payload.len() {
                self.written = 0;
                return Ok(Step::Done(()));
            }
        }
    }

    /// The subscriber keeps the rest of a reply of which a part was written, and writes it before anything else.
    pub fn leave(&mut self, subscriber: &mut Subscriber) {
        if self.written > 0 {
            let (head, payload) = (self.head.len(), self.written.saturating_sub(self.head.len()));
            subscriber.keep_outgoing(&self.head[self.written.min(head)..]);
            subscriber.keep_outgoing(&self.payload[payload..]);
            self.written = 0;
        }
    }
}
