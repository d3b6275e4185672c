//! Decodes the bytes of one stream, in any chunking, into runs of data frames and control messages. It checks every length before
//! it allocates, and never copies a payload that it can pass on by reference.

use crate::codec::CodecError;
use crate::control::Control;
use crate::frame::{FLAG_OPTIONAL, Header, KIND_BATCH, KIND_REDECLARE, KIND_REPLY, Run, messages_in};
use crate::limits::{BATCH_BYTES_MAX, CONTROL_BYTES_MAX, HEADER_BYTES, META_BYTES_MAX, PAYLOAD_BYTES_MAX};
use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes that a [`Decoder::lender`] reads at a time, and the capacity of its chunk. Larger frames are collected in a buffer of
/// their own.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The same for a [`Decoder::consumer`], which does not share its chunk and benefits from fewer reads.
pub const CONSUMER_CHUNK_BYTES: usize = 256 * 1024;

/// The least for a consumer, to which its chunk shrinks while little arrives at a time. The chunk of this size is never released.
pub const CONSUMER_CHUNK_BYTES_MIN: usize = 16 * 1024;

/// How much larger the chunk of a consumer becomes after a read that filled it, and how much smaller when it needs no more.
const CHUNK_GROWTH: usize = 4;

/// Bytes that are reserved at once for a large frame: enough for a message of 1 MiB.
const FRAME_START_BYTES: usize = HEADER_BYTES + META_BYTES_MAX as usize + 1024 * 1024;

/// How many times as much as has arrived of a large frame is reserved at most: memory follows bytes, not announcements.
const FRAME_GROWTH: usize = 4;

/// A run that shows less than one part in this many of the memory that it would pin is copied into memory of its own.
const PINS_FACTOR_MAX: usize = 4;

/// One item of a stream.
#[derive(Debug, Clone)]
pub enum Item {
    /// Data frames.
    Run(Run),
    /// A data frame other than a batch whose body was [discarded](Decoder::discard_frame): one message.
    Discarded(Header),
    /// A control message.
    Control(Control),
}

/// Why the bytes of a stream are not frames. The connection cannot be used any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A data frame announces a larger payload than allowed.
    #[error("a frame announces a payload of {len} bytes; the limit is {max}")]
    PayloadTooLarge {
        /// Bytes announced.
        len: u32,
        /// Bytes allowed.
        max: u32,
    },
    /// A data frame announces more metadata than allowed, or more than its body has.
    #[error("a frame announces {len} bytes of metadata in a body of {body} bytes; the limit is {META_BYTES_MAX}")]
    MetadataTooLarge {
        /// Bytes of metadata announced.
        len: u16,
        /// Bytes of the body.
        body: u32,
    },
    /// A batch announces a larger body than allowed.
    #[error("a batch announces {len} bytes; the limit is {BATCH_BYTES_MAX}")]
    BatchTooLarge {
        /// Bytes announced.
        len: u32,
    },
    /// The lengths in a batch do not add up to its size, or there is no message in it.
    #[error("the messages of a batch of {len} bytes do not fill it exactly")]
    BadBatch {
        /// Bytes of its body.
        len: u32,
    },
    /// A control frame announces a larger body than allowed.
    #[error("a control frame of kind {kind:#04x} announces a body of {len} bytes; the limit is {CONTROL_BYTES_MAX}")]
    ControlTooLarge {
        /// Kind of the frame.
        kind: u8,
        /// Bytes announced.
        len: u32,
    },
    /// A field that must be zero is not.
    #[error("a frame of kind {kind:#04x} has a non-zero value in a reserved field: {field}")]
    Reserved {
        /// Kind of the frame.
        kind: u8,
        /// Which field.
        field: &'static str,
    },
    /// The kind of a frame is not known, and the frame must not be skipped.
    #[error("frame kind {kind:#04x} is not known in this protocol version")]
    UnknownKind {
        /// Kind of the frame.
        kind: u8,
    },
    /// The body of a control frame is not a message of its kind.
    #[error("a control frame of kind {kind:#04x} cannot be decoded")]
    Control {
        /// Kind of the frame.
        kind: u8,
        /// What is wrong with the body.
        source: CodecError,
    },
}

