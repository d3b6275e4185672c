//! The send loop: one message directly from the caller's memory, or everything that waits; and what the daemon answers about it. It
//! never waits for a listener, unless the publisher has backpressure.

use super::counting::{Answer, Ticket};
use super::publisher::{NextStep, Notice};
use super::requests::Reception;
use super::retained::{Lifetime, RETENTION_ENTRY_BYTES};
use super::{
    Carrier, Declined, Link, Loss, Machine, OWN, Place, Posted, Publisher, Rejected, Step, TooLarge, Transfer,
};
use broadcaster_protocol::control::Receipt;
use broadcaster_protocol::frame::KIND_RETAIN;
use broadcaster_protocol::limits::{HEADER_BYTES, META_BYTES_MAX};
use broadcaster_protocol::meta::{REPLY_ADDRESS_BYTES, ReplyAddress, tag};
use broadcaster_protocol::{ChannelId, Header, Run};

/// A payload of up to this size is copied behind its header: one buffer is cheaper for the kernel than two.
const COPIED_BYTES_MAX: usize = 4096;

/// One message, sent directly from the caller's memory.
///
/// A caller that stops before the message is done calls [`leave`](Self::leave): the daemon would take the bytes that follow for a part of
/// this message.
#[derive(Debug)]
pub struct Sending<'a> {
    place: Place,
    metadata: &'a [u8],
    payload: &'a [u8],
    purpose: Purpose,
    /// Which receipt it requests.
    confirms: Confirms,
    /// The number of that request, if it goes out in the same write, or did.
    receipt: Option<u32>,
    /// As it was made for the present connection.
    header: Option<Header>,
    written: usize,
    /// The publisher has it, as the message with this count on its channel.
    left: Option<u64>,
}

/// What a message is for, other than its listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Nothing else, unless the publisher has a history.
    Publish,
    /// It requests replies under this number.
    Request(u64),
    /// The daemon retains it.
    Retain(Lifetime),
}

/// Which receipt a message requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirms {
    Not,
    /// One that arrives at once.
    AtOnce,
    /// One that may wait for the first reply if there is a listener.
    WithReply,
}

impl<'a> Sending<'a> {
    /// A message with `metadata` that is at most [`META_BYTES_MAX`](broadcaster_protocol::limits::META_BYTES_MAX) bytes long.
    pub fn new(place: Place, metadata: &'a [u8], payload: &'a [u8]) -> Self {
        Self {
            place,
            metadata,
            payload,
            purpose: Purpose::Publish,
            confirms: Confirms::Not,
            receipt: None,
            header: None,
            written: 0,
            left: None,
        }
    }

    /// A message that requests replies under this number. Its `metadata` leaves room for [`ADDRESS_BYTES`].
    pub fn request(place: Place, number: u64, metadata: &'a [u8], payload: &'a [u8]) -> Self {
        Self { purpose: Purpose::Request(number), ..Self::new(place, metadata, payload) }
    }

    /// A message that the daemon is to retain; without a payload, one that clears what it retains of the channel.
    pub fn retain(place: Place, lifetime: Lifetime, metadata: &'a [u8], payload: &'a [u8]) -> Self {
        Self { purpose: Purpose::Retain(lifetime), ..Self::new(place, metadata, payload) }
    }

    /// The same message, with a request for a receipt: see [`request_receipt`](Self::request_receipt).
    fn confirmed(self) -> Self {
        Self { confirms: Confirms::AtOnce, ..self }
    }

    /// Requests the receipt for the message, which was sent, unless that was written together with it. Returns the number of the request;
    /// `None` if the connection is gone.
    fn request_receipt(&mut self, publisher: &mut Publisher) -> Option<u32> {
        self.receipt.take().or_else(|| publisher.request_receipt(self.place, self.confirms == Confirms::WithReply))
    }

    /// Whether the publisher has what must stand in the message.
    #[inline]
    fn has_address(&self, publisher: &Publisher) -> bool {
        !matches!(self.purpose, Purpose::Request(_)) || publisher.inbox().is_some()
    }

    /// Whether a part of the message was written.
    pub fn has_begun(&self) -> bool {
        self.written > 0 || self.left.is_some()
    }

    /// Goes on as far as that is possible without waiting; done when the message was written completely.
    ///
    /// # Errors
    ///
    /// If the message is rejected, or there is no connection and will be none. The message was not sent.
    #[inline]
    pub fn poll<L: Link, E>(&mut self, publisher: &mut Publisher, link: &mut L) -> Result<Step<(), L::Wait>, E>
    where
        E: From<Rejected> + From<L::Error>,
    {
        loop {
            let was_left = self.left.is_some();
            match link.connect(publisher) {
                Ok(Step::Done(Carrier::Stream)) => {}
                Ok(Step::Done(Carrier::Messages)) => {
                    return Ok(Step::Done(self.post(publisher, link).map_err(Rejected::from)?));
                }
                Ok(Step::Wait(_)) | Err(_) if self.goes_on(publisher, link)? => return Ok(Step::Done(())),
                Ok(Step::Wait(wait)) => return Ok(Step::Wait(wait)),
                Err(_) if !was_left && self.left.is_some() => continue, // it is committed: the link waits before its next attempt
                Err(error) => return Err(error.into()),
            }
            let header = match self.header {
                Some(header) => header,
                None if publisher.is_clear(self.place) && self.left.is_none() && self.has_address(publisher) => {
                    self.begin(publisher)?
                }
                None if publisher.is_in_ring(self.place) && self.left.is_none() && self.has_address(publisher) => {
                    if self.put::<L, E>(publisher, link)? {
                        return Ok(Step::Done(()));
                    }
                    continue;
                }
                None => match self.prepare::<L, E>(publisher, link)? {
                    Prepared::Wait(wait) => return Ok(Step::Wait(wait)),
                    Prepared::Sent => return Ok(Step::Done(())),
                    Prepared::Partly => continue,
                    Prepared::Fully => self.begin(publisher)?,
                },
            };
            let copied = &publisher.scratch;
            let transfer = if copied.len() >= header.frame_bytes() {
                link.write(&copied[self.written..], &[])
            } else if self.written < copied.len() {
                link.write(&copied[self.written..], self.payload)
            } else {
                link.write(&self.payload[self.written - copied.len()..], &[])
            };
            match transfer {
                Transfer::Bytes(bytes) => {
                    self.written += bytes;
                    if self.written >= header.frame_bytes() {
                        if let Some(number) = self.receipt {
                            publisher.requested_receipt(number, self.place, header.frame_bytes(), self.written);
                        }
                        self.written = 0;
                        if link.duplicates() {
                            let channel = &publisher.name(self.place).clone();
                            let message = Posted { channel, sequence: header.sequence(), payload: self.payload };
                            link.written(publisher, message);
                        }
                        self.keep(publisher, &header);
                        publisher.wrote(self.place, header.frame_bytes());
                        return Ok(Step::Done(()));
                    }
                }
                Transfer::Wait(wait) => return Ok(Step::Wait(wait)),
                Transfer::Broken => {
                    // No daemon has the complete message: it starts over on the next connection.
                    (self.header, self.receipt, self.written) = (None, None, 0);
                    lose::<L, E>(publisher, link, Loss::Write)?;
                }
            }
        }
    }

    /// Does what must be done before the message: opens its channel, gets credit, and writes what was committed before.
    #[cold]
    fn prepare<L: Link, E>(&mut self, publisher: &mut Publisher, link: &mut L) -> Result<Prepared<L::Wait>, E>
    where
        E: From<Rejected> + From<L::Error>,
    {
        if let Some(commit) = self.left
            && publisher.departed(self.place) >= commit
        {
            self.left = None;
            // If it was dropped, on behalf of another caller that has the reason, it was never written completely: it starts over.
            return Ok(if publisher.was_dropped(self.place, commit) { Prepared::Partly } else { Prepared::Sent });
        }
        if !publisher.is_open(self.place) {
            publisher.open(self.place)?;
        }
        if !self.has_address(publisher) {
            publisher.open_inbox()?;
        }
        match write_out::<L, E>(publisher, link)? {
            Written::Wait(wait) => return Ok(Prepared::Wait(wait)),
            Written::Lost => return Ok(Prepared::Partly),
            Written::All => {}
        }
        let is_open = publisher.is_open(self.place) && self.has_address(publisher);
        let waits = !is_open || publisher.lacks_credit(self.place);
        if self.left.is_some() && !waits {
            return Ok(Prepared::Partly); // it has just been written
        }
        if !waits && publisher.survives(self.place) {
            match self.purpose {
                Purpose::Publish => {
                    publisher.feed_on(self.place, self.metadata, self.payload)?;
                    self.left = Some(publisher.commits_on(self.place));
                }
                // Only the daemon can do what it is for.
                Purpose::Request(_) | Purpose::Retain(_) => publisher.end_surviving(self.place),
            }
            return Ok(Prepared::Partly);
        }
        if !waits && publisher.is_step_due(self.place) {
            step_to_ring::<L, E>(publisher, link, self.place)?;
            return Ok(Prepared::Partly);
        }
        if !waits && publisher.is_in_ring(self.place) {
            return Ok(Prepared::Partly);
        }
        if !waits && !publisher.should_look(self.place) {
            return Ok(Prepared::Fully);
        }
        match read::<L, E>(publisher, link)? {
            Some(wait) if waits => Ok(Prepared::Wait(wait)),
            Some(_) => {
                publisher.has_looked(self.place);
                Ok(Prepared::Fully)
            }
            None => Ok(Prepared::Partly),
        }
    }

    /// There is no daemon: commits the message if listeners read the ring of its channel nevertheless. Returns whether that is all of them, so
    /// that nothing remains to be done.
    #[cold]
    fn goes_on<L: Link>(&mut self, publisher: &mut Publisher, link: &L) -> Result<bool, Rejected> {
        let is_for_rings = self.purpose == Purpose::Publish && self.confirms == Confirms::Not && self.left.is_none();
        if !is_for_rings || !publisher.goes_on(self.place) || !link.reconnects() {
            return Ok(false);
        }
        let is_complete = publisher.feed_on(self.place, self.metadata, self.payload)?;
        if !is_complete {
            self.left = Some(publisher.commits_on(self.place));
        }
        Ok(is_complete)
    }

    /// Puts the message into the ring of its channel, which is all that is to be done. False: something has changed.
    #[inline]
    fn put<L: Link, E>(&mut self, publisher: &mut Publisher, link: &mut L) -> Result<bool, E>
    where
        E: From<Rejected> + From<L::Error>,
    {
        if publisher.must_look(self.place) {
            look::<L, E>(publisher, link)?;
            if !publisher.is_in_ring(self.place) {
                return Ok(false);
            }
        }
        let is_in = match self.purpose {
            Purpose::Retain(_) => {
                publisher.end_ring(self.place);
                false
            }
            Purpose::Publish => self.put_with(publisher, self.metadata)?,
            Purpose::Request(number) => {
                let mut metadata = std::mem::take(&mut publisher.scratch);
                metadata.clear();
                metadata.extend(publisher.inbox().map(|inbox| address(inbox, number)).iter().flatten());
                metadata.extend_from_slice(self.metadata);
                let is_in = self.put_with(publisher, &metadata);
                publisher.scratch = metadata;
                let is_in = is_in?;
                if is_in {
                    publisher.begun_request(number); // a glance may find the reply
                }
                is_in
            }
        };
        if is_in && publisher.must_look(self.place) {
            glance(publisher, link);
        }
        Ok(is_in)
    }

