//! The sending side: stamps frames, keeps those that are not written yet, and carries them over a lost connection.

use super::session::{Core, Ended, Phase, Session, out_of_place};
use broadcaster_protocol::control::{Control, Open, Role};
use broadcaster_protocol::frame::KIND_PUBLISH;
use broadcaster_protocol::limits::{BATCH_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES};
use broadcaster_protocol::{ChannelId, ChannelName, Header, Item, SenderId};
use bytes::buf::Limit;
use bytes::{Buf, Bytes, BytesMut};

/// Memory that a sender keeps for frames while none wait.
const IDLE_BYTES_MAX: usize = 128 * 1024;

/// A payload is larger than the daemon accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// Bytes of the payload.
    pub len: usize,
    /// Bytes allowed.
    pub max: u32,
}

/// A sender on one channel.
///
/// A frame is *committed* when it has its sequence number for good: from then on it is written whole, or written again
/// whole after a lost connection, or its handle is dropped. At most one connection ever gets a whole copy of it.
#[derive(Debug)]
pub struct SenderCore {
    session: Session,
    channel: ChannelName,
    number: u32,
    id: SenderId,
    channel_id: ChannelId,
    payload_bytes_max: u32,
    /// Sequence number of the next frame.
    next: u64,
    /// Committed frames that are not written whole.
    frames: Vec<u8>,
    /// Bytes of `frames` that were written.
    written: usize,
    /// Where the batch begins that the next small message may join.
    batch: Option<usize>,
}

impl SenderCore {
    /// A sender on `channel` in the process `pid`; `number` tells it apart from others of the process.
    pub fn new(channel: ChannelName, pid: u32, number: u32) -> Self {
        Self {
            session: Session::new(Role::Sender, pid),
            channel,
            number,
            id: SenderId::new(pid, number),
            channel_id: ChannelId(0),
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            next: 0,
            frames: Vec::new(),
            written: 0,
            batch: None,
        }
    }

    /// The channel's name.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// Who this sender is to listeners.
    pub fn id(&self) -> SenderId {
        self.id
    }

    /// How many frames were committed.
    pub fn committed(&self) -> u64 {
        self.next
    }

    /// The header of the next frame, for a payload of `len` bytes, without committing it.
    ///
    /// # Errors
    ///
    /// [`TooLarge`].
    #[inline]
    pub fn stamp(&self, len: usize) -> Result<Header, TooLarge> {
        let max = self.payload_bytes_max;
        match u32::try_from(len) {
            Ok(bytes) if bytes <= max => Ok(Header::publish(self.channel_id, self.id, self.next, bytes)),
            _ => Err(TooLarge { len, max }),
        }
    }

    /// The stamped frame was written whole.
    #[inline]
    pub fn commit(&mut self) {
        self.next += 1;
    }

    /// The first `written` bytes of the stamped frame were written, and the caller can not wait for the others: the
    /// core keeps the frame.
    pub fn adopt(&mut self, header: &Header, payload: &[u8], written: usize) {
        debug_assert!(self.frames.is_empty(), "frames must not overtake one another");
        self.batch = None;
        self.frames.extend_from_slice(header.as_bytes());
        self.frames.extend_from_slice(payload);
        self.written = written;
        self.commit();
    }

    /// Commits a message behind those that wait; a small one joins the batch before it, if there is room.
    ///
    /// # Errors
    ///
    /// [`TooLarge`]; nothing has changed.
    #[inline]
    pub fn feed(&mut self, payload: &[u8]) -> Result<(), TooLarge> {
        let header = self.stamp(payload.len())?;
        let len = header.payload_bytes();
        if payload.len() + RECORD_HEADER_BYTES > BATCH_BYTES_MAX as usize {
            self.batch = None;
            self.frames.extend_from_slice(header.as_bytes());
        } else {
            let room = HEADER_BYTES + BATCH_BYTES_MAX as usize - RECORD_HEADER_BYTES - payload.len();
            let start = match self.batch {
                Some(start) if self.frames.len() - start <= room => start,
                _ => self.begin_batch(),
            };
            let body_bytes = self.frames.len() - start - HEADER_BYTES + RECORD_HEADER_BYTES + payload.len();
            let body_bytes = u32::try_from(body_bytes).expect("a batch has a few kilobytes");
            self.frames[start..start + 4].copy_from_slice(&body_bytes.to_le_bytes());
            self.frames.extend_from_slice(&len.to_le_bytes());
        }
        self.frames.extend_from_slice(payload);
        self.commit();
        Ok(())
    }

    fn begin_batch(&mut self) -> usize {
        let start = self.frames.len();
        self.frames.reserve(HEADER_BYTES + BATCH_BYTES_MAX as usize);
        let header = Header::batch(self.channel_id, self.id, self.next, 0);
        self.frames.extend_from_slice(header.as_bytes());
        self.batch = Some(start);
        start
    }

