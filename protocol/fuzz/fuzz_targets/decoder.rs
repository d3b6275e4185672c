//! Decodes any bytes in any pieces. Lender and consumer yield the same items as for one piece, and neither panics. A frame that
//! is discarded affects no other.
#![no_main]

use broadcaster_protocol::{Control, DecodeError, Decoder, Header, Item};
use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;

const PAYLOAD_BYTES_MAX: u32 = 1 << 20;

/// What a decoder yields for a stream, and how the stream ends.
#[derive(Debug, Default, PartialEq)]
struct Decoded {
    events: Vec<Event>,
    error: Option<DecodeError>,
    mid_frame: bool,
}

#[derive(Debug, PartialEq)]
enum Event {
    /// The bytes of neighbouring runs, joined.
    Frames(Vec<u8>),
    /// The header of a discarded frame.
    Discarded(Vec<u8>),
    Control(Control),
}

impl Decoded {
    /// Decodes everything that has been read; `false` after an error.
    fn decode(&mut self, decoder: &mut Decoder, chunk: &mut BytesMut) -> bool {
        let continues = loop {
            match (decoder.next(chunk), self.events.last_mut()) {
                (Ok(Some(Item::Run(run))), Some(Event::Frames(bytes))) => bytes.extend_from_slice(run.bytes()),
                (Ok(Some(Item::Run(run))), _) => self.events.push(Event::Frames(run.bytes().to_vec())),
                (Ok(Some(Item::Discarded(header))), _) => {
                    self.events.push(Event::Discarded(header.as_bytes().to_vec()))
                }
                (Ok(Some(Item::Control(control))), _) => self.events.push(Event::Control(control)),
                (Ok(None), _) => break true,
                (Err(error), _) => {
                    assert_eq!(decoder.next(chunk).unwrap_err(), error);
                    assert_eq!(decoder.held_bytes(), 0);
                    self.error = Some(error);
                    break false;
                }
            }
        };
        assert!(chunk.is_empty());
        self.mid_frame = decoder.is_mid_frame();
        continues
    }

    /// Bytes of the stream that the events account for, apart from control frames.
    fn data_bytes(&self) -> usize {
        let bytes = |event: &Event| match event {
            Event::Frames(bytes) => bytes.len(),
            Event::Discarded(header) => Header::peek(header).map_or(0, |header| header.frame_bytes()),
            Event::Control(_) => 0,
        };
        self.events.iter().map(bytes).sum()
    }

    fn controls(&self) -> impl Iterator<Item = &Control> {
        self.events.iter().filter_map(|event| match event {
            Event::Control(control) => Some(control),
            _ => None,
        })
    }
}

fn in_one_piece(wire: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    decoded.decode(&mut Decoder::consumer(PAYLOAD_BYTES_MAX), &mut BytesMut::from(wire));
    decoded
}

/// Decodes `wire` in pieces. The lowest bit of a size parks the piece first; `discards` discards every incomplete frame whose
/// piece has an even number.
fn in_pieces(mut decoder: Decoder, mut wire: &[u8], sizes: &[u8], discards: bool) -> Decoded {
    let (mut decoded, mut chunk) = (Decoded::default(), BytesMut::new());
    let mut sizes = sizes.iter().cycle();
    for piece in 0.. {
        if wire.is_empty() {
            break;
        }
        let mut target = decoder.target(&mut chunk);
        let (size, parks) = match sizes.next() {
            // From one byte to more than a chunk; the last values are large reads.
            Some(&size @ 0..=200) => (usize::from(size), size % 2 == 1),
            Some(&size) => (usize::from(size - 200) * 2048, size % 2 == 1),
            None => (usize::MAX, false),
        };
        let (bytes, rest) = wire.split_at(size.max(1).min(wire.len()).min(target.remaining_mut()));
        target.put_slice(bytes);
        wire = rest;
        if parks {
            decoder.park(&mut chunk);
        }
        if !decoded.decode(&mut decoder, &mut chunk) {
            break;
        }
        if discards && piece % 2 == 0 && decoder.discard_frame() {
            assert!(decoder.held_bytes() == 0 && decoder.is_mid_frame());
        }
    }
    decoded
}

fuzz_target!(|data: &[u8]| {
    let Some((&count, rest)) = data.split_first() else { return };
    let (sizes, wire) = rest.split_at(usize::from(count % 16).min(rest.len()));
    let whole = in_one_piece(wire);
    for decoder in [Decoder::lender, Decoder::consumer] {
        assert_eq!(whole, in_pieces(decoder(PAYLOAD_BYTES_MAX), wire, sizes, false));
        let with_gaps = in_pieces(decoder(PAYLOAD_BYTES_MAX), wire, sizes, true);
        assert_eq!((&whole.error, whole.mid_frame), (&with_gaps.error, with_gaps.mid_frame));
        assert_eq!(whole.data_bytes(), with_gaps.data_bytes());
        assert!(whole.controls().eq(with_gaps.controls()));
    }
});