    #[inline]
    fn put_with(&self, publisher: &mut Publisher, metadata: &[u8]) -> Result<bool, Rejected> {
        publisher.report_rejected()?;
        publisher.check(metadata.len(), self.payload.len())?;
        Ok(publisher.put(self.place, metadata, self.payload))
    }

    /// Lays the frame out for the present connection.
    fn begin(&mut self, publisher: &mut Publisher) -> Result<Header, Rejected> {
        publisher.report_rejected()?;
        let retained = match self.purpose {
            Purpose::Retain(lifetime) => Some(lifetime),
            Purpose::Publish if !self.payload.is_empty() => publisher.history().map(|_| Lifetime::default()),
            Purpose::Publish | Purpose::Request(_) => None,
        };
        let entry = match (retained, self.purpose, publisher.inbox()) {
            (Some(lifetime), ..) => publisher.retention_entry(lifetime),
            (None, Purpose::Request(number), Some(inbox)) => Some(address(inbox, number)),
            (None, ..) => None,
        };
        let address = entry.as_ref().map_or(&[][..], |entry| entry);
        let header = match retained {
            None => publisher.next_header(self.place, self.payload.len())?,
            Some(_) => publisher.next_retained_header(self.place, self.payload.len())?,
        };
        let len = address.len() + self.metadata.len();
        let meta_bytes = u16::try_from(len).ok().filter(|&bytes| bytes <= META_BYTES_MAX);
        let header = header.with_metadata(meta_bytes.ok_or(Rejected::MetadataTooLarge(len))?);
        let scratch = &mut publisher.scratch;
        scratch.clear();
        scratch.extend_from_slice(header.as_bytes());
        scratch.extend_from_slice(address);
        scratch.extend_from_slice(self.metadata);
        if self.payload.len() <= COPIED_BYTES_MAX {
            scratch.extend_from_slice(self.payload);
            if self.confirms != Confirms::Not {
                let with_reply = self.confirms == Confirms::WithReply;
                self.receipt = publisher.lay_out_receipt_request(self.place, with_reply);
            }
        }
        debug_assert!(publisher.scratch.len() >= HEADER_BYTES);
        Ok(*self.header.insert(header))
    }

    /// If the daemon is to retain the message with this header, which is committed next, the publisher keeps a copy.
    #[inline]
    fn keep(&self, publisher: &mut Publisher, header: &Header) {
        if header.kind() == KIND_RETAIN {
            let lifetime = match self.purpose {
                Purpose::Retain(lifetime) => lifetime,
                Purpose::Publish | Purpose::Request(_) => Lifetime::default(),
            };
            publisher.keep(self.place, lifetime, self.metadata, self.payload);
        }
    }

    /// Sends the message without a daemon.
    #[cold]
    fn post<L: Link>(&mut self, publisher: &mut Publisher, link: &mut L) -> Result<(), TooLarge> {
        match self.left.take() {
            Some(_) => post_waiting(publisher, link),
            None => post(publisher, link, self.place, self.payload),
        }
    }

    /// The publisher keeps the rest of a message of which a part was written.
    pub fn leave(&mut self, publisher: &mut Publisher) {
        if let (Some(header), 1..) = (&self.header, self.written) {
            let scratch = std::mem::take(&mut publisher.scratch);
            let metadata = &scratch[HEADER_BYTES..HEADER_BYTES + usize::from(header.meta_bytes())];
            self.keep(publisher, header);
            publisher.adopt(self.place, header, metadata, self.payload, self.written);
            publisher.scratch = scratch;
            self.left = Some(publisher.commits_on(self.place));
        }
        (self.header, self.receipt, self.written) = (None, None, 0);
    }
}

/// Bytes that a request adds to the metadata of its message.
pub const ADDRESS_BYTES: usize = 3 + REPLY_ADDRESS_BYTES;

const _: () = assert!(ADDRESS_BYTES == RETENTION_ENTRY_BYTES, "either is the first entry of a message");

/// The entry of the metadata that states where replies go.
fn address(inbox: ChannelId, number: u64) -> [u8; ADDRESS_BYTES] {
    let mut entry = [0; ADDRESS_BYTES];
    entry[0] = tag::REPLY_ADDRESS;
    let len = u16::try_from(REPLY_ADDRESS_BYTES).expect("an address has twelve bytes");
    entry[1..3].copy_from_slice(&len.to_le_bytes());
    entry[3..].copy_from_slice(&ReplyAddress { inbox, number }.to_bytes());
    entry
}

/// How far a message is prepared.
enum Prepared<W> {
    /// It must wait.
    Wait(W),
    /// It was sent already, by another caller.
    Sent,
    /// Something has changed.
    Partly,
    /// It can be written.
    Fully,
}

/// [`Sending`] with all that it needs. When it is dropped after a part of the message was written, the publisher keeps the rest.
#[derive(Debug)]
pub struct PendingSend<'a, L: Link> {
    publisher: &'a mut Publisher,
    link: &'a mut L,
    sending: Sending<'a>,
}

impl<'a, L: Link> PendingSend<'a, L> {
    /// A message with `metadata` that is at most [`META_BYTES_MAX`](broadcaster_protocol::limits::META_BYTES_MAX) bytes long.
    pub fn new(
        publisher: &'a mut Publisher,
        link: &'a mut L,
        place: Place,
        metadata: &'a [u8],
        payload: &'a [u8],
    ) -> Self {
        Self { publisher, link, sending: Sending::new(place, metadata, payload) }
    }

    /// Whether a part of the message was written.
    pub fn has_begun(&self) -> bool {
        self.sending.has_begun()
    }

    /// See [`Sending::poll`].
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn poll<E>(&mut self) -> Result<Step<(), L::Wait>, E>
    where
        E: From<Rejected> + From<L::Error>,
    {
        self.sending.poll(self.publisher, self.link)
    }
}

impl<L: Link> Drop for PendingSend<'_, L> {
    fn drop(&mut self) {
        self.sending.leave(self.publisher);
    }
}

/// Writes everything that waits, as far as that is possible without waiting.
///
/// # Errors
///
/// If there is no connection and will be none. What was not written still waits, unless the daemon refused it. [`Rejected`]: everything
/// was written except what the daemon does not accept.
pub fn flush<L: Link, E>(publisher: &mut Publisher, link: &mut L) -> Result<Step<(), L::Wait>, E>
where
    E: From<Rejected> + From<L::Error>,
{
    while !publisher.is_flushed() {
        match link.connect(publisher)? {
            Step::Wait(wait) => return Ok(Step::Wait(wait)),
            Step::Done(Carrier::Messages) => {
                return Ok(Step::Done(post_waiting(publisher, link).map_err(Rejected::from)?));
            }
            Step::Done(Carrier::Stream) => {}
        }
        if let Written::Wait(wait) = write_out::<L, E>(publisher, link)? {
            return Ok(Step::Wait(wait));
        }
        // What still waits lacks credit.
        if publisher.is_ready()
            && !publisher.is_flushed()
            && let Some(wait) = read::<L, E>(publisher, link)?
        {
            return Ok(Step::Wait(wait));
        }
    }
    publisher.report_rejected()?;
    while publisher.is_ready() && publisher.is_written() && publisher.is_step_due(OWN) {
        step_to_ring::<L, E>(publisher, link, OWN)?;
        write_some(publisher, link);
    }
    // Credit is taken before there is none left, and what is fed next need not wait aside for it.
    if publisher.is_ready() && publisher.should_look(OWN) && read::<L, E>(publisher, link)?.is_some() {
        publisher.has_looked(OWN);
    }
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

/// Writes everything that waits, and asks the daemon whether it has accepted the first `commits` of the messages that were committed. What
/// an earlier connection took, this daemon cannot confirm.
///
/// # Errors
///
/// If there is no connection and will be none for what waits, or the daemon refused it.
pub fn confirm<L: Link, E>(
    publisher: &mut Publisher,
    link: &mut L,
    commits: u64,
) -> Result<Step<Confirmation, L::Wait>, E>
where
    E: From<Rejected> + From<L::Error>,
{
    loop {
        if let Step::Wait(wait) = flush::<L, E>(publisher, link)? {
            return Ok(Step::Wait(wait));
        }
        match publisher.take_doubt() {
            0 if publisher.is_settled() || publisher.has_confirmed(commits) => {
                return Ok(Step::Done(Confirmation::Accepted));
            }
            0 if publisher.ask() => continue,
            0 => {}
            count => return Ok(Step::Done(Confirmation::InDoubt(count))),
        }
        if let Some(wait) = read::<L, E>(publisher, link)? {
            return Ok(Step::Wait(wait));
        }
    }
}

/// One message, and a receipt for it.
#[derive(Debug)]
pub struct Confirming<'a> {
    sending: Sending<'a>,
    /// The number of the request, once the message was written.
    request: Option<u32>,
}

impl<'a> Confirming<'a> {
    /// As [`Sending::new`].
    pub fn new(place: Place, metadata: &'a [u8], payload: &'a [u8]) -> Self {
        Self { sending: Sending::new(place, metadata, payload).confirmed(), request: None }
    }

    /// As [`Sending::retain`].
    pub fn retain(place: Place, lifetime: Lifetime, metadata: &'a [u8], payload: &'a [u8]) -> Self {
        Self { sending: Sending::retain(place, lifetime, metadata, payload).confirmed(), request: None }
    }

    /// Whether a part of the message was written, but not all of it.
    pub fn has_begun(&self) -> bool {
        self.sending.has_begun()
    }

    /// Whether the message was written completely.
    pub fn is_sent(&self) -> bool {
        self.request.is_some()
    }

    /// Goes on as far as that is possible without waiting.
    ///
    /// # Errors
    ///
    /// As [`Sending::poll`]; or, if the message [was sent](Self::is_sent), because the daemon has ended the connection for a reason.
    pub fn poll<L: Link, E>(&mut self, publisher: &mut Publisher, link: &mut L) -> Result<Step<Receipted, L::Wait>, E>
    where
        E: From<Rejected> + From<L::Error>,
    {
        let request = match self.request {
            Some(request) => request,
            None => {
                match link.connect(publisher)? {
                    Step::Wait(wait) => return Ok(Step::Wait(wait)),
                    Step::Done(Carrier::Messages) => return Ok(Step::Done(Receipted::Unconfirmed)),
                    Step::Done(Carrier::Stream) => {}
                }
                if let Step::Wait(wait) = self.sending.poll::<L, E>(publisher, link)? {
                    return Ok(Step::Wait(wait));
                }
                match self.sending.request_receipt(publisher) {
                    Some(request) => *self.request.insert(request),
                    None => return Ok(Step::Done(Receipted::Unconfirmed)),
                }
            }
        };
        receipt(publisher, link, request)
    }