    /// Bytes of frames that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.frames.len() - self.written
    }

    /// Drops the frames that wait, for a daemon that will not have them.
    pub fn forget_waiting(&mut self) {
        self.frames.clear();
        self.written = 0;
        self.batch = None;
    }

    /// Takes the messages that wait out of the connection's way, in order, each with its sequence number.
    pub fn take_waiting(&mut self) -> Vec<(u64, Bytes)> {
        let frames = Bytes::from(std::mem::take(&mut self.frames));
        let places: Vec<usize> = waiting_headers(&frames, self.written).collect();
        self.forget_waiting();
        let mut messages = Vec::new();
        for at in places {
            let Some(header) = Header::peek(&frames[at..]) else { break };
            let (mut sequence, mut body) = (header.sequence(), frames.slice(at..at + header.frame_bytes()));
            body.advance(HEADER_BYTES);
            if header.kind() == KIND_PUBLISH {
                messages.push((sequence, body));
                continue;
            }
            while body.len() >= RECORD_HEADER_BYTES {
                let len = usize::try_from(body.get_u32_le()).expect("a batch has a few kilobytes");
                messages.push((sequence, body.split_to(len)));
                sequence += 1;
            }
        }
        messages
    }

    /// Whether a daemon was told which sequence number comes next, and has not answered yet.
    pub fn is_opening(&self) -> bool {
        self.session.phase == Phase::Joining
    }

    /// Where in `frames` each frame stands that is not written whole.
    fn waiting_headers(&self) -> impl Iterator<Item = usize> {
        waiting_headers(&self.frames, self.written)
    }

    /// The new daemon knows the channel, and maybe the sender, by other numbers.
    fn restamp(&mut self) {
        let places: Vec<usize> = self.waiting_headers().collect();
        for at in places {
            let old = *Header::peek(&self.frames[at..]).expect("a committed frame has a header");
            let new = old.restamped(self.channel_id, self.id);
            self.frames[at..at + HEADER_BYTES].copy_from_slice(new.as_bytes());
        }
    }
}

/// Where each frame stands that is not among the first `written` bytes.
fn waiting_headers(frames: &[u8], written: usize) -> impl Iterator<Item = usize> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = Header::peek(&frames[at..])?;
        let start = at;
        at += header.frame_bytes();
        Some((start, at))
    })
    .filter_map(move |(start, end)| (end > written).then_some(start))
}

impl Core for SenderCore {
    fn connected(&mut self) {
        self.session.connected(self.number);
    }

    /// A frame of which a part was written is written again whole: no daemon has got all of it.
    fn disconnected(&mut self) {
        self.session.disconnected();
        let first = self.waiting_headers().next().unwrap_or(self.frames.len());
        self.frames.drain(..first);
        self.written = 0;
        self.batch = None;
    }

    fn outgoing(&self) -> &[u8] {
        if self.is_ready() { &self.frames[self.written..] } else { self.session.outgoing() }
    }

    fn sent(&mut self, bytes: usize) {
        if !self.is_ready() {
            return self.session.sent(bytes);
        }
        self.written += bytes;
        self.batch = None; // it is on its way
        if self.written == self.frames.len() {
            self.frames.clear();
            self.frames.shrink_to(IDLE_BYTES_MAX);
            self.written = 0;
        }
    }

    fn target(&mut self) -> Limit<&mut BytesMut> {
        self.session.target()
    }

    fn received(&mut self) -> Result<(), Ended> {
        while let Some(item) = self.session.next()? {
            match (self.session.phase, item) {
                (Phase::Greeting, Item::Control(Control::Welcome(welcome))) => {
                    self.id = SenderId::from_raw(welcome.sender);
                    self.number = self.id.number();
                    self.payload_bytes_max = welcome.payload_bytes_max.min(PAYLOAD_BYTES_MAX);
                    let first = self.waiting_headers().next();
                    let first = first.and_then(|at| Header::peek(&self.frames[at..]));
                    let next_sequence = first.map_or(self.next, Header::sequence);
                    let channel = self.channel.as_str().to_owned();
                    self.session.say(&Control::Open(Open { channel, next_sequence }));
                    self.session.phase = Phase::Joining;
                }
                (Phase::Joining, Item::Control(Control::Opened(opened))) => {
                    self.channel_id = ChannelId(opened.channel);
                    self.restamp();
                    self.session.phase = Phase::Ready;
                }
                (_, item) => return Err(out_of_place(&item)),
            }
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.session.phase == Phase::Ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_wait_are_taken_with_their_numbers() {
        let channel = ChannelName::new("news").expect("a name");
        let mut core = SenderCore::new(channel, 7, 1);
        core.feed(b"a").expect("fed");
        core.feed(b"").expect("fed");
        core.feed(&[9; 5000]).expect("fed");
        core.feed(b"b").expect("fed");
        let taken = core.take_waiting();
        let wanted = [(0, &b"a"[..]), (1, b""), (2, &[9; 5000]), (3, b"b")];
        assert_eq!(taken, wanted.map(|(sequence, payload)| (sequence, Bytes::copy_from_slice(payload))));
        assert_eq!((core.waiting_bytes(), core.committed()), (0, 4));
        assert!(core.take_waiting().is_empty());
    }
}