/// The incremental decoder of one stream.
///
/// The owner reads into the buffer that [`target`](Self::target) names and then calls [`next`](Self::next) until it
/// yields `None`:
///
/// ```
/// use broadcaster_protocol::decode::{CHUNK_BYTES, Decoder, Item};
/// use broadcaster_protocol::{ChannelId, Header, SenderId};
/// use bytes::{BufMut, BytesMut};
///
/// let header = Header::publish(ChannelId(7), SenderId::new(42, 1), 0, 5);
/// let wire = [header.as_bytes(), b"hello"].concat();
///
/// let mut chunk = BytesMut::new();
/// let mut decoder = Decoder::lender(1024);
/// for byte in wire {
///     decoder.target(&mut chunk).put_u8(byte); // any chunking, here the worst
///     if let Some(Item::Run(run)) = decoder.next(&mut chunk)? {
///         assert_eq!(run.front().unwrap().payload, b"hello");
///     }
/// }
/// assert!(!decoder.is_mid_frame());
/// # Ok::<(), broadcaster_protocol::DecodeError>(())
/// ```
///
/// The chunk may be shared by any number of decoders that are fed in turn: the rest of an incomplete frame moves into the decoder,
/// so that an idle stream needs no buffer. After an error the decoder yields the same error again.
#[derive(Debug)]
pub struct Decoder {
    payload_bytes_max: u32,
    chunk_bytes: usize,
    /// Runs may outlive the turn, so small ones must not pin a whole chunk.
    lends: bool,
    /// The previous read filled its target, so that the next one takes more.
    filled: bool,
    /// The most bytes that a consumer had at once since it was [idle](Self::idle).
    peak: usize,
    /// The most bytes that a target has reserved in the chunk since then.
    reserved: usize,
    /// The start of one incomplete frame; or what was read into room for an expected one; or what was [parked](Self::park).
    partial: BytesMut,
    /// Total bytes of the frame at the start of `partial`, as far as its bytes so far determine them.
    need: usize,
    /// Bytes to read at once if the previous frame was larger than a chunk: the next ones are likely as large.
    expect: usize,
    /// A frame that is dropped as it arrives, and the bytes of it that are still to come: a Publish or Reply frame, or one of an
    /// unknown kind that may be skipped.
    discarding: Option<(Header, usize)>,
    failed: Option<DecodeError>,
    /// Everything that is read is dropped.
    closed: bool,
}

impl Decoder {
    /// A decoder whose runs may be kept for long: a run that would pin much more memory than it contains is copied.
    pub fn lender(payload_bytes_max: u32) -> Self {
        Self {
            payload_bytes_max: payload_bytes_max.min(PAYLOAD_BYTES_MAX),
            chunk_bytes: CHUNK_BYTES,
            lends: true,
            filled: false,
            peak: 0,
            reserved: 0,
            partial: BytesMut::new(),
            need: 0,
            expect: 0,
            discarding: None,
            failed: None,
            closed: false,
        }
    }

    /// A decoder whose runs are consumed before the next read: nothing is copied.
    pub fn consumer(payload_bytes_max: u32) -> Self {
        Self { lends: false, chunk_bytes: CONSUMER_CHUNK_BYTES, ..Self::lender(payload_bytes_max) }
    }

    /// Where the next bytes of the stream must go: into `chunk`, or into the decoder's own buffer while a frame larger than a
    /// chunk is incomplete. Reserves at most [`CHUNK_BYTES`] ([`CONSUMER_CHUNK_BYTES`]) in `chunk`, or for a large frame 1 MiB or
    /// four times what has arrived of it. Everything that was [parked](Self::park) must have been decoded before.
    ///
    /// # Panics
    ///
    /// Never, if every [`next`](Self::next) was given the same `chunk`, or an empty one.
    pub fn target<'a>(&'a mut self, chunk: &'a mut BytesMut) -> Limit<&'a mut BytesMut> {
        if std::mem::take(&mut self.filled) {
            self.chunk_bytes = (self.chunk_bytes * CHUNK_GROWTH).min(CONSUMER_CHUNK_BYTES);
        }
        if self.partial.is_empty() && self.expect > 0 {
            self.need = self.expect;
        }
        if self.need > self.chunk_bytes {
            let arrived = self.partial.len();
            if self.partial.capacity() == arrived {
                // `reserve` could take up to twice as much.
                let mut larger = BytesMut::with_capacity(self.reserved_bytes(arrived));
                larger.extend_from_slice(&self.partial);
                self.partial = larger;
            }
            let room = self.partial.capacity().min(self.need) - arrived;
            return (&mut self.partial).limit(room);
        }
        self.reserved = self.reserved.max(self.chunk_bytes);
        chunk.reserve(self.chunk_bytes - chunk.len());
        if !self.partial.is_empty() {
            chunk.extend_from_slice(&self.partial);
            self.partial = BytesMut::new();
        }
        let room = self.chunk_bytes - chunk.len();
        chunk.limit(room)
    }