    /// The caller stops before there is a receipt.
    pub fn leave(&mut self, publisher: &mut Publisher) {
        self.sending.leave(publisher);
    }

    /// The receipt is no longer wanted.
    pub fn forget(&mut self, publisher: &mut Publisher) {
        if let Some(request) = self.request {
            publisher.forget_receipt(request);
        }
    }
}

/// What became of a request for a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipted {
    /// There is no daemon to give one. The message may have been sent without it.
    Unconfirmed,
    /// It has arrived.
    Receipt(Box<Receipt>),
    /// The daemon gives none.
    Declined(Box<Declined>),
    /// The connection is gone. So many messages may be lost, this one included.
    InDoubt(u64),
}

/// Waits for the receipt that was requested under this number.
fn receipt<L: Link, E>(publisher: &mut Publisher, link: &mut L, number: u32) -> Result<Step<Receipted, L::Wait>, E>
where
    E: From<L::Error>,
{
    loop {
        match publisher.take_receipt(number) {
            Answer::Due => {}
            Answer::Received(receipt) => return Ok(Step::Done(Receipted::Receipt(receipt))),
            Answer::Declined(declined) => return Ok(Step::Done(Receipted::Declined(declined))),
            Answer::Lost => return Ok(Step::Done(Receipted::InDoubt(publisher.take_doubt().max(1)))),
        }
        if let Step::Wait(wait) = ask::<L, E>(publisher, link)? {
            return Ok(Step::Wait(wait));
        }
    }
}

/// One message that requests replies.
#[derive(Debug)]
pub struct Requesting<'a> {
    sending: Sending<'a>,
    number: u64,
    /// The number of the request for a receipt, once the message was written.
    receipt: Option<u32>,
    /// How many listeners took it, once that is known.
    took: Option<u32>,
}

/// What became of a message that requests replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requested {
    /// So many listeners took it.
    Taken(u32),
    /// There is no daemon to carry replies. The message may have been sent without it.
    NoDaemon,
    /// The daemon does not count those who took it.
    Declined(Box<Declined>),
    /// The connection is gone. Listeners may have received the message, and their replies do not arrive.
    Lost,
}

impl<'a> Requesting<'a> {
    /// The request with this number, which [was begun](Publisher::begin_request). `metadata` leaves room for [`ADDRESS_BYTES`].
    pub fn new(place: Place, number: u64, metadata: &'a [u8], payload: &'a [u8]) -> Self {
        Self {
            sending: Sending::request(place, number, metadata, payload).confirmed(),
            number,
            receipt: None,
            took: None,
        }
    }

    /// Whether a part of the message was written, but not all of it.
    pub fn has_begun(&self) -> bool {
        self.sending.has_begun()
    }

    /// Whether the message was written completely.
    pub fn is_sent(&self) -> bool {
        self.receipt.is_some()
    }

    /// Goes on as far as that is possible without waiting; done when the daemon has delivered the message.
    ///
    /// # Errors
    ///
    /// As [`Sending::poll`]; or, if the message [was sent](Self::is_sent), because the daemon has ended the connection for a reason.
    pub fn poll<L: Link, E>(&mut self, publisher: &mut Publisher, link: &mut L) -> Result<Step<Requested, L::Wait>, E>
    where
        E: From<Rejected> + From<L::Error>,
    {
        let number = match self.poll_sent::<L, E>(publisher, link)? {
            Step::Wait(wait) => return Ok(Step::Wait(wait)),
            Step::Done(Begun::NoDaemon) => return Ok(Step::Done(Requested::NoDaemon)),
            Step::Done(Begun::Lost) => return Ok(Step::Done(Requested::Lost)),
            Step::Done(Begun::Sent(number)) => number,
        };
        Ok(match receipt::<L, E>(publisher, link, number)? {
            Step::Wait(wait) => Step::Wait(wait),
            Step::Done(Receipted::Receipt(receipt)) => Step::Done(Requested::Taken(receipt.took)),
            Step::Done(Receipted::Declined(declined)) => Step::Done(Requested::Declined(declined)),
            Step::Done(Receipted::Unconfirmed | Receipted::InDoubt(_)) => Step::Done(Requested::Lost),
        })
    }

    /// The publisher keeps the rest of a message of which a part was written. The caller may go on.
    pub fn pass_on(&mut self, publisher: &mut Publisher) {
        self.sending.leave(publisher);
        if self.sending.has_begun() {
            publisher.begun_request(self.number);
        }
    }

    /// The same for a caller that needs only the first reply: done when that has arrived, or when none will. The daemon may report that it
    /// has delivered the message together with the reply.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn poll_first<L: Link, E>(&mut self, publisher: &mut Publisher, link: &mut L) -> Result<Step<First, L::Wait>, E>
    where
        E: From<Rejected> + From<L::Error>,
    {
        self.sending.confirms = Confirms::WithReply;
        let receipt = match self.poll_sent::<L, E>(publisher, link)? {
            Step::Wait(wait) => return Ok(Step::Wait(wait)),
            Step::Done(Begun::NoDaemon) => return Ok(Step::Done(First::NoDaemon)),
            Step::Done(Begun::Lost) => return Ok(Step::Done(First::Lost)),
            Step::Done(Begun::Sent(number)) => number,
        };
        loop {
            match publisher.take_reply(self.number) {
                Reception::Reply(run) => return Ok(Step::Done(First::Reply(run))),
                Reception::Over => return Ok(Step::Done(First::Lost)),
                Reception::Due => {}
            }
            match self.took {
                Some(took) if publisher.lost_replies(self.number) >= took.into() => {
                    return Ok(Step::Done(First::Dropped));
                }
                Some(_) => {}
                None => match publisher.take_receipt(receipt) {
                    Answer::Due => {}
                    Answer::Received(receipt) if receipt.took == 0 => return Ok(Step::Done(First::NoListeners)),
                    Answer::Received(receipt) => {
                        self.took = Some(receipt.took);
                        continue;
                    }
                    Answer::Declined(declined) => return Ok(Step::Done(First::Declined(declined))),
                    Answer::Lost => return Ok(Step::Done(First::Lost)),
                },
            }
            if let Step::Wait(wait) = ask::<L, E>(publisher, link)? {
                return Ok(Step::Wait(wait));
            }
        }
    }

    /// Goes on until the message was written.
    fn poll_sent<L: Link, E>(&mut self, publisher: &mut Publisher, link: &mut L) -> Result<Step<Begun, L::Wait>, E>
    where
        E: From<Rejected> + From<L::Error>,
    {
        if let Some(number) = self.receipt {
            return Ok(Step::Done(Begun::Sent(number)));
        }
        // The inbox that the message names was that of a connection that is gone.
        if publisher.is_request_over(self.number) {
            return Ok(Step::Done(Begun::Lost));
        }
        match link.connect(publisher)? {
            Step::Wait(wait) => return Ok(Step::Wait(wait)),
            Step::Done(Carrier::Messages) => return Ok(Step::Done(Begun::NoDaemon)),
            Step::Done(Carrier::Stream) => {}
        }
        let step = self.sending.poll::<L, E>(publisher, link)?;
        if publisher.is_request_over(self.number) {
            return Ok(Step::Done(Begun::Lost));
        }
        if let Step::Wait(wait) = step {
            return Ok(Step::Wait(wait));
        }
        let Some(number) = self.sending.request_receipt(publisher) else { return Ok(Step::Done(Begun::NoDaemon)) };
        publisher.begun_request(self.number);
        Ok(Step::Done(Begun::Sent(*self.receipt.insert(number))))
    }

    /// The caller stops before it is done.
    pub fn leave(&mut self, publisher: &mut Publisher) {
        self.sending.leave(publisher);
        if let Some(number) = self.receipt {
            publisher.forget_receipt(number);
        }
    }
}

/// Whether a request was sent.
enum Begun {
    /// With a request for a receipt under this number.
    Sent(u32),
    /// There is no daemon to carry replies.
    NoDaemon,
    /// The connection is gone that would carry them.
    Lost,
}

/// What became of a request whose first reply is awaited.
#[derive(Debug)]
pub enum First {
    /// The reply: one message.
    Reply(Run),
    /// No listener took the message.
    NoListeners,
    /// As many replies as are expected were dropped, because this publisher did not read.
    Dropped,
    /// There is no daemon to carry replies. The message may have been sent without it.
    NoDaemon,
    /// The daemon does not count those who took it.
    Declined(Box<Declined>),
    /// The connection is gone. Listeners may have received the message, and their replies do not arrive.
    Lost,
}

/// What was found for a request that was sent.
#[derive(Debug)]
pub enum Replied {
    /// A reply: one message.
    Reply(Run),
    /// More replies were lost than before: see [`Publisher::lost_replies`].
    Lagged,
    /// The connection is gone: no more replies will arrive.
    Lost,
}

/// Waits for the next reply to the request with this number, of which `lost` were lost before.
///
/// # Errors
///
/// If the daemon has ended the connection for a reason.
pub fn next_reply<L: Link, E>(
    publisher: &mut Publisher,
    link: &mut L,
    number: u64,
    lost: u64,
) -> Result<Step<Replied, L::Wait>, E>
where
    E: From<L::Error>,
{
    loop {
        match publisher.take_reply(number) {
            Reception::Reply(run) => return Ok(Step::Done(Replied::Reply(run))),
            Reception::Over => return Ok(Step::Done(Replied::Lost)),
            Reception::Due if publisher.lost_replies(number) > lost => return Ok(Step::Done(Replied::Lagged)),
            Reception::Due => {}
        }
        if let Step::Wait(wait) = ask::<L, E>(publisher, link)? {
            return Ok(Step::Wait(wait));
        }
    }
}

/// What became of a wish for the number of listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    /// This is the number.
    Listeners(u32),
    /// The daemon does not count them.
    Declined(Box<Declined>),
    /// There is no daemon.
    Uncounted,
}

/// Waits for the number of listeners: see [`Publisher::count_listeners`].
///
/// # Errors
///
/// If there is no connection and will be none.
pub fn count<L: Link, E>(publisher: &mut Publisher, link: &mut L, ticket: Ticket) -> Result<Step<Counted, L::Wait>, E>
where
    E: From<L::Error>,
{
    loop {
        match publisher.take_count(ticket) {
            Some(Ok(listeners)) => return Ok(Step::Done(Counted::Listeners(listeners))),
            Some(Err(declined)) => return Ok(Step::Done(Counted::Declined(declined))),
            None => {}
        }
        match link.connect(publisher)? {
            Step::Wait(wait) => return Ok(Step::Wait(wait)),
            Step::Done(Carrier::Messages) => return Ok(Step::Done(Counted::Uncounted)),
            Step::Done(Carrier::Stream) => publisher.ask_count(),
        }
        if let Step::Wait(wait) = ask::<L, E>(publisher, link)? {
            return Ok(Step::Wait(wait));
        }
    }
}

