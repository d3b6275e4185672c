//! Any bytes in any pieces: lender and consumer make the same of them as of one piece, and neither panics.
#![no_main]

use broadcaster_protocol::{Control, DecodeError, Decoder, Item};
use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;

const PAYLOAD_BYTES_MAX: u32 = 1 << 20;

/// What a stream said: the bytes of neighbouring runs, joined, and control messages; and how it ended.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    said: Vec<Said>,
    error: Option<DecodeError>,
    mid_frame: bool,
}

#[derive(Debug, PartialEq)]
enum Said {
    Frames(Vec<u8>),
    Control(Control),
}

impl Heard {
    /// Takes all that the decoder has; `false` after an error.
    fn hear(&mut self, decoder: &mut Decoder, chunk: &mut BytesMut) -> bool {
        let goes_on = loop {
            match (decoder.next(chunk), self.said.last_mut()) {
                (Ok(Some(Item::Run(run))), Some(Said::Frames(bytes))) => bytes.extend_from_slice(run.bytes()),
                (Ok(Some(Item::Run(run))), _) => self.said.push(Said::Frames(run.bytes().to_vec())),
                (Ok(Some(Item::Control(control))), _) => self.said.push(Said::Control(control)),
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
        goes_on
    }
}

fn in_one_piece(wire: &[u8]) -> Heard {
    let mut heard = Heard::default();
    heard.hear(&mut Decoder::consumer(PAYLOAD_BYTES_MAX), &mut BytesMut::from(wire));
    heard
}

fn in_pieces(mut decoder: Decoder, mut wire: &[u8], sizes: &[u8]) -> Heard {
    let (mut heard, mut chunk) = (Heard::default(), BytesMut::new());
    let mut sizes = sizes.iter().cycle();
    while !wire.is_empty() {
        let mut target = decoder.target(&mut chunk);
        // From a byte to more than a chunk; the last sizes of a byte stand for large reads.
        let size = match sizes.next() {
            Some(&size @ 0..=200) => usize::from(size),
            Some(&size) => usize::from(size - 200) * 2048,
            None => usize::MAX,
        };
        let (piece, rest) = wire.split_at(size.max(1).min(wire.len()).min(target.remaining_mut()));
        target.put_slice(piece);
        wire = rest;
        if !heard.hear(&mut decoder, &mut chunk) {
            break;
        }
    }
    heard
}

fuzz_target!(|data: &[u8]| {
    let Some((&count, rest)) = data.split_first() else { return };
    let (sizes, wire) = rest.split_at(usize::from(count % 16).min(rest.len()));
    let whole = in_one_piece(wire);
    assert_eq!(whole, in_pieces(Decoder::lender(PAYLOAD_BYTES_MAX), wire, sizes));
    assert_eq!(whole, in_pieces(Decoder::consumer(PAYLOAD_BYTES_MAX), wire, sizes));
});