    /// The next item of the stream, or `None` until more bytes have been read. When it returns `None`, `chunk` is empty.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the bytes are not frames; nothing more can be decoded from this stream.
    pub fn next(&mut self, chunk: &mut BytesMut) -> Result<Option<Item>, DecodeError> {
        if self.closed {
            chunk.clear();
            return Ok(None);
        }
        if let Some(error) = &self.failed {
            chunk.clear();
            return Err(error.clone());
        }
        loop {
            if let Some((header, left)) = self.discarding.take() {
                let source = if self.partial.is_empty() { &mut *chunk } else { &mut self.partial };
                let size = left.min(source.len());
                source.advance(size);
                self.release_if_empty();
                if size < left {
                    self.discarding = Some((header, left - size));
                    return Ok(None);
                }
                if header.is_data() {
                    return Ok(Some(Item::Discarded(header)));
                }
            }
            let own = !self.partial.is_empty();
            let pinned = if own { self.need } else { self.chunk_bytes };
            let source = if own { &mut self.partial } else { &mut *chunk };
            if !self.lends {
                self.filled |= source.len() >= pinned;
                self.peak = self.peak.max(source.len());
            }
            match scan(source, self.payload_bytes_max) {
                Ok(Scan::Incomplete { .. }) if source.is_empty() => {
                    // Room was made for a frame like the one before, and nothing arrived.
                    self.release_if_empty();
                    return Ok(None);
                }
                Ok(Scan::Incomplete { need }) => {
                    if !(own && need == self.need) {
                        let mut rest = BytesMut::with_capacity(need.min(FRAME_START_BYTES.max(source.len())));
                        rest.extend_from_slice(source);
                        source.clear();
                        self.partial = rest;
                        self.need = need;
                    }
                    return Ok(None);
                }
                Ok(Scan::Run { first_bytes, messages, size }) => {
                    self.expect = expected_bytes(first_bytes, self.chunk_bytes);
                    let (bytes, pinned) = if self.lends && size * PINS_FACTOR_MAX < pinned {
                        let copy = Bytes::copy_from_slice(&source[..size]);
                        source.advance(size);
                        (copy, size)
                    } else {
                        (source.split_to(size).freeze(), pinned)
                    };
                    self.release_if_empty();
                    return Ok(Some(Item::Run(Run::from_scanned(messages, bytes, pinned))));
                }
                Ok(Scan::Control { kind, size }) => {
                    let control = Control::decode(kind, &source[HEADER_BYTES..size]);
                    source.advance(size);
                    self.expect = 0;
                    self.release_if_empty();
                    match control {
                        Some(Ok(control)) => return Ok(Some(Item::Control(control))),
                        Some(Err(source)) => return Err(self.fail(chunk, DecodeError::Control { kind, source })),
                        None => return Err(self.fail(chunk, DecodeError::UnknownKind { kind })),
                    }
                }
                Ok(Scan::Skip(header)) => {
                    self.expect = 0;
                    self.discarding = Some((header, header.frame_bytes()));
                }
                Err(error) => return Err(self.fail(chunk, error)),
            }
        }
    }