/// Keeps the connection, and what the daemon retains for this publisher: it connects again whenever the connection ends, and declares what it
/// has kept. It is never done while there is a daemon.
///
/// # Errors
///
/// If there is no connection and will be none.
pub fn attend<L: Link, E>(publisher: &mut Publisher, link: &mut L) -> Result<Step<Unattended, L::Wait>, E>
where
    E: From<L::Error>,
{
    loop {
        match link.connect(publisher)? {
            Step::Wait(wait) => return Ok(Step::Wait(wait)),
            Step::Done(Carrier::Messages) => return Ok(Step::Done(Unattended)),
            Step::Done(Carrier::Stream) => {}
        }
        if let Step::Wait(wait) = ask::<L, E>(publisher, link)? {
            return Ok(Step::Wait(wait));
        }
    }
}

/// There is no daemon that could retain anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unattended;

/// Writes the questions that wait, and what is in front of them, and reads once.
fn ask<L: Link, E: From<L::Error>>(publisher: &mut Publisher, link: &mut L) -> Result<Step<(), L::Wait>, E> {
    match write_out::<L, E>(publisher, link)? {
        Written::Wait(wait) => Ok(Step::Wait(wait)),
        Written::Lost => Ok(Step::Done(())),
        Written::All => Ok(read::<L, E>(publisher, link)?.map_or(Step::Done(()), Step::Wait)),
    }
}

/// What became of the frames that may be written.
enum Written<W> {
    /// The connection has taken all of them.
    All,
    /// There is no room for the others.
    Wait(W),
    /// The connection is gone.
    Lost,
}

/// Writes the frames that may be written, and publishes what belongs into rings.
fn write_out<L: Link, E: From<L::Error>>(publisher: &mut Publisher, link: &mut L) -> Result<Written<L::Wait>, E> {
    loop {
        // Credit may arrive while it publishes.
        while publisher.has_unpublished() {
            publish::<L, E>(publisher, link)?;
            if !publisher.is_ready() {
                return Ok(Written::Lost);
            }
        }
        if publisher.is_written() {
            return Ok(Written::All);
        }
        match link.write(publisher.outgoing(), &[]) {
            Transfer::Bytes(bytes) => publisher.sent(bytes),
            Transfer::Wait(wait) => return Ok(Written::Wait(wait)),
            Transfer::Broken => {
                lose::<L, E>(publisher, link, Loss::Write)?;
                return Ok(Written::Lost);
            }
        }
    }
}

/// Shows the readers of rings what was fed.
fn publish<L: Link, E: From<L::Error>>(publisher: &mut Publisher, link: &mut L) -> Result<(), E> {
    for at in 0.. {
        let Some(place) = publisher.ring_place(at) else { break };
        if publisher.must_look(place) {
            look::<L, E>(publisher, link)?;
        }
    }
    publisher.publish();
    for at in 0.. {
        let Some(place) = publisher.ring_place(at) else { break };
        if publisher.must_look(place) {
            glance(publisher, link);
        }
    }
    Ok(())
}

/// Goes one step towards a ring for the channel, which is open. Everything was written.
#[cold]
fn step_to_ring<L: Link, E: From<L::Error>>(publisher: &mut Publisher, link: &mut L, place: Place) -> Result<(), E> {
    match publisher.next_step(place, || link.time()) {
        NextStep::Nothing => {}
        NextStep::Look => look::<L, E>(publisher, link)?,
        NextStep::Write => write_offer(publisher, link, place),
        NextStep::Make => match link.make_ring() {
            Some(ring) => {
                publisher.offer(place, ring);
                write_offer(publisher, link, place);
            }
            None => publisher.give_up_ring(place),
        },
    }
    Ok(())
}

/// Writes the offer of a ring, or a part of it. It can wait: messages do not wait for it.
fn write_offer<L: Link>(publisher: &mut Publisher, link: &mut L, place: Place) {
    let Some(frame) = publisher.offer_frame(place) else { return };
    match link.write_with_descriptors(&frame) {
        Transfer::Bytes(written) => publisher.offered(place, &frame, written),
        Transfer::Wait(_) => {}
        Transfer::Broken => publisher.give_up_ring(place),
    }
}

/// Reads once; returns what to wait for if nothing had arrived.
fn read<L: Link, E: From<L::Error>>(publisher: &mut Publisher, link: &mut L) -> Result<Option<L::Wait>, E> {
    if let Some(loss) = publisher.take_loss() {
        lose::<L, E>(publisher, link, loss)?;
        return Ok(None);
    }
    match link.read_answer(publisher) {
        Transfer::Bytes(_) => match publisher.received() {
            Ok(()) => heed(publisher, link),
            Err(ended) => lose::<L, E>(publisher, link, Loss::Ended(ended))?,
        },
        Transfer::Wait(wait) => return Ok(Some(wait)),
        Transfer::Broken => lose::<L, E>(publisher, link, Loss::Closed)?,
    }
    Ok(None)
}

/// Reads everything that has arrived, without waiting.
#[cold]
pub(super) fn look<L: Link, E: From<L::Error>>(publisher: &mut Publisher, link: &mut L) -> Result<(), E> {
    while publisher.is_ready() && read::<L, E>(publisher, link)?.is_none() {}
    Ok(())
}

/// The same after a message was published, and writes what it can. That the connection has ended does not concern the message: the next call
/// deals with it.
#[cold]
fn glance<L: Link>(publisher: &mut Publisher, link: &mut L) {
    loop {
        match link.read_answer(publisher) {
            Transfer::Bytes(_) => match publisher.received() {
                Ok(()) => heed(publisher, link),
                Err(ended) => return publisher.set_loss(Loss::Ended(ended)),
            },
            Transfer::Wait(_) => break,
            Transfer::Broken => return publisher.set_loss(Loss::Closed),
        }
    }
    write_some(publisher, link);
}

/// Writes what the connection takes now. The next call waits for room, or deals with the end of the connection.
fn write_some<L: Link>(publisher: &mut Publisher, link: &mut L) {
    while !publisher.is_written() {
        match link.write(publisher.outgoing(), &[]) {
            Transfer::Bytes(bytes) => publisher.sent(bytes),
            Transfer::Wait(_) | Transfer::Broken => return,
        }
    }
}

