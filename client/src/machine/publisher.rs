//! A publication: numbers frames, keeps those that are not written yet, and carries them over a lost connection. It never
//! waits for a listener.

use super::session::{Ended, Machine, Phase, Session, unexpected};
use crate::ChannelName;
use broadcaster_protocol::control::{Control, Inspect, Open};
use broadcaster_protocol::frame::KIND_PUBLISH;
use broadcaster_protocol::limits::{BATCH_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES};
use broadcaster_protocol::{ChannelId, Header, Item, SenderId};
use bytes::{Buf, Bytes};

/// Memory that a publisher keeps for frames after a small burst.
const IDLE_BYTES_MAX: usize = 16 * 1024;

/// The same after a large one: twice what [`Sender::feed`](crate::Sender::feed) gathers.
const BUSY_BYTES_MAX: usize = 128 * 1024;

/// A payload is larger than the daemon accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// Bytes of the payload.
    pub len: usize,
    /// Bytes allowed.
    pub max: u32,
}

/// One message with its place among those of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted<'a> {
    /// The sequence number.
    pub sequence: u64,
    /// The payload.
    pub payload: &'a [u8],
}

/// One publication on one connection after the other.
///
/// A frame is *committed* when its sequence number is final: from then on it is written completely, or written again
/// completely after a lost connection, or its handle is dropped. At most one connection gets a complete copy of it.
#[derive(Debug)]
pub struct Publisher {
    session: Session,
    channel: ChannelName,
    number: u32,
    id: SenderId,
    channel_id: ChannelId,
    payload_bytes_max: u32,
    /// Sequence number of the next frame.
    next: u64,
    /// Sequence number with which the present connection began.
    first: u64,
    /// Every message below was confirmed by a daemon, or was reported as [in doubt](Self::take_doubt).
    settled: u64,
    /// The next sequence number when the daemon was asked for a confirmation, until it answers.
    asked: Option<u64>,
    /// Committed frames that are not written completely.
    frames: Vec<u8>,
    /// Bytes of `frames` that were written.
    written: usize,
    /// Where the batch begins that the next small message may join.
    batch: Option<usize>,
    /// The first of the messages that waited and were too large for the present daemon, until it is reported.
    rejected: Option<TooLarge>,
    /// The frame being written, as far as it is copied.
    pub(super) scratch: Vec<u8>,
}

/// A message that waits.
struct Waiting {
    sequence: u64,
    metadata: Bytes,
    payload: Bytes,
}

impl Publisher {
    /// A publication on `channel` in the process `pid`; `purpose` is for display, and `number` distinguishes the senders of
    /// one process.
    pub fn new(channel: ChannelName, purpose: &str, pid: u32, number: u32) -> Self {
        Self {
            session: Session::new(purpose, pid),
            channel,
            number,
            id: SenderId::new(pid, number),
            channel_id: ChannelId(0),
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            next: 0,
            first: 0,
            settled: 0,
            asked: None,
            frames: Vec::new(),
            written: 0,
            batch: None,
            rejected: None,
            scratch: Vec::new(),
        }
    }

    /// The channel's name.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The sender as listeners see it.
    pub fn id(&self) -> SenderId {
        self.id
    }

    /// How many frames were committed.
    pub fn committed(&self) -> u64 {
        self.next
    }

    /// The header of the next frame, for a payload of `len` bytes without metadata. It commits nothing.
    ///
    /// # Errors
    ///
    /// [`TooLarge`].
    #[inline]
    pub fn next_header(&self, len: usize) -> Result<Header, TooLarge> {
        Ok(Header::publish(self.channel_id, self.id, self.next, self.payload_bytes(len)?))
    }

    /// The size of a payload of `len` bytes, as a frame states it.
    #[inline]
    fn payload_bytes(&self, len: usize) -> Result<u32, TooLarge> {
        let max = self.payload_bytes_max;
        u32::try_from(len).ok().filter(|&bytes| bytes <= max).ok_or(TooLarge { len, max })
    }