    /// Releases the memory that only a busy stream needs: nothing arrives for now. The next reads are smaller if the chunk was larger
    /// than what arrived at once since the last call. For a [`consumer`](Self::consumer), after [`next`](Self::next) has returned
    /// `None`, or after a read to the [`target`](Self::target) that found nothing.
    ///
    /// Returns whether the next target reserves more than [`CONSUMER_CHUNK_BYTES_MIN`], so that it is better to wait before.
    pub fn idle(&mut self, chunk: &mut BytesMut) -> bool {
        debug_assert!(!self.lends, "a lender's chunk serves other streams");
        if self.peak < self.chunk_bytes / CHUNK_GROWTH {
            self.chunk_bytes = (self.chunk_bytes / CHUNK_GROWTH).max(CONSUMER_CHUNK_BYTES_MIN);
        }
        (self.filled, self.peak, self.expect) = (false, 0, 0);
        if std::mem::take(&mut self.reserved) > CONSUMER_CHUNK_BYTES_MIN {
            let chunk = std::mem::take(chunk);
            if !chunk.is_empty() {
                // The start of a frame, which the last target took over.
                let mut rest = BytesMut::with_capacity(self.need);
                rest.extend_from_slice(&chunk);
                self.partial = rest;
            }
        }
        self.release_if_empty();
        self.chunk_bytes > CONSUMER_CHUNK_BYTES_MIN
    }

    /// Changes the largest allowed payload of every frame that is not decoded yet, an incomplete one included.
    pub fn set_payload_bytes_max(&mut self, payload_bytes_max: u32) {
        self.payload_bytes_max = payload_bytes_max.min(PAYLOAD_BYTES_MAX);
    }

    /// Moves what is left in `chunk` into the decoder, so that the chunk can serve another stream before this one is decoded
    /// any further. Continue with [`next`](Self::next) before reading more.
    pub fn park(&mut self, chunk: &mut BytesMut) {
        if !chunk.is_empty() && !self.closed && self.failed.is_none() {
            debug_assert!(self.partial.is_empty(), "a decoder with its own buffer leaves nothing in the chunk");
            self.partial = BytesMut::from(&chunk[..]);
            self.need = self.partial.len();
        }
        chunk.clear();
    }

    /// The header of the incomplete data frame at the start of what the decoder holds, once all of the header has arrived and
    /// if the sizes that it announces are allowed. A batch never counts: it is small, and only its body has the number of its
    /// messages.
    pub fn incomplete_frame(&self) -> Option<Header> {
        let header = Header::peek(&self.partial).filter(|_| self.discarding.is_none())?;
        let is_incomplete = header.is_single() && header.frame_bytes() > self.partial.len();
        (is_incomplete && check(&header, self.payload_bytes_max).is_ok()).then_some(header)
    }

    /// Drops what has arrived of an [incomplete frame](Self::incomplete_frame) and, as it arrives, the rest of it. When the
    /// frame is complete, [`next`](Self::next) yields [`Item::Discarded`] in its place. Returns whether there is such a frame.
    pub fn discard_frame(&mut self) -> bool {
        let Some(header) = self.incomplete_frame() else { return false };
        self.discarding = Some((header, header.frame_bytes() - self.partial.len()));
        self.partial = BytesMut::new();
        (self.need, self.expect) = (0, 0);
        true
    }

    /// Drops an incomplete frame; from now on everything that is read is dropped.
    pub fn close(&mut self) {
        self.partial = BytesMut::new();
        (self.need, self.expect, self.discarding) = (0, 0, None);
        self.closed = true;
    }

    /// Whether the stream stops inside a frame, or before what was [parked](Self::park).
    pub fn is_mid_frame(&self) -> bool {
        !self.partial.is_empty() || self.discarding.is_some()
    }

    /// Bytes that have arrived and are not decoded: those of an incomplete frame, or those that were [parked](Self::park). Room
    /// that is reserved for the rest of the frame, and has not been written to, does not count.
    pub fn held_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Memory for a frame of which this many bytes have arrived.
    fn reserved_bytes(&self, arrived: usize) -> usize {
        self.need.min(FRAME_START_BYTES.max(FRAME_GROWTH * arrived))
    }

    /// Releases an empty buffer: an idle stream must not keep it.
    fn release_if_empty(&mut self) {
        if self.partial.is_empty() {
            self.partial = BytesMut::new();
            self.need = 0;
        }
    }

    fn fail(&mut self, chunk: &mut BytesMut, error: DecodeError) -> DecodeError {
        chunk.clear();
        self.partial.clear();
        self.release_if_empty();
        self.expect = 0;
        self.failed = Some(error.clone());
        error
    }
}

/// How much to read at once after a frame of `frame_bytes`: as many such frames as fit into four chunks; 0 for the usual chunk.
fn expected_bytes(frame_bytes: usize, chunk_bytes: usize) -> usize {
    if frame_bytes <= chunk_bytes { 0 } else { frame_bytes * (4 * chunk_bytes / frame_bytes).max(1) }
}

