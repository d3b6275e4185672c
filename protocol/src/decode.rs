//! Bytes of one stream, in any chunking, become runs of frames and control messages. It refuses before it allocates,
//! and never copies a payload that it can hand on by reference.

use crate::codec::CodecError;
use crate::control::Control;
use crate::frame::{Header, KIND_BATCH, Run, messages_in};
use crate::limits::{BATCH_BYTES_MAX, CONTROL_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes that a [`Decoder::lender`] is fed at a time, and the capacity of its chunk. Larger frames are collected in a buffer
/// of their own.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The same for a [`Decoder::consumer`], which has its chunk to itself and gains by fewer reads.
pub const CONSUMER_CHUNK_BYTES: usize = 256 * 1024;

/// A run that shows less than one part in this many of the memory that it would pin is copied into memory of its own.
const PINS_FACTOR_MAX: usize = 4;

/// One thing that a stream said.
#[derive(Debug, Clone)]
pub enum Item {
    /// Publish frames.
    Run(Run),
    /// A control message.
    Control(Control),
}

/// Why the bytes of a stream are not frames. The connection can not be used any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A publish frame announces more payload than allowed.
    #[error("a frame announces a payload of {len} bytes; the limit is {max}")]
    PayloadTooLarge {
        /// Bytes announced.
        len: u32,
        /// Bytes allowed.
        max: u32,
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
    /// A bit that must be zero is not.
    #[error("a frame of kind {kind:#04x} has a non-zero value in a reserved place: {field}")]
    Reserved {
        /// Kind of the frame.
        kind: u8,
        /// Which place.
        field: &'static str,
    },
    /// A frame of a kind that is not known and must not be skipped.
    #[error("frame kind {kind:#04x} is not known in this protocol version")]
    UnknownKind {
        /// Kind of the frame.
        kind: u8,
    },
    /// The body of a control frame is not the message that its kind says.
    #[error("a control frame of kind {kind:#04x} can not be read")]
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
/// The chunk may be shared by any number of decoders that are fed in turn: what is left of an incomplete frame moves
/// into the decoder, so that an idle stream costs no buffer. After an error the decoder yields the same error again.
#[derive(Debug)]
pub struct Decoder {
    payload_bytes_max: u32,
    chunk_bytes: usize,
    /// Runs may outlive the turn, so small ones must not pin a whole chunk.
    lends: bool,
    /// The start of one incomplete frame; or, when `expect` led the way, whatever was read in its place.
    partial: BytesMut,
    /// Bytes that the frame at the start of `partial` takes in all, as far as its bytes so far tell.
    need: usize,
    /// Bytes to read at once if the previous frame was larger than a chunk: the next ones are likely as large.
    expect: usize,
    failed: Option<DecodeError>,
    given_up: bool,
}

impl Decoder {
    /// A decoder whose runs may be kept for long: a run that would pin much more memory than it shows is copied.
    pub fn lender(payload_bytes_max: u32) -> Self {
        Self {
            payload_bytes_max: payload_bytes_max.min(PAYLOAD_BYTES_MAX),
            chunk_bytes: CHUNK_BYTES,
            lends: true,
            partial: BytesMut::new(),
            need: 0,
            expect: 0,
            failed: None,
            given_up: false,
        }
    }

    /// A decoder whose runs are used up before the next read: nothing is copied.
    pub fn consumer(payload_bytes_max: u32) -> Self {
        Self { lends: false, chunk_bytes: CONSUMER_CHUNK_BYTES, ..Self::lender(payload_bytes_max) }
    }

    /// Where the next bytes of the stream must go: into `chunk`, or into the decoder's own buffer while a frame larger
    /// than a chunk is under way. Reserves at most [`CHUNK_BYTES`] ([`CONSUMER_CHUNK_BYTES`]) in `chunk`, or the checked size of one frame.
    ///
    /// # Panics
    ///
    /// Never, if every [`next`](Self::next) got the same `chunk`, or an empty one.
    pub fn target<'a>(&'a mut self, chunk: &'a mut BytesMut) -> Limit<&'a mut BytesMut> {
        if self.partial.is_empty() && self.expect > 0 {
            self.need = self.expect;
        }
        if self.need > self.chunk_bytes {
            self.partial.reserve(self.need - self.partial.len());
            let missing = self.need - self.partial.len();
            return (&mut self.partial).limit(missing);
        }
        chunk.reserve(self.chunk_bytes - chunk.len());
        if !self.partial.is_empty() {
            chunk.extend_from_slice(&self.partial);
            self.partial = BytesMut::new();
        }
        let room = self.chunk_bytes - chunk.len();
        chunk.limit(room)
    }

    /// The next thing that the stream said, or `None` until more bytes were read. When it returns `None`, `chunk` is
    /// empty.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the bytes are not frames; nothing more can be decoded from this stream.
    pub fn next(&mut self, chunk: &mut BytesMut) -> Result<Option<Item>, DecodeError> {
        if self.given_up {
            chunk.clear();
            return Ok(None);
        }
        if let Some(error) = &self.failed {
            chunk.clear();
            return Err(error.clone());
        }
        loop {
            let own = !self.partial.is_empty();
            let pinned = if own { self.need } else { self.chunk_bytes };
            let source = if own { &mut self.partial } else { &mut *chunk };
            match scan(source, self.payload_bytes_max) {
                Ok(Scan::Incomplete { .. }) if source.is_empty() => {
                    // Room was made for a frame like the one before, and nothing came.
                    self.release_if_empty();
                    return Ok(None);
                }
                Ok(Scan::Incomplete { need }) => {
                    // In a buffer with less room, growing would take up to twice what the frame needs.
                    let goes_on = own && need == self.need && source.capacity() >= need;
                    if !goes_on {
                        let mut rest = BytesMut::with_capacity(need);
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
                Ok(Scan::Control { kind, flags, size }) => {
                    let control = Control::decode(kind, &source[HEADER_BYTES..size]);
                    source.advance(size);
                    self.expect = 0;
                    self.release_if_empty();
                    match control {
                        Some(Ok(control)) => return Ok(Some(Item::Control(control))),
                        Some(Err(source)) => return Err(self.fail(chunk, DecodeError::Control { kind, source })),
                        None if Control::is_optional(flags) => {}
                        None => return Err(self.fail(chunk, DecodeError::UnknownKind { kind })),
                    }
                }
                Err(error) => return Err(self.fail(chunk, error)),
            }
        }
    }

    /// Changes the largest payload that is allowed from the next frame on.
    pub fn set_payload_bytes_max(&mut self, payload_bytes_max: u32) {
        self.payload_bytes_max = payload_bytes_max.min(PAYLOAD_BYTES_MAX);
    }

    /// Forgets a frame under way; from now on whatever is read is dropped.
    pub fn give_up(&mut self) {
        self.partial = BytesMut::new();
        (self.need, self.expect) = (0, 0);
        self.given_up = true;
    }

    /// Whether the stream has stopped inside a frame.
    pub fn is_mid_frame(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Bytes of memory that the decoder holds for a frame under way.
    pub fn held_bytes(&self) -> usize {
        if self.partial.is_empty() { 0 } else { self.need }
    }

    /// Lets go of a used-up buffer: an idle stream, and a run that was handed on, must not keep it.
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

/// How much to read in one go behind a frame of `frame_bytes`: as many such frames as fit into four chunks; 0 for the usual
/// chunk.
fn expected_bytes(frame_bytes: usize, chunk_bytes: usize) -> usize {
    if frame_bytes <= chunk_bytes { 0 } else { frame_bytes * (4 * chunk_bytes / frame_bytes).max(1) }
}

enum Scan {
    /// The first frame is not complete; it takes `need` bytes in all, as far as its bytes so far tell.
    Incomplete { need: usize },
    /// Consecutive data frames with `messages` messages take `size` bytes, the first of them `first_bytes`.
    Run { first_bytes: usize, messages: u64, size: usize },
    /// One control frame takes `size` bytes.
    Control { kind: u8, flags: u8, size: usize },
}

#[inline]
fn scan(bytes: &[u8], payload_bytes_max: u32) -> Result<Scan, DecodeError> {
    let Some(first) = Header::peek(bytes) else { return Ok(Scan::Incomplete { need: HEADER_BYTES }) };
    check(first, payload_bytes_max)?;
    let mut size = first.frame_bytes();
    if bytes.len() < size {
        return Ok(Scan::Incomplete { need: size });
    }
    if !first.is_data() {
        return Ok(Scan::Control { kind: first.kind(), flags: first.flags(), size });
    }
    let len = first.payload_bytes();
    let mut messages = count(first, &bytes[HEADER_BYTES..size]).ok_or(DecodeError::BadBatch { len })?;
    let payload_bytes_max = if first.kind() == KIND_BATCH { BATCH_BYTES_MAX } else { payload_bytes_max };
    // What does not continue the run, for whatever reason, is looked at again as the first frame of what comes next.
    while let Some(header) = Header::peek(&bytes[size..]) {
        let due = first.sequence().wrapping_add(messages);
        if !header.continues(first) || header.sequence() != due || header.payload_bytes() > payload_bytes_max {
            break;
        }
        let end = size + header.frame_bytes();
        let Some(body) = bytes.get(size + HEADER_BYTES..end) else { break };
        let Some(more) = count(header, body) else { break };
        messages += more;
        size = end;
    }
    Ok(Scan::Run { first_bytes: first.frame_bytes(), messages, size })
}

/// The messages of a data frame; `None` if it is a batch that does not add up.
#[inline]
fn count(header: &Header, body: &[u8]) -> Option<u64> {
    if header.kind() == KIND_BATCH { messages_in(body).ok() } else { Some(1) }
}

fn check(header: &Header, payload_bytes_max: u32) -> Result<(), DecodeError> {
    let (kind, len) = (header.kind(), header.payload_bytes());
    if let Some(field) = header.reserved_violation() {
        return Err(DecodeError::Reserved { kind, field });
    }
    if !header.is_data() {
        return if len > CONTROL_BYTES_MAX { Err(DecodeError::ControlTooLarge { kind, len }) } else { Ok(()) };
    }
    if kind == KIND_BATCH {
        return if len > BATCH_BYTES_MAX { Err(DecodeError::BatchTooLarge { len }) } else { Ok(()) };
    }
    if len > payload_bytes_max {
        return Err(DecodeError::PayloadTooLarge { len, max: payload_bytes_max });
    }
    Ok(())
}