/// Does what the daemon has sent about rings, in order.
fn heed<L: Link>(publisher: &mut Publisher, link: &mut L) {
    while let Some(notice) = publisher.next_notice() {
        match notice {
            Notice::Announced => {
                link.expect_descriptors();
                publisher.answer_announcement();
            }
            Notice::Accepted(place) => publisher.begin_ring(place, link.take_bell()),
            Notice::Declined(place) => publisher.give_up_ring(place),
            Notice::Recalled(place) => publisher.end_ring(place),
            Notice::Linked(place, number) => publisher.add_link(place, number, link.take_bell()),
            Notice::Unlinked(number) => publisher.remove_link(number),
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
pub fn post<L: Link>(publisher: &mut Publisher, link: &mut L, place: Place, payload: &[u8]) -> Result<(), TooLarge> {
    post_waiting(publisher, link)?;
    post_one(publisher, link, (place, publisher.next(place)), payload)?;
    publisher.commit(place);
    Ok(())
}

/// Sends what waits without a daemon. A message that is too large for that is lost, which is the error.
fn post_waiting<L: Link>(publisher: &mut Publisher, link: &mut L) -> Result<(), TooLarge> {
    let mut outcome = Ok(());
    for (place, sequence, payload) in publisher.take_waiting() {
        outcome = outcome.and(post_one(publisher, link, (place, sequence), &payload));
    }
    outcome
}

fn post_one<L: Link>(
    publisher: &Publisher,
    link: &mut L,
    (place, sequence): (Place, u64),
    payload: &[u8],
) -> Result<(), TooLarge> {
    link.post(publisher, Posted { channel: publisher.name(place), sequence, payload })
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::{feed_bytes, welcome};
    use super::super::{Ended, OWN, PUBLICATIONS_MAX, Subscriber};
    use super::*;
    use crate::ChannelName;
    use broadcaster_protocol::control::{
        self, Control, Credit, Extension, Goodbye, InboxOpened, Lagging, Listeners, Opened, RefusedCode, Report, kind,
    };
    use broadcaster_protocol::limits::CREDIT_MESSAGE_BYTES;
    use broadcaster_protocol::meta::Retention;
    use broadcaster_protocol::{Decoder, Item};
    use bytes::{BufMut, BytesMut};
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    /// What the publisher waits for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Due {
        Daemon,
        Room,
        Answer,
    }

    #[derive(Debug, PartialEq)]
    enum Failure {
        Rejected(Rejected),
        Refused,
    }

    impl From<Rejected> for Failure {
        fn from(rejected: Rejected) -> Self {
            Self::Rejected(rejected)
        }
    }

    impl From<Ended> for Failure {
        fn from(_: Ended) -> Self {
            Self::Refused
        }
    }

    /// A connection to a daemon that is played by the test.
    struct Wire {
        /// There is a daemon.
        serves: bool,
        connected: bool,
        /// Bytes that the connection takes.
        room: usize,
        decoder: Decoder,
        chunk: BytesMut,
        /// What the daemon has read.
        read: Vec<Item>,
        /// What it has written.
        answers: VecDeque<Control>,
        /// It answers Open by itself, with these ids.
        opens: bool,
        next_id: u32,
        reads: usize,
        payload_bytes_max: u32,
    }

    impl Wire {
        fn new() -> Self {
            Self {
                serves: true,
                connected: false,
                room: usize::MAX,
                decoder: Decoder::consumer(1 << 20),
                chunk: BytesMut::new(),
                read: Vec::new(),
                answers: VecDeque::new(),
                opens: true,
                next_id: 3,
                reads: 0,
                payload_bytes_max: 1 << 20,
            }
        }

        fn take(&mut self, mut bytes: &[u8]) {
            while !bytes.is_empty() {
                let mut target = self.decoder.target(&mut self.chunk);
                let (now, later) = bytes.split_at(bytes.len().min(target.remaining_mut()));
                target.put_slice(now);
                bytes = later;
                while let Some(item) = self.decoder.next(&mut self.chunk).expect("frames") {
                    match &item {
                        Item::Control(Control::Hello(_)) => {
                            let Control::Welcome(welcome) = welcome() else { unreachable!("a welcome") };
                            let payload_bytes_max = self.payload_bytes_max;
                            self.answers.push_back(control::Welcome { payload_bytes_max, ..welcome }.into());
                        }
                        Item::Control(Control::Open(open)) if self.opens => {
                            let (channel, id) = (open.channel.clone(), self.next_id);
                            self.next_id += 1;
                            self.answers.push_back(opened(channel, id));
                        }
                        _ => {}
                    }
                    self.read.push(item);
                }
            }
        }

        /// The daemon is gone, with what it had not read.
        fn break_off(&mut self) {
            self.connected = false;
            self.answers.clear();
            (self.decoder, self.chunk) = (Decoder::consumer(1 << 20), BytesMut::new());
        }

        /// The messages that the daemon has read since the last call: channel id, number, bytes.
        fn messages(&mut self) -> Vec<(u32, u64, usize)> {
            let runs = self.read.drain(..).filter_map(|item| match item {
                Item::Run(run) => Some(run),
                Item::Control(_) | Item::Discarded(_) => None,
            });
            let of_run = |run: Run| {
                let id = run.channel().0;
                run.iter().map(|(sequence, payload)| (id, sequence, payload.len())).collect::<Vec<_>>()
            };
            runs.flat_map(of_run).collect()
        }

        /// The last request that the daemon has read.
        fn request(&self) -> Control {
            let requests = self.read.iter().filter_map(|item| match item {
                Item::Control(control) => Some(control.clone()),
                Item::Run(_) | Item::Discarded(_) => None,
            });
            requests.last().expect("a request")
        }

        fn grant(&mut self, id: u32, bytes: u64) {
            self.answers.push_back(Credit { id, bytes, extensions: Vec::new() }.into());
        }
    }

    impl Link for Wire {
        type Wait = Due;
        type Error = Ended;

        fn connect(&mut self, machine: &mut impl Machine) -> Result<Step<Carrier, Due>, Ended> {
            while !machine.is_ready() {
                if !self.serves {
                    return Ok(Step::Wait(Due::Daemon));
                }
                if !self.connected {
                    self.connected = true;
                    machine.connected();
                }
                while let bytes @ [_, ..] = machine.outgoing() {
                    let bytes = bytes.to_vec();
                    self.take(&bytes);
                    machine.sent(bytes.len());
                }
                if let Transfer::Wait(wait) = self.read_answer(machine) {
                    return Ok(Step::Wait(wait));
                }
                if let Err(ended) = machine.received() {
                    machine.disconnected();
                    self.break_off();
                    return Err(ended);
                }
            }
            Ok(Step::Done(Carrier::Stream))
        }

        fn read(&mut self, _: &mut Subscriber, _: bool) -> Result<Step<(), Due>, Ended> {
            unreachable!("a publisher does not subscribe")
        }

        fn read_answer(&mut self, machine: &mut impl Machine) -> Transfer<Due> {
            self.reads += 1;
            if !self.connected {
                return Transfer::Broken;
            }
            let Some(answer) = self.answers.pop_front() else { return Transfer::Wait(Due::Answer) };
            let mut bytes = Vec::new();
            answer.encode(&mut bytes).expect("encoded");
            feed_bytes(machine, &bytes);
            Transfer::Bytes(bytes.len())
        }

        fn write(&mut self, head: &[u8], body: &[u8]) -> Transfer<Due> {
            if !self.connected {
                return Transfer::Broken;
            }
            let bytes = [head, body].concat();
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Transfer::Wait(Due::Room);
            }
            self.room -= taken;
            self.take(&bytes[..taken]);
            Transfer::Bytes(taken)
        }

        fn lose(&mut self, machine: &mut impl Machine, loss: Loss) -> Result<(), Ended> {
            if loss == Loss::Ended(Ended::Goodbye) {
                machine.accepted();
            }
            machine.disconnected();
            self.break_off();
            match loss {
                Loss::Ended(ended @ Ended::Refused(_)) => Err(ended),
                Loss::Ended(_) | Loss::Write | Loss::Closed => Ok(()),
            }
        }
    }

    fn opened(channel: String, id: u32) -> Control {
        Opened { channel, id, listeners: 0, extensions: Vec::new() }.into()
    }

    fn declined(request: u8, number: u32) -> Control {
        control::Declined::new(request, number, RefusedCode::Channels, "too many").into()
    }

    fn name(channel: &str) -> ChannelName {
        ChannelName::new(channel).expect("a name")
    }

    fn publisher() -> Publisher {
        Publisher::new(name("news"), "test", 7, 1)
    }

    fn paced() -> Publisher {
        publisher().with_backpressure(Duration::from_millis(1500))
    }

    type Sent = Result<Step<(), Due>, Failure>;

    const DONE: Sent = Ok(Step::Done(()));

    fn send(publisher: &mut Publisher, wire: &mut Wire, place: Place, payload: &[u8]) -> Sent {
        PendingSend::new(publisher, wire, place, &[], payload).poll()
    }

    fn flushed(publisher: &mut Publisher, wire: &mut Wire) -> Sent {
        flush(publisher, wire)
    }

    fn confirmed(publisher: &mut Publisher, wire: &mut Wire) -> Result<Step<Confirmation, Due>, Failure> {
        let commits = publisher.commits();
        confirm(publisher, wire, commits)
    }

    fn report() -> Control {
        Report::default().into()
    }

    fn goodbye() -> Control {
        Goodbye { reason: String::new(), extensions: Vec::new() }.into()
    }

    // ---- many channels ----

    #[test]
    fn each_channel_is_opened_once_and_counts_separately() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let other = publisher.place(&name("other")).expect("room");
        assert_eq!(publisher.place(&name("other")).expect("room"), other);
        for _ in 0..2 {
            assert_eq!(send(&mut publisher, &mut wire, other, b"other"), DONE);
            assert_eq!(send(&mut publisher, &mut wire, OWN, b"own"), DONE);
        }
        let opens = wire.read.iter().filter(|item| matches!(item, Item::Control(Control::Open(_)))).count();
        assert_eq!(opens, 2);
        assert_eq!(wire.messages(), [(4, 0, 5), (3, 0, 3), (4, 1, 5), (3, 1, 3)]);
        assert_eq!((publisher.next(other), publisher.committed(), publisher.commits()), (2, 2, 4));
    }

    #[test]
    fn a_channel_that_is_declined_affects_no_other() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let other = publisher.place(&name("other")).expect("room");
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"own"), DONE);
        wire.opens = false;
        assert_eq!(send(&mut publisher, &mut wire, other, b"other"), Ok(Step::Wait(Due::Answer)));
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"meanwhile"), DONE);
        wire.answers.push_back(declined(kind::OPEN, 0));
        let Err(Failure::Rejected(Rejected::Declined(declined))) = send(&mut publisher, &mut wire, other, b"other")
        else {
            panic!("it is declined")
        };
        assert_eq!((declined.channel.as_str(), declined.code), ("other", RefusedCode::Channels));
        wire.opens = true;
        assert_eq!(send(&mut publisher, &mut wire, other, b"there is room now"), DONE);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"own"), DONE);
        assert_eq!(wire.messages(), [(3, 0, 3), (3, 1, 9), (4, 0, 17), (3, 2, 3)]);
    }

    #[test]
    fn an_own_channel_that_is_declined_is_a_refusal() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        wire.opens = false;
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"own"), Ok(Step::Wait(Due::Answer)));
        wire.answers.push_back(declined(kind::OPEN, 0));
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"own"), Err(Failure::Refused));
    }

    #[test]
    fn answers_to_open_come_in_the_order_of_the_requests() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"own"), DONE);
        wire.opens = false;
        let places = ["a", "b"].map(|channel| publisher.place(&name(channel)).expect("room"));
        for place in places {
            assert_eq!(send(&mut publisher, &mut wire, place, b"x"), Ok(Step::Wait(Due::Answer)));
        }
        wire.answers.extend([declined(kind::OPEN, 0), opened("b".to_owned(), 9)]);
        assert_eq!(send(&mut publisher, &mut wire, places[1], b"x"), DONE);
        assert!(matches!(send(&mut publisher, &mut wire, places[0], b"x"), Err(Failure::Rejected(_))));
        wire.answers.push_back(opened("c".to_owned(), 10));
        let error = send(&mut publisher, &mut wire, places[0], b"x");
        assert_eq!(error, Ok(Step::Wait(Due::Answer)), "a name that was not requested ends the connection");
        assert_eq!(wire.messages(), [(3, 0, 3), (9, 0, 1)]);
    }

    #[test]
    fn a_new_connection_opens_channels_with_frames_at_once_and_others_when_they_are_used() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let [begun, idle] = ["begun", "idle"].map(|channel| publisher.place(&name(channel)).expect("room"));
        for place in [OWN, begun, idle] {
            assert_eq!(send(&mut publisher, &mut wire, place, b"first"), DONE);
        }
        wire.room = 10;
        assert_eq!(send(&mut publisher, &mut wire, begun, b"written in part"), Ok(Step::Wait(Due::Room)));
        wire.messages();
        wire.break_off();
        wire.room = usize::MAX;
        // Ids change: that of one channel becomes that of another.
        wire.next_id = 4;
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"own"), DONE);
        let opens: Vec<_> = wire
            .read
            .iter()
            .filter_map(|item| match item {
                Item::Control(Control::Open(open)) => Some((open.channel.as_str(), open.next_sequence)),
                _ => None,
            })
            .collect();
        assert_eq!(opens, [("news", 1), ("begun", 1)]);
        assert_eq!(wire.messages(), [(5, 1, 15), (4, 1, 3)]);
        assert_eq!(send(&mut publisher, &mut wire, idle, b"second"), DONE);
        assert!(matches!(&wire.read[0], Item::Control(Control::Open(open)) if open.next_sequence == 1));
        assert_eq!(wire.messages(), [(6, 1, 6)]);
    }

    #[test]
    fn frames_of_a_channel_that_the_next_daemon_declines_are_dropped_and_reported_once() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let other = publisher.place(&name("other")).expect("room");
        assert_eq!(send(&mut publisher, &mut wire, other, b"first"), DONE);
        wire.messages();
        publisher.feed(b"0").expect("fed");
        publisher.feed_to(other, b"not opened again").expect("fed");
        publisher.feed(b"1").expect("fed");
        wire.break_off();
        wire.opens = false;
        assert_eq!(flushed(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        wire.answers.extend([opened("news".to_owned(), 1), declined(kind::OPEN, 0)]);
        let Err(Failure::Rejected(Rejected::Declined(declined))) = flushed(&mut publisher, &mut wire) else {
            panic!("it is reported")
        };
        assert_eq!(declined.channel.as_str(), "other");
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        assert_eq!(wire.messages(), [(1, 0, 1), (1, 1, 1)]);
        assert_eq!(publisher.next(other), 1, "the number is free");
    }

    #[test]
    fn a_confirmation_covers_all_channels() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let other = publisher.place(&name("other")).expect("room");
        assert_eq!(send(&mut publisher, &mut wire, other, b"x"), DONE);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        assert_eq!(confirmed(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        wire.answers.push_back(report());
        assert_eq!(confirmed(&mut publisher, &mut wire), Ok(Step::Done(Confirmation::Accepted)));
        // One is lost with its daemon, and one that used the next daemon can be confirmed.
        assert_eq!(send(&mut publisher, &mut wire, other, b"x"), DONE);
        wire.break_off();
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        assert_eq!(confirmed(&mut publisher, &mut wire), Ok(Step::Done(Confirmation::InDoubt(1))));
        wire.answers.push_back(report());
        assert_eq!(confirmed(&mut publisher, &mut wire), Ok(Step::Done(Confirmation::Accepted)));
    }

    #[test]
    fn a_doubt_outlasts_the_orderly_stop_of_a_later_daemon() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"lost"), DONE);
        wire.break_off();
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"accepted"), DONE);
        publisher.ask();
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        wire.answers.push_back(goodbye());
        assert!(read::<_, Failure>(&mut publisher, &mut wire).expect("another daemon will serve").is_none());
        assert_eq!(confirmed(&mut publisher, &mut wire), Ok(Step::Done(Confirmation::InDoubt(1))));
        assert_eq!(confirmed(&mut publisher, &mut wire), Ok(Step::Done(Confirmation::Accepted)));
    }

    #[test]
    fn a_publisher_knows_so_many_channels_and_no_more() {
        let mut publisher = publisher();
        for n in 1..PUBLICATIONS_MAX {
            publisher.place(&name(&n.to_string())).expect("room");
        }
        let Err(Rejected::Declined(declined)) = publisher.place(&name("one more")) else { panic!("it has a limit") };
        assert!(declined.reason.contains("65536"), "{}", declined.reason);
        assert!(publisher.place(&name("1")).is_ok() && publisher.known("news") == Some(OWN));
    }

    // ---- messages that another caller finishes ----

    #[test]
    fn a_message_that_was_left_is_done_when_another_caller_has_written_it() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        wire.room = 10;
        let mut left = Sending::new(OWN, &[], b"begun");
        let poll = |publisher: &mut Publisher, wire: &mut Wire, sending: &mut Sending<'_>| {
            let step: Sent = sending.poll(publisher, wire);
            sending.leave(publisher);
            step
        };
        assert_eq!(poll(&mut publisher, &mut wire, &mut left), Ok(Step::Wait(Due::Room)));
        assert!(left.has_begun());
        assert_eq!(poll(&mut publisher, &mut wire, &mut left), Ok(Step::Wait(Due::Room)));
        let mut next = Sending::new(OWN, &[], b"next");
        assert_eq!(poll(&mut publisher, &mut wire, &mut next), Ok(Step::Wait(Due::Room)));
        assert!(!next.has_begun(), "it waits for its turn");
        wire.room = usize::MAX;
        assert_eq!(poll(&mut publisher, &mut wire, &mut next), DONE);
        assert_eq!(poll(&mut publisher, &mut wire, &mut left), DONE);
        assert_eq!(wire.messages(), [(3, 0, 1), (3, 1, 5), (3, 2, 4)]);
    }

    #[test]
    fn a_message_that_was_left_and_dropped_starts_over() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        wire.room = 10;
        let mut left = Sending::new(OWN, &[], b"begun");
        assert_eq!(left.poll::<_, Failure>(&mut publisher, &mut wire), Ok(Step::Wait(Due::Room)));
        left.leave(&mut publisher);
        // Another caller has the reason.
        let refused = control::Refused::new(RefusedCode::Memory, "no memory");
        wire.answers.push_back(refused.into());
        assert_eq!(read::<_, Failure>(&mut publisher, &mut wire), Err(Failure::Refused));
        wire.room = usize::MAX;
        assert_eq!(left.poll::<_, Failure>(&mut publisher, &mut wire), DONE);
        assert_eq!(wire.messages(), [(3, 0, 1), (4, 2, 5)]);
    }

    // ---- backpressure ----

    /// What a frame with one message costs.
    fn cost(payload: usize) -> u64 {
        (HEADER_BYTES + payload) as u64 + CREDIT_MESSAGE_BYTES
    }

    #[test]
    fn open_has_the_duration_in_milliseconds() {
        let durations = [
            (Duration::ZERO, None),
            (Duration::from_nanos(1), Some(1)),
            (Duration::from_micros(1500), Some(2)),
            (Duration::from_secs(5), Some(5000)),
            (Duration::MAX, Some(u32::MAX)),
        ];
        for (duration, millis) in durations {
            let (mut publisher, mut wire) = (publisher().with_backpressure(duration), Wire::new());
            assert_eq!(wire.connect(&mut publisher), Ok(Step::Done(Carrier::Stream)));
            let open = wire.read.iter().find_map(|item| match item {
                Item::Control(Control::Open(open)) => Some(open.extensions.clone()),
                _ => None,
            });
            let extension = |millis: u32| Extension { id: 1, data: millis.to_le_bytes().to_vec() };
            assert_eq!(open.expect("it opens"), millis.map(extension).into_iter().collect::<Vec<_>>(), "{duration:?}");
        }
    }

    #[test]
    fn a_message_waits_for_credit_and_may_use_up_more_than_is_left() {
        let (mut publisher, mut wire) = (paced(), Wire::new());
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), Ok(Step::Wait(Due::Answer)));
        assert!(wire.messages().is_empty() && publisher.committed() == 0, "nothing was sent");
        wire.grant(3, 1);
        assert_eq!(send(&mut publisher, &mut wire, OWN, &[7; 10_000]), DONE);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), Ok(Step::Wait(Due::Answer)));
        wire.grant(3, cost(10_000) - 1);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), Ok(Step::Wait(Due::Answer)), "the debt is paid");
        wire.grant(3, 1);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        assert_eq!(wire.messages(), [(3, 0, 10_000), (3, 1, 1)]);
    }

    #[test]
    fn a_channel_without_credit_holds_up_no_other() {
        let (mut publisher, mut wire) = (paced(), Wire::new());
        let other = publisher.place(&name("other")).expect("room");
        assert_eq!(send(&mut publisher, &mut wire, other, b"x"), Ok(Step::Wait(Due::Answer)));
        for _ in 0..3 {
            publisher.feed(b"waits aside").expect("fed");
        }
        assert_eq!(flushed(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        wire.grant(4, 1000);
        assert_eq!(send(&mut publisher, &mut wire, other, b"passes"), DONE);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"does not"), Ok(Step::Wait(Due::Answer)));
        assert_eq!(wire.messages(), [(4, 0, 6)]);
        wire.grant(3, 1);
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        assert_eq!(wire.messages(), [(3, 0, 11), (3, 1, 11), (3, 2, 11)], "a batch is one frame");
    }

    #[test]
    fn a_batch_costs_what_the_daemon_computes() {
        let (mut publisher, mut wire) = (paced(), Wire::new());
        publisher.feed(b"before there is a connection").expect("fed");
        let _: Sent = flush(&mut publisher, &mut wire);
        wire.grant(3, 10_000);
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        let mut paid = 0;
        // Until the credit is used up, to the byte.
        while !publisher.lacks_credit(OWN) {
            publisher.feed(b"12345678").expect("fed");
            assert_eq!(flushed(&mut publisher, &mut wire), DONE);
            paid += 1;
        }
        let first = cost(4 + b"before there is a connection".len());
        assert_eq!(paid, (10_000 - first).div_ceil(cost(4 + 8)));
        let debt = first + paid * cost(4 + 8) - 10_000;
        wire.grant(3, debt);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), Ok(Step::Wait(Due::Answer)));
        wire.grant(3, 1);
        // Four messages that are fed together share a header. The credit lasts for the first of them, and it pays for all.
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        wire.grant(3, cost(1));
        for _ in 0..4 {
            publisher.feed(b"1234").expect("fed");
        }
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        wire.grant(3, HEADER_BYTES as u64 + 4 * (4 + 4 + CREDIT_MESSAGE_BYTES) - 1);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), Ok(Step::Wait(Due::Answer)));
        wire.grant(3, 1);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
    }

    #[test]
    fn a_sender_that_never_waits_reads_its_credit_and_not_for_each_message() {
        let (mut publisher, mut wire) = (paced(), Wire::new());
        assert_eq!(wire.connect(&mut publisher), Ok(Step::Done(Carrier::Stream)));
        wire.grant(3, 64 * 1024);
        let mut granted = 64 * 1024;
        for sent in 1..=100_000_u64 {
            assert_eq!(send(&mut publisher, &mut wire, OWN, b"12345678"), DONE);
            // The daemon tops up as soon as half of it is used up.
            let missing = sent * cost(8) + 64 * 1024 - granted;
            if missing >= 32 * 1024 {
                wire.grant(3, missing);
                granted += missing;
            }
        }
        assert!(wire.answers.len() <= 1, "{} are unread", wire.answers.len());
        assert!(wire.reads < 3000, "{} reads for 100000 messages", wire.reads);
    }

    #[test]
    fn the_next_daemon_grants_credit_anew() {
        let (mut publisher, mut wire) = (paced(), Wire::new());
        let other = publisher.place(&name("other")).expect("room");
        let _: Sent = send(&mut publisher, &mut wire, other, b"x");
        wire.grant(3, 100_000);
        wire.grant(4, 100_000);
        assert_eq!(send(&mut publisher, &mut wire, other, b"x"), DONE);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        wire.room = 20;
        publisher.feed(b"0").expect("fed");
        publisher.feed_to(other, b"1").expect("fed");
        publisher.feed(&[2; 5000]).expect("fed");
        assert_eq!(flushed(&mut publisher, &mut wire), Ok(Step::Wait(Due::Room)));
        wire.messages();
        wire.break_off();
        wire.room = usize::MAX;
        assert_eq!(flushed(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        assert!(wire.messages().is_empty(), "without credit");
        wire.grant(6, 1);
        assert_eq!(flushed(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        assert_eq!(wire.messages(), [(6, 1, 1)]);
        wire.grant(5, 1);
        assert_eq!(flushed(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        assert_eq!(wire.messages(), [(5, 1, 1)]);
        publisher.feed(b"behind").expect("fed");
        wire.grant(5, 100_000);
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        assert_eq!(wire.messages(), [(5, 2, 5000), (5, 3, 6)]);
        assert_eq!(publisher.waiting_bytes(), 0);
    }

    #[test]
    fn credit_without_backpressure_ends_the_connection() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        wire.grant(3, 1);
        assert_eq!(confirmed(&mut publisher, &mut wire), Ok(Step::Done(Confirmation::InDoubt(1))));
    }

    // ---- retained messages ----

    /// What the daemon has read since the last call: the kind of each message, its channel id, number, retention and payload.
    fn read_messages(wire: &mut Wire) -> Vec<(Kind, u32, u64, Retention, Vec<u8>)> {
        let mut messages = Vec::new();
        for item in wire.read.drain(..) {
            let Item::Run(mut run) = item else { continue };
            let kind = match (run.is_retained(), run.is_redeclared()) {
                (true, _) => Kind::Retain,
                (_, true) => Kind::Redeclare,
                (false, false) => Kind::Publish,
            };
            while let Some(frame) = run.front() {
                let retention = frame.metadata.retention();
                messages.push((kind, run.channel().0, frame.sequence, retention, frame.payload.to_vec()));
                run.skip_front();
            }
        }
        messages
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Kind {
        Publish,
        Retain,
        Redeclare,
    }

    /// The same without channel and retention.
    fn kinds(wire: &mut Wire) -> Vec<(Kind, u64, Vec<u8>)> {
        let messages = read_messages(wire).into_iter();
        messages.map(|(kind, _, sequence, _, payload)| (kind, sequence, payload)).collect()
    }

    fn message(kind: Kind, sequence: u64, payload: &str) -> (Kind, u64, Vec<u8>) {
        (kind, sequence, payload.as_bytes().to_vec())
    }

    fn retain_for(
        publisher: &mut Publisher,
        wire: &mut Wire,
        place: Place,
        lifetime: Lifetime,
        payload: &[u8],
    ) -> Sent {
        Sending::retain(place, lifetime, &[], payload).poll(publisher, wire)
    }

    fn retain(publisher: &mut Publisher, wire: &mut Wire, payload: &[u8]) -> Sent {
        retain_for(publisher, wire, OWN, Lifetime::default(), payload)
    }

    /// What the next daemon reads when the connection is lost and another message is sent.
    fn after_a_restart(publisher: &mut Publisher, wire: &mut Wire) -> Vec<(Kind, u64, Vec<u8>)> {
        wire.read.clear();
        wire.break_off();
        assert_eq!(send(publisher, wire, OWN, b"next"), DONE);
        let mut kinds = kinds(wire);
        assert_eq!(kinds.pop(), Some(message(Kind::Publish, publisher.committed() - 1, "next")));
        kinds
    }

    #[test]
    fn the_next_daemon_receives_the_last_value_before_anything_else() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        for payload in [&b"old"[..], b"new"] {
            assert_eq!(retain(&mut publisher, &mut wire, payload), DONE);
        }
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"an event"), DONE);
        let sent =
            [message(Kind::Retain, 0, "old"), message(Kind::Retain, 1, "new"), message(Kind::Publish, 2, "an event")];
        assert_eq!(kinds(&mut wire), sent);
        publisher.feed(b"waits").expect("fed");
        wire.break_off();
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        assert_eq!(kinds(&mut wire), [message(Kind::Redeclare, 1, "new"), message(Kind::Publish, 3, "waits")]);
        assert_eq!(publisher.committed(), 4, "what is declared again is not part of the sequence");
        assert_eq!(after_a_restart(&mut publisher, &mut wire), [message(Kind::Redeclare, 1, "new")], "every time");
        assert_eq!(publisher.take_doubt(), 4, "all but the last");
    }

    #[test]
    fn a_value_that_was_superseded_or_cleared_is_not_declared_again() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        assert_eq!(retain(&mut publisher, &mut wire, b"0"), DONE);
        assert_eq!(retain(&mut publisher, &mut wire, b"1"), DONE);
        let superseded =
            |id, sequence| Control::Superseded(control::Superseded { id, sequence, extensions: Vec::new() });
        wire.answers.push_back(superseded(3, 0));
        assert!(read::<_, Failure>(&mut publisher, &mut wire).expect("read").is_none());
        assert_eq!(
            after_a_restart(&mut publisher, &mut wire),
            [message(Kind::Redeclare, 1, "1")],
            "an earlier one was"
        );
        wire.answers.push_back(superseded(4, 1));
        assert!(read::<_, Failure>(&mut publisher, &mut wire).expect("read").is_none());
        assert_eq!(after_a_restart(&mut publisher, &mut wire), []);
        assert_eq!(retain(&mut publisher, &mut wire, b"4"), DONE);
        assert_eq!(retain(&mut publisher, &mut wire, b""), DONE);
        assert_eq!(after_a_restart(&mut publisher, &mut wire), []);
        wire.answers.push_back(superseded(99, 0));
        assert!(read::<_, Failure>(&mut publisher, &mut wire).expect("lost").is_none());
        assert!(!publisher.is_ready(), "a channel that is not open ends the connection");
    }

    #[test]
    fn a_sender_that_only_retains_reads_now_and_then() {
        let superseded =
            |sequence| Control::Superseded(control::Superseded { id: 3, sequence, extensions: Vec::new() });
        let (publisher, mut wire) = (publisher(), Wire::new());
        let mut publisher = publisher.with_history(10);
        for sequence in 0..1000 {
            assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
            wire.answers.push_back(superseded(sequence));
            assert!(wire.answers.len() <= 65, "{} answers wait to be read", wire.answers.len());
        }
        let (mut publisher, mut wire) = (self::publisher(), Wire::new());
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        let reads = wire.reads;
        (0..1000).for_each(|_| assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE));
        assert_eq!(wire.reads, reads, "without backpressure, a message that is not retained costs no read");
    }

    #[test]
    fn what_is_left_of_a_lifetime_is_declared() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let now = Instant::now();
        publisher.set_time(now);
        let other = publisher.place(&name("other")).expect("room");
        let second = Duration::from_secs(1);
        for (place, seconds) in [(OWN, 3), (other, 2)] {
            let lifetime = Lifetime::new(seconds * second, now);
            assert_eq!(retain_for(&mut publisher, &mut wire, place, lifetime, b"value"), DONE);
        }
        let retention = |lifetime_ms| Retention { lifetime_ms, keep: 1 };
        let retentions = |wire: &mut Wire| -> Vec<_> {
            read_messages(wire).into_iter().map(|(kind, _, _, retention, _)| (kind, retention)).collect()
        };
        assert_eq!(retentions(&mut wire), [(Kind::Retain, retention(3000)), (Kind::Retain, retention(2000))]);
        wire.break_off();
        publisher.set_time(now + 2 * second);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        let declared = [(Kind::Redeclare, retention(1000)), (Kind::Publish, Retention::default())];
        assert_eq!(retentions(&mut wire), declared, "one of them is over");
    }

    #[test]
    fn channels_of_which_a_value_is_kept_are_opened_again_at_once() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let other = publisher.place(&name("other")).expect("room");
        assert_eq!(retain_for(&mut publisher, &mut wire, other, Lifetime::default(), b"value"), DONE);
        wire.read.clear();
        wire.break_off();
        wire.opens = false;
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), Ok(Step::Wait(Due::Answer)));
        wire.answers.extend([opened("news".to_owned(), 7), declined(kind::OPEN, 0)]);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE, "a channel that is declined affects no other");
        assert_eq!(kinds(&mut wire), [message(Kind::Publish, 0, "x")]);
        wire.opens = true;
        assert_eq!(send(&mut publisher, &mut wire, other, b"y"), DONE);
        assert_eq!(kinds(&mut wire), [message(Kind::Redeclare, 0, "value"), message(Kind::Publish, 1, "y")], "later");
        wire.break_off();
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"z"), DONE);
        assert_eq!(kinds(&mut wire), [message(Kind::Redeclare, 0, "value"), message(Kind::Publish, 1, "z")]);
    }

    #[test]
    fn a_value_that_was_written_in_part_is_sent_again_and_not_declared() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        assert_eq!(retain(&mut publisher, &mut wire, b"old"), DONE);
        wire.room = 40;
        let lifetime = Lifetime::default();
        let mut begun = Sending::retain(OWN, lifetime, &[], b"a value of more bytes than the connection takes");
        assert_eq!(begun.poll::<_, Failure>(&mut publisher, &mut wire), Ok(Step::Wait(Due::Room)));
        begun.leave(&mut publisher);
        wire.break_off();
        (wire.room, wire.read) = (usize::MAX, Vec::new());
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        assert_eq!(kinds(&mut wire), [message(Kind::Retain, 1, "a value of more bytes than the connection takes")]);
        assert_eq!(begun.poll(&mut publisher, &mut wire), DONE);
        assert_eq!(after_a_restart(&mut publisher, &mut wire).len(), 1);
        // What is dropped before it was written is no value.
        let mut dropped = Sending::retain(OWN, lifetime, &[], b"dropped");
        wire.room = 10;
        assert_eq!(dropped.poll::<_, Failure>(&mut publisher, &mut wire), Ok(Step::Wait(Due::Room)));
        dropped.leave(&mut publisher);
        publisher.drop_waiting();
        wire.room = usize::MAX;
        assert_eq!(after_a_restart(&mut publisher, &mut wire), []);
    }

    #[test]
    fn what_declares_a_value_is_written_again_after_a_connection_that_took_a_part_of_it() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        assert_eq!(retain(&mut publisher, &mut wire, b"value"), DONE);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"x"), DONE);
        wire.break_off();
        wire.read.clear();
        publisher.feed(b"y").expect("fed");
        publisher.disconnected();
        let handshake = wire.connect(&mut publisher);
        assert_eq!(handshake, Ok(Step::Done(Carrier::Stream)));
        wire.room = 10;
        assert_eq!(flushed(&mut publisher, &mut wire), Ok(Step::Wait(Due::Room)));
        publisher.disconnected();
        wire.break_off();
        wire.room = usize::MAX;
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        let Some(Item::Control(Control::Open(open))) =
            wire.read.iter().rfind(|item| matches!(item, Item::Control(Control::Open(_))))
        else {
            panic!("it opens the channel")
        };
        assert_eq!(open.next_sequence, 2, "what is declared again does not wait for its turn");
        assert_eq!(kinds(&mut wire), [message(Kind::Redeclare, 0, "value"), message(Kind::Publish, 2, "y")]);
        assert_eq!(publisher.take_doubt(), 2);
    }

    #[test]
    fn a_history_retains_everything_but_empty_messages_and_requests() {
        let (publisher, mut wire) = (publisher(), Wire::new());
        let mut publisher = publisher.with_history(5);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"sent"), DONE);
        assert_eq!(send(&mut publisher, &mut wire, OWN, b""), DONE);
        publisher.feed(b"fed").expect("fed");
        publisher.feed(b"").expect("fed");
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        let lifetime = Lifetime::new(Duration::from_secs(1), Instant::now());
        assert_eq!(retain_for(&mut publisher, &mut wire, OWN, lifetime, b"for a time"), DONE);
        let of = |lifetime_ms| Retention { lifetime_ms, keep: 5 };
        let none = Retention::default();
        let expected = [
            (Kind::Retain, 3, 0, of(0), b"sent".to_vec()),
            (Kind::Publish, 3, 1, none, Vec::new()),
            (Kind::Retain, 3, 2, of(0), b"fed".to_vec()),
            (Kind::Publish, 3, 3, none, Vec::new()),
            (Kind::Retain, 3, 4, of(1000), b"for a time".to_vec()),
        ];
        assert_eq!(read_messages(&mut wire), expected);
        publisher.begin_request(1);
        let mut request = Requesting::new(OWN, 1, &[], b"request");
        wire.answers.push_back(Control::InboxOpened(InboxOpened { id: 9, extensions: Vec::new() }));
        assert_eq!(request.poll::<_, Failure>(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        assert_eq!(kinds(&mut wire), [message(Kind::Publish, 5, "request")]);
    }

    #[test]
    fn messages_of_a_history_wait_for_credit_and_survive_a_reconnection() {
        let (mut publisher, mut wire) = (paced().with_history(2), Wire::new());
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"0"), Ok(Step::Wait(Due::Answer)));
        publisher.feed(b"a").expect("fed");
        publisher.feed(b"b").expect("fed");
        wire.break_off();
        assert_eq!(flushed(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        assert!(kinds(&mut wire).is_empty(), "without credit, and nothing was sent that could be declared");
        wire.grant(4, 100_000);
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        assert_eq!(kinds(&mut wire), [message(Kind::Retain, 0, "a"), message(Kind::Retain, 1, "b")]);
        wire.break_off();
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"c"), Ok(Step::Wait(Due::Answer)));
        assert_eq!(kinds(&mut wire), [message(Kind::Redeclare, 1, "b")], "it needs no credit");
    }

    #[test]
    fn metadata_must_leave_room_for_what_states_the_retention() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let lifetime = Lifetime::new(Duration::from_secs(1), Instant::now());
        let mut retain = |metadata: &[u8]| -> Sent {
            Sending::retain(OWN, lifetime, metadata, b"x").poll(&mut publisher, &mut wire)
        };
        let max = usize::from(META_BYTES_MAX) - RETENTION_ENTRY_BYTES;
        assert_eq!(retain(&vec![0; max]), DONE);
        let error = retain(&vec![0; max + 1]);
        assert_eq!(error, Err(Failure::Rejected(Rejected::MetadataTooLarge(usize::from(META_BYTES_MAX) + 1))));
    }

    #[test]
    fn numbers_of_kept_values_follow_messages_that_move_up() {
        let (publisher, mut wire) = (publisher(), Wire::new());
        let mut publisher = publisher.with_history(1);
        publisher.feed(&[7; 300]).expect("fed");
        publisher.feed(b"value").expect("fed");
        wire.payload_bytes_max = 100;
        let rejected = flushed(&mut publisher, &mut wire);
        assert!(matches!(rejected, Err(Failure::Rejected(Rejected::TooLarge(_)))), "{rejected:?}");
        assert_eq!(kinds(&mut wire), [message(Kind::Retain, 0, "value")]);
        wire.read.clear();
        wire.break_off();
        publisher.feed(b"").expect("fed");
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        assert_eq!(kinds(&mut wire), [message(Kind::Redeclare, 0, "value"), message(Kind::Publish, 1, "")]);
    }

    #[test]
    fn an_attended_connection_declares_values_without_a_message() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        assert_eq!(retain(&mut publisher, &mut wire, b"value"), DONE);
        let attend = |publisher: &mut Publisher, wire: &mut Wire| attend::<_, Failure>(publisher, wire);
        assert_eq!(attend(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        wire.read.clear();
        wire.break_off();
        wire.serves = false;
        assert_eq!(attend(&mut publisher, &mut wire), Ok(Step::Wait(Due::Daemon)));
        wire.serves = true;
        assert_eq!(attend(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        assert_eq!(kinds(&mut wire), [message(Kind::Redeclare, 0, "value")]);
    }

    // ---- receipts and listeners ----

    fn wire_receipt(number: u32, next_sequence: u64) -> Control {
        let worst = vec![Lagging { listener: 1, messages: 2, bytes: 3 }];
        let (listeners, took, lagging) = (5, 4, 1);
        Receipt { number, next_sequence, listeners, took, lagging, worst, extensions: Vec::new() }.into()
    }

    #[test]
    fn a_receipt_answers_its_message_and_confirms_it() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let mut confirming = Confirming::new(OWN, &[], b"x");
        assert_eq!(confirming.poll::<_, Failure>(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        let Control::Confirm(confirm) = wire.request() else { panic!("it asks") };
        assert_eq!((confirm.number, confirm.id), (0, 3));
        assert!(confirming.is_sent());
        wire.answers.push_back(wire_receipt(0, 1));
        let step = confirming.poll::<_, Failure>(&mut publisher, &mut wire);
        assert!(matches!(step, Ok(Step::Done(Receipted::Receipt(receipt))) if receipt.took == 4));
        assert_eq!(confirmed(&mut publisher, &mut wire), Ok(Step::Done(Confirmation::Accepted)), "without a question");
    }

    #[test]
    fn the_answer_to_a_request_that_was_given_up_confuses_nothing() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let mut given_up = Confirming::new(OWN, &[], b"x");
        let _ = given_up.poll::<_, Failure>(&mut publisher, &mut wire);
        given_up.leave(&mut publisher);
        given_up.forget(&mut publisher);
        let mut confirming = Confirming::new(OWN, &[], b"y");
        let _ = confirming.poll::<_, Failure>(&mut publisher, &mut wire);
        wire.answers.extend([wire_receipt(0, 1), wire_receipt(1, 2)]);
        let step = confirming.poll::<_, Failure>(&mut publisher, &mut wire);
        assert!(matches!(step, Ok(Step::Done(Receipted::Receipt(receipt))) if receipt.number == 1));
        wire.answers.push_back(wire_receipt(2, 2));
        let mut confirming = Confirming::new(OWN, &[], b"z");
        publisher.feed(b"x").expect("fed");
        assert!(read::<_, Failure>(&mut publisher, &mut wire).expect("lost").is_none());
        assert!(!publisher.is_ready(), "an answer without a request ends the connection");
        let _ = confirming.poll::<_, Failure>(&mut publisher, &mut wire);
    }

    #[test]
    fn a_receipt_that_is_lost_with_its_daemon_leaves_a_doubt() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        assert_eq!(send(&mut publisher, &mut wire, OWN, b"before"), DONE);
        let mut confirming = Confirming::new(OWN, &[], b"x");
        let _ = confirming.poll::<_, Failure>(&mut publisher, &mut wire);
        wire.break_off();
        let step = confirming.poll::<_, Failure>(&mut publisher, &mut wire);
        assert_eq!(step, Ok(Step::Done(Receipted::InDoubt(2))));
        assert_eq!(confirmed(&mut publisher, &mut wire), Ok(Step::Done(Confirmation::Accepted)), "reported once");
    }

    /// A request of which a part was written and passed on.
    fn begun_request<'a>(publisher: &mut Publisher, wire: &mut Wire) -> Requesting<'a> {
        publisher.begin_request(77);
        let mut requesting = Requesting::new(OWN, 77, &[], b"a question");
        let poll = |requesting: &mut Requesting<'_>, publisher: &mut Publisher, wire: &mut Wire| {
            assert!(matches!(requesting.poll::<_, Failure>(publisher, wire), Ok(Step::Wait(_))));
        };
        poll(&mut requesting, publisher, wire);
        wire.answers.push_back(InboxOpened { id: 99, extensions: Vec::new() }.into());
        wire.room = 12;
        poll(&mut requesting, publisher, wire);
        requesting.pass_on(publisher);
        assert!(requesting.has_begun() && !requesting.is_sent());
        wire.room = usize::MAX;
        requesting
    }

    #[test]
    fn reply_arrives_for_a_request_that_another_call_has_written_completely() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let mut requesting = begun_request(&mut publisher, &mut wire);
        assert_eq!(flushed(&mut publisher, &mut wire), DONE);
        assert_eq!(wire.messages(), [(3, 0, 10)]);
        let reply = Header::reply(ChannelId(99), broadcaster_protocol::SenderId::new(8, 1), 77, 6);
        feed_bytes(&mut publisher, &[reply.as_bytes(), &b"answer"[..]].concat());
        publisher.received().expect("a reply");
        assert_eq!(requesting.poll::<_, Failure>(&mut publisher, &mut wire), Ok(Step::Wait(Due::Answer)));
        let Control::Confirm(confirm) = wire.request() else { panic!("it requests a receipt") };
        wire.answers.push_back(wire_receipt(confirm.number, 1));
        let step = requesting.poll::<_, Failure>(&mut publisher, &mut wire);
        assert_eq!(step, Ok(Step::Done(Requested::Taken(4))));
        let step = next_reply::<_, Failure>(&mut publisher, &mut wire, 77, 0);
        assert!(matches!(step, Ok(Step::Done(Replied::Reply(_)))), "{step:?}");
        assert_eq!(publisher.late_replies(), 0);
    }

    #[test]
    fn request_that_the_next_daemon_receives_is_over() {
        for detected_before in [false, true] {
            let (mut publisher, mut wire) = (publisher(), Wire::new());
            let mut requesting = begun_request(&mut publisher, &mut wire);
            wire.break_off();
            if detected_before {
                assert_eq!(flushed(&mut publisher, &mut wire), DONE);
            }
            let step = requesting.poll::<_, Failure>(&mut publisher, &mut wire);
            assert_eq!(step, Ok(Step::Done(Requested::Lost)), "the inbox that it names is gone");
            assert_eq!(flushed(&mut publisher, &mut wire), DONE);
            assert_eq!(wire.messages(), [(4, 0, 10)], "the rest of it is the publisher's");
        }
    }

    #[test]
    fn a_receipt_may_be_declined() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let mut confirming = Confirming::new(OWN, &[], b"x");
        let _ = confirming.poll::<_, Failure>(&mut publisher, &mut wire);
        wire.answers.push_back(declined(kind::CONFIRM, 0));
        let step = confirming.poll::<_, Failure>(&mut publisher, &mut wire);
        assert!(matches!(step, Ok(Step::Done(Receipted::Declined(_)))));
        assert!(publisher.is_ready());
    }

    #[test]
    fn listeners_are_counted_again_by_the_next_daemon() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        let ticket = publisher.count_listeners(2);
        assert_eq!(count::<_, Failure>(&mut publisher, &mut wire, ticket), Ok(Step::Wait(Due::Answer)));
        let Control::CountListeners(request) = wire.request() else { panic!("it asks") };
        assert_eq!((request.number, request.minimum), (0, 2));
        wire.break_off();
        assert_eq!(count::<_, Failure>(&mut publisher, &mut wire, ticket), Ok(Step::Wait(Due::Answer)));
        let Control::CountListeners(request) = wire.request() else { panic!("it asks again") };
        assert_eq!((request.number, request.minimum), (1, 2));
        wire.answers.push_back(Listeners { number: 1, listeners: 3, extensions: Vec::new() }.into());
        let step = count::<_, Failure>(&mut publisher, &mut wire, ticket);
        assert_eq!(step, Ok(Step::Done(Counted::Listeners(3))));
        let other = publisher.count_listeners(9);
        let _ = count::<_, Failure>(&mut publisher, &mut wire, other);
        wire.answers.push_back(declined(kind::COUNT_LISTENERS, 2));
        let step = count::<_, Failure>(&mut publisher, &mut wire, other);
        assert!(matches!(step, Ok(Step::Done(Counted::Declined(_)))), "{step:?}");
    }

    #[test]
    fn questions_follow_the_frames_before_them() {
        let (mut publisher, mut wire) = (publisher(), Wire::new());
        publisher.feed(b"0").expect("fed");
        let ticket = publisher.count_listeners(0);
        let _ = count::<_, Failure>(&mut publisher, &mut wire, ticket);
        assert!(matches!(wire.read[2..], [Item::Run(_), Item::Control(Control::CountListeners(_))]));
    }
}