enum Scan {
    /// The first frame is not complete; it has `need` bytes in total, as far as its bytes so far determine them.
    Incomplete { need: usize },
    /// Consecutive data frames with `messages` messages have `size` bytes, the first of them `first_bytes`.
    Run { first_bytes: usize, messages: u64, size: usize },
    /// One control frame has `size` bytes.
    Control { kind: u8, size: usize },
    /// A frame of an unknown kind follows that may be skipped. It may be incomplete.
    Skip(Header),
}

#[inline]
fn scan(bytes: &[u8], payload_bytes_max: u32) -> Result<Scan, DecodeError> {
    let Some(first) = Header::peek(bytes) else { return Ok(Scan::Incomplete { need: HEADER_BYTES }) };
    if is_skippable(&first) {
        return Ok(Scan::Skip(first));
    }
    check(&first, payload_bytes_max)?;
    let mut size = first.frame_bytes();
    if bytes.len() < size {
        return Ok(Scan::Incomplete { need: size });
    }
    if !first.is_data() {
        return Ok(Scan::Control { kind: first.kind(), size });
    }
    let len = first.body_bytes();
    let mut messages = count(&first, &bytes[HEADER_BYTES..size]).ok_or(DecodeError::BadBatch { len })?;
    if matches!(first.kind(), KIND_REPLY | KIND_REDECLARE) {
        // The next one may be for another request or inbox, or have another number that was used before.
        return Ok(Scan::Run { first_bytes: size, messages, size });
    }
    // A frame that does not continue the run, for whatever reason, is examined again as the first frame of the next item.
    while let Some(header) = Header::peek(&bytes[size..]) {
        let expected = first.sequence().wrapping_add(messages);
        if !header.continues(&first) || header.sequence() != expected || !fits(&header, payload_bytes_max) {
            break;
        }
        let end = size + header.frame_bytes();
        let Some(body) = bytes.get(size + HEADER_BYTES..end) else { break };
        let Some(more) = count(&header, body) else { break };
        messages += more;
        size = end;
    }
    Ok(Scan::Run { first_bytes: first.frame_bytes(), messages, size })
}

/// Whether the frame is of an unknown kind and may be skipped. Such a frame may be as large as a data frame, and use every field.
fn is_skippable(header: &Header) -> bool {
    header.flags() & FLAG_OPTIONAL != 0
        && !header.is_data()
        && !Control::is_known(header.kind())
        && header.body_bytes() <= PAYLOAD_BYTES_MAX
}

/// The number of messages of a data frame; `None` if it is a malformed batch.
#[inline]
fn count(header: &Header, body: &[u8]) -> Option<u64> {
    if header.kind() == KIND_BATCH { messages_in(body).ok() } else { Some(1) }
}

/// Whether the sizes that the header of a data frame announces are allowed.
#[inline]
fn fits(header: &Header, payload_bytes_max: u32) -> bool {
    match header.kind() {
        KIND_BATCH => header.meta_bytes() == 0 && header.body_bytes() <= BATCH_BYTES_MAX,
        _ => {
            let meta_bytes = header.meta_bytes();
            let meta_fits = meta_bytes <= META_BYTES_MAX && u32::from(meta_bytes) <= header.body_bytes();
            meta_fits && header.payload_bytes() <= payload_bytes_max
        }
    }
}

fn check(header: &Header, payload_bytes_max: u32) -> Result<(), DecodeError> {
    let (kind, len) = (header.kind(), header.body_bytes());
    if let Some(field) = header.reserved_violation() {
        return Err(DecodeError::Reserved { kind, field });
    }
    if !header.is_data() {
        return if len > CONTROL_BYTES_MAX { Err(DecodeError::ControlTooLarge { kind, len }) } else { Ok(()) };
    }
    if fits(header, payload_bytes_max) {
        return Ok(());
    }
    if kind == KIND_BATCH {
        return Err(DecodeError::BatchTooLarge { len });
    }
    let meta_bytes = header.meta_bytes();
    if meta_bytes > META_BYTES_MAX || u32::from(meta_bytes) > len {
        return Err(DecodeError::MetadataTooLarge { len: meta_bytes, body: len });
    }
    Err(DecodeError::PayloadTooLarge { len: header.payload_bytes(), max: payload_bytes_max })
}