    /// The frame with the next header was written completely.
    #[inline]
    pub fn commit(&mut self) {
        self.next += 1;
    }

    /// The first `written` bytes of the frame with this header were written, and the caller cannot wait for the others: the
    /// publisher keeps the frame.
    pub fn adopt(&mut self, header: &Header, metadata: &[u8], payload: &[u8], written: usize) {
        debug_assert!(self.frames.is_empty(), "frames must not overtake one another");
        self.batch = None;
        self.frames.extend_from_slice(header.as_bytes());
        self.frames.extend_from_slice(metadata);
        self.frames.extend_from_slice(payload);
        self.written = written;
        self.commit();
    }

    /// Commits a message behind those that wait; a small one joins the batch before it, if there is room.
    ///
    /// # Errors
    ///
    /// [`TooLarge`]; nothing has changed, or it is an earlier message: see [`report_rejected`](Self::report_rejected).
    #[inline]
    pub fn feed(&mut self, payload: &[u8]) -> Result<(), TooLarge> {
        self.report_rejected()?;
        let len = self.payload_bytes(payload.len())?;
        self.append(&[], payload, len);
        Ok(())
    }

    #[inline]
    fn append(&mut self, metadata: &[u8], payload: &[u8], len: u32) {
        if !metadata.is_empty() || payload.len() + RECORD_HEADER_BYTES > BATCH_BYTES_MAX as usize {
            self.batch = None;
            let meta_bytes = u16::try_from(metadata.len()).expect("metadata never exceeds its limit");
            let header = Header::publish(self.channel_id, self.id, self.next, len).with_metadata(meta_bytes);
            self.frames.extend_from_slice(header.as_bytes());
            self.frames.extend_from_slice(metadata);
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
    #[inline]
    pub fn waiting_bytes(&self) -> usize {
        self.frames.len() - self.written
    }

    /// Whether nothing waits: no frame, and no rest of a question to the daemon.
    #[inline]
    pub fn is_flushed(&self) -> bool {
        self.frames.is_empty() && (!self.is_ready() || self.session.outgoing().is_empty())
    }

    /// Whether every committed message is accounted for: confirmed, or reported as in doubt.
    pub(super) fn is_settled(&self) -> bool {
        self.settled == self.next
    }

    /// Requests a confirmation, behind all frames, unless one is already requested; returns whether it was requested now. No frame waits,
    /// and the connection is ready.
    pub(super) fn ask(&mut self) -> bool {
        debug_assert!(self.is_ready() && self.is_flushed(), "the question would overtake frames");
        let asks = self.asked.is_none();
        if asks {
            self.asked = Some(self.next);
            self.session.push(&Inspect::default().into());
        }
        asks
    }

    /// How many messages were handed over and can no longer be confirmed, because the connection that took them is gone or there was none.
    /// Each message is counted once.
    pub(super) fn take_doubt(&mut self) -> u64 {
        let first = if self.is_ready() { self.first } else { self.first_waiting() };
        let doubtful = first.saturating_sub(self.settled);
        self.settled += doubtful;
        doubtful
    }

    /// Sequence number of the first message that is not written completely; that of the next one if none waits.
    fn first_waiting(&self) -> u64 {
        let first = self.waiting_headers().next().and_then(|at| Header::peek(&self.frames[at..]));
        first.map_or(self.next, |header| header.sequence())
    }

    /// Drops the frames that wait.
    pub fn drop_waiting(&mut self) {
        self.frames.clear();
        self.written = 0;
        self.batch = None;
    }

    /// Reports, once, that messages were dropped because the daemon that serves now does not accept them.
    ///
    /// # Errors
    ///
    /// [`TooLarge`], for the first of them.
    #[inline]
    pub fn report_rejected(&mut self) -> Result<(), TooLarge> {
        self.rejected.take().map_or(Ok(()), Err)
    }

    /// Drops the messages that wait and are larger than the daemon accepts. Those behind them move up: a daemon accepts no gap in the
    /// numbers of a sender.
    fn drop_too_large(&mut self) {
        let messages = self.take_messages();
        self.next = messages.first().map_or(self.next, |first| first.sequence);
        for Waiting { metadata, payload, .. } in messages {
            match self.payload_bytes(payload.len()) {
                Ok(len) => self.append(&metadata, &payload, len),
                Err(too_large) => _ = self.rejected.get_or_insert(too_large),
            }
        }
    }

    /// Takes the messages that wait, in order, each with its sequence number. Metadata is left out.
    pub fn take_waiting(&mut self) -> Vec<(u64, Bytes)> {
        self.take_messages().into_iter().map(|message| (message.sequence, message.payload)).collect()
    }

    fn take_messages(&mut self) -> Vec<Waiting> {
        let frames = Bytes::from(std::mem::take(&mut self.frames));
        let places: Vec<usize> = waiting_headers(&frames, self.written).collect();
        self.drop_waiting();
        let mut messages = Vec::new();
        for at in places {
            let Some(header) = Header::peek(&frames[at..]) else { break };
            let (mut sequence, mut body) = (header.sequence(), frames.slice(at..at + header.frame_bytes()));
            body.advance(HEADER_BYTES);
            let metadata = body.split_to(usize::from(header.meta_bytes()));
            if header.kind() == KIND_PUBLISH {
                messages.push(Waiting { sequence, metadata, payload: body });
                continue;
            }
            while body.len() >= RECORD_HEADER_BYTES {
                let len = usize::try_from(body.get_u32_le()).expect("a batch has a few kilobytes");
                messages.push(Waiting { sequence, metadata: Bytes::new(), payload: body.split_to(len) });
                sequence += 1;
            }
        }
        messages
    }

    /// The start of each frame in `frames` that is not written completely.
    fn waiting_headers(&self) -> impl Iterator<Item = usize> {
        waiting_headers(&self.frames, self.written)
    }

    /// Gives the frames that wait the ids that the new daemon assigned.
    fn assign_ids(&mut self) {
        let places: Vec<usize> = self.waiting_headers().collect();
        for at in places {
            let old = Header::peek(&self.frames[at..]).expect("a committed frame has a header");
            let new = old.with_ids(self.channel_id, self.id);
            self.frames[at..at + HEADER_BYTES].copy_from_slice(new.as_bytes());
        }
    }
}

/// The start of each frame that is not within the first `written` bytes.
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

impl Machine for Publisher {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn connected(&mut self) {
        self.session.connected(self.number);
    }

    /// A frame that was written in part is written again completely: no daemon has all of it.
    fn disconnected(&mut self) {
        self.session.disconnected();
        let first = self.waiting_headers().next().unwrap_or(self.frames.len());
        self.frames.drain(..first);
        self.written = 0;
        self.batch = None;
        self.asked = None;
    }

    fn outgoing(&self) -> &[u8] {
        match self.session.outgoing() {
            [] if self.is_ready() => &self.frames[self.written..],
            control => control,
        }
    }

    fn sent(&mut self, bytes: usize) {
        if !self.session.outgoing().is_empty() {
            return self.session.sent(bytes);
        }
        self.written += bytes;
        self.batch = None; // a part of it may be written
        if self.written == self.frames.len() {
            // The next burst is likely to be as large as this one.
            let kept_bytes = (2 * self.written).clamp(IDLE_BYTES_MAX, BUSY_BYTES_MAX);
            self.frames.clear();
            self.frames.shrink_to(kept_bytes);
            self.written = 0;
        }
    }

    fn accepted(&mut self) {
        self.settled = self.settled.max(self.first_waiting());
    }

    fn is_opening(&self) -> bool {
        self.session.phase == Phase::Joining
    }

    fn received(&mut self) -> Result<(), Ended> {
        while let Some(item) = self.session.next()? {
            match (self.session.phase, item) {
                (Phase::Greeting, Item::Control(Control::Welcome(welcome))) => {
                    self.id = SenderId::from_raw(welcome.sender);
                    self.number = self.id.number();
                    let before = self.payload_bytes_max;
                    self.payload_bytes_max = welcome.payload_bytes_max.min(PAYLOAD_BYTES_MAX);
                    if self.payload_bytes_max < before {
                        self.drop_too_large();
                    }
                    self.first = self.first_waiting();
                    let channel = self.channel.as_str().to_owned();
                    self.session.push(&Open { channel, next_sequence: self.first, extensions: Vec::new() }.into());
                    self.session.phase = Phase::Joining;
                }
                (Phase::Joining, Item::Control(Control::Opened(opened))) => {
                    self.channel_id = ChannelId(opened.id);
                    self.assign_ids();
                    self.session.phase = Phase::Ready;
                }
                // The daemon handles the frames of a connection in order: it has accepted everything before the question.
                (Phase::Ready, item @ Item::Control(Control::Report(_))) => {
                    self.settled = self.asked.take().ok_or_else(|| unexpected(&item))?;
                    self.session.idle();
                }
                (_, item) => return Err(unexpected(&item)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::{accept, feed, welcome};
    use super::*;
    use broadcaster_protocol::control::{Goodbye, Opened, Report, Welcome};
    use broadcaster_protocol::frame::KIND_BATCH;

    fn publisher() -> Publisher {
        Publisher::new(ChannelName::new("news").expect("a name"), "test", 7, 1)
    }

    /// A daemon accepts the connection, and calls the channel `id`.
    fn open(publisher: &mut Publisher, id: u32) {
        open_with(publisher, id, welcome());
    }

    fn open_with(publisher: &mut Publisher, id: u32, welcome: Control) {
        accept(publisher, &[welcome]).expect("welcome");
        write(publisher);
        let opened = Opened { channel: "news".to_owned(), id, listeners: 0, extensions: Vec::new() };
        feed(publisher, &[opened.into()]).expect("opened");
        assert!(publisher.is_ready());
    }

    /// The connection takes everything that is outgoing.
    fn write(publisher: &mut Publisher) {
        while let bytes @ 1.. = publisher.outgoing().len() {
            publisher.sent(bytes);
        }
    }

    /// A message that is written at once.
    fn send(publisher: &mut Publisher) {
        publisher.feed(b"hello").expect("small");
        write(publisher);
    }

    fn answer(publisher: &mut Publisher) -> Result<(), Ended> {
        feed(publisher, &[Report::default().into()])
    }

    #[test]
    fn messages_that_wait_are_taken_with_their_numbers() {
        let mut publisher = publisher();
        publisher.feed(b"a").expect("fed");
        publisher.feed(b"").expect("fed");
        publisher.feed(&[9; 5000]).expect("fed");
        publisher.feed(b"b").expect("fed");
        let taken = publisher.take_waiting();
        let expected = [(0, &b"a"[..]), (1, b""), (2, &[9; 5000]), (3, b"b")];
        assert_eq!(taken, expected.map(|(sequence, payload)| (sequence, Bytes::copy_from_slice(payload))));
        assert_eq!((publisher.waiting_bytes(), publisher.committed()), (0, 4));
        assert!(publisher.take_waiting().is_empty());
    }

    #[test]
    fn a_frame_written_in_part_is_written_again_with_new_ids() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        let header = publisher.next_header(5).expect("small").with_metadata(2);
        publisher.adopt(&header, b"mm", b"hello", 10);
        assert_eq!(publisher.outgoing().len(), header.frame_bytes() - 10);
        publisher.disconnected();
        open(&mut publisher, 4);
        let again = Header::peek(publisher.outgoing()).expect("a header");
        assert_eq!((again.channel(), again.sequence(), again.meta_bytes()), (ChannelId(4), 0, 2));
        assert!(publisher.outgoing().ends_with(b"mmhello"));
        assert_eq!(publisher.take_waiting(), [(0, Bytes::from_static(b"hello"))]);
    }

    /// Kind and bytes of the body of each frame that waits.
    fn waiting(publisher: &Publisher) -> Vec<(u8, usize)> {
        let mut rest = publisher.outgoing();
        let mut frames = Vec::new();
        while let Some(header) = Header::peek(rest) {
            frames.push((header.kind(), header.body_bytes() as usize));
            rest = &rest[header.frame_bytes()..];
        }
        frames
    }

    #[test]
    fn small_messages_fill_a_batch_before_the_next_one_begins() {
        let max = BATCH_BYTES_MAX as usize;
        for (len, kind) in [(max - RECORD_HEADER_BYTES, KIND_BATCH), (max - RECORD_HEADER_BYTES + 1, KIND_PUBLISH)] {
            let mut publisher = publisher();
            open(&mut publisher, 3);
            publisher.feed(&vec![7; len]).expect("fed");
            let body = if kind == KIND_BATCH { max } else { len };
            assert_eq!(waiting(&publisher), [(kind, body)]);
            publisher.drop_waiting();
            assert_eq!((publisher.waiting_bytes(), publisher.committed()), (0, 1));
        }
        for len in 1..20 {
            let mut publisher = publisher();
            open(&mut publisher, 3);
            (0..max).for_each(|_| publisher.feed(&[7; 20][..len]).expect("fed"));
            assert!(waiting(&publisher).iter().all(|&(_, body)| body <= max), "messages of {len} bytes");
        }
        let mut publisher = publisher();
        open(&mut publisher, 3);
        // The records of 1024 bytes fill a batch exactly.
        let record = 1024;
        let count = 2 * max / record + 1;
        (0..count).for_each(|_| publisher.feed(&vec![7; record - RECORD_HEADER_BYTES]).expect("fed"));
        assert_eq!(waiting(&publisher), [(KIND_BATCH, max), (KIND_BATCH, max), (KIND_BATCH, record)]);
        let before = publisher.waiting_bytes();
        publisher.sent(10);
        assert_eq!((publisher.waiting_bytes(), publisher.outgoing().len()), (before - 10, before - 10));
        publisher.feed(b"x").expect("fed");
        assert_eq!(
            publisher.waiting_bytes(),
            before - 10 + HEADER_BYTES + RECORD_HEADER_BYTES + 1,
            "a batch of its own"
        );
    }

    #[test]
    fn a_frame_written_completely_is_not_written_again() {
        let mut publisher = publisher();
        accept(&mut publisher, &[welcome()]).expect("joining");
        assert!(publisher.is_opening());
        publisher.disconnected();
        open(&mut publisher, 3);
        assert!(!publisher.is_opening());
        (0..3).for_each(|_| publisher.feed(&[9; 5000]).expect("fed"));
        publisher.sent(HEADER_BYTES + 5000);
        publisher.disconnected();
        assert_eq!(publisher.take_waiting().iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_is_too_large_changes_nothing() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        let large = vec![0; (1 << 20) + 1];
        assert_eq!(publisher.feed(&large), Err(TooLarge { len: large.len(), max: 1 << 20 }));
        assert_eq!((publisher.waiting_bytes(), publisher.committed()), (0, 0));
    }

    fn welcome_with_limit(payload_bytes_max: u32) -> Control {
        match welcome() {
            Control::Welcome(welcome) => Control::Welcome(Welcome { payload_bytes_max, ..welcome }),
            other => other,
        }
    }

    #[test]
    fn messages_that_the_next_daemon_does_not_accept_are_dropped_alone() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        let header = publisher.next_header(5).expect("small").with_metadata(2);
        publisher.adopt(&header, b"mm", b"begun", 10);
        for len in [10, 5000, 300, 20, 400] {
            publisher.feed(&vec![7; len]).expect("fed");
        }
        publisher.disconnected();
        open_with(&mut publisher, 4, welcome_with_limit(299));
        let first = Header::peek(publisher.outgoing()).expect("a header");
        assert_eq!((first.channel(), first.sequence(), first.meta_bytes()), (ChannelId(4), 0, 2));
        assert_eq!(publisher.committed(), 3);
        assert_eq!(publisher.feed(b"x"), Err(TooLarge { len: 5000, max: 299 }), "reported once");
        publisher.feed(b"x").expect("fed");
        let taken = publisher.take_waiting();
        let expected = [(0, &b"begun"[..]), (1, &[7; 10]), (2, &[7; 20]), (3, b"x")];
        assert_eq!(taken, expected.map(|(sequence, payload)| (sequence, Bytes::copy_from_slice(payload))));
    }

    #[test]
    fn memory_of_a_burst_is_released_when_it_is_written() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        (0..1000).for_each(|_| publisher.feed(&[0; 1000]).expect("fed"));
        publisher.sent(publisher.waiting_bytes());
        assert!(publisher.frames.capacity() <= BUSY_BYTES_MAX);
        publisher.feed(b"the end of the burst").expect("fed");
        publisher.sent(publisher.waiting_bytes());
        assert!(publisher.frames.capacity() <= IDLE_BYTES_MAX);
    }

    #[test]
    fn an_answer_confirms_what_was_sent_before_the_question() {
        let mut publisher = publisher();
        assert!(publisher.is_settled(), "nothing was sent");
        open(&mut publisher, 3);
        send(&mut publisher);
        assert!(!publisher.is_settled() && publisher.ask());
        assert!(!publisher.is_flushed() && publisher.waiting_bytes() == 0);
        write(&mut publisher);
        assert!(!publisher.ask(), "an answer is due");
        send(&mut publisher);
        answer(&mut publisher).expect("a report");
        assert!(!publisher.is_settled(), "the second message followed the question");
        assert!(publisher.ask());
        write(&mut publisher);
        answer(&mut publisher).expect("a report");
        assert!(publisher.is_settled());
        assert_eq!(publisher.take_doubt(), 0);
    }

    #[test]
    fn an_answer_without_a_question_ends_the_connection() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        assert!(matches!(answer(&mut publisher), Err(Ended::Unexpected(_))));
    }

    #[test]
    fn frames_do_not_overtake_a_question_that_is_written_in_part() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        send(&mut publisher);
        assert!(publisher.ask());
        let question = publisher.outgoing().to_vec();
        publisher.sent(5);
        publisher.feed(b"later").expect("small");
        assert_eq!(publisher.outgoing(), &question[5..]);
        publisher.sent(question.len() - 5);
        assert!(publisher.outgoing().ends_with(b"later") && publisher.waiting_bytes() == publisher.outgoing().len());
        write(&mut publisher);
        assert!(publisher.is_flushed());
    }

    #[test]
    fn what_a_lost_connection_took_is_in_doubt_once() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        (0..3).for_each(|_| send(&mut publisher));
        assert!(publisher.ask());
        write(&mut publisher);
        let goodbye = Goodbye { reason: String::new(), extensions: Vec::new() };
        assert_eq!(feed(&mut publisher, &[goodbye.into()]), Err(Ended::Goodbye));
        publisher.feed(b"waits").expect("small");
        publisher.disconnected();
        assert_eq!(publisher.take_doubt(), 3, "the one that waits is not lost");
        open(&mut publisher, 4);
        assert_eq!(publisher.take_doubt(), 0);
        write(&mut publisher);
        assert!(!publisher.is_settled() && publisher.ask(), "the next daemon is asked on its own account");
        write(&mut publisher);
        answer(&mut publisher).expect("a report");
        assert!(publisher.is_settled());
    }

    #[test]
    fn doubt_outlasts_a_reconnection_that_was_not_noticed() {
        let mut publisher = publisher();
        open(&mut publisher, 3);
        send(&mut publisher);
        publisher.disconnected();
        open(&mut publisher, 4);
        send(&mut publisher);
        assert_eq!(publisher.take_doubt(), 1);
        assert!(!publisher.is_settled(), "the second message can still be confirmed");
    }
}
