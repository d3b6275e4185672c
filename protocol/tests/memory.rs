//! Counts the decoder's allocations. It never holds more memory than it reports, and never allocates for a length that has not been
//! checked.
#![allow(unsafe_code, clippy::unwrap_used)]

mod counting;

use broadcaster_protocol::control::{Control, Extension, Report, kind};
use broadcaster_protocol::decode::{CHUNK_BYTES, CONSUMER_CHUNK_BYTES, CONSUMER_CHUNK_BYTES_MIN};
use broadcaster_protocol::limits::{CONTROL_BYTES_MAX, HEADER_BYTES};
use broadcaster_protocol::{ChannelId, DecodeError, Decoder, Header, Item, SenderId};
use bytes::{BufMut, BytesMut};
use counting::{ALLOCATIONS, Counting, LIVE, PEAK};

/// Room for the bookkeeping of reference counts, error texts and the like.
const SLACK_BYTES: usize = 1024;

const MIB: usize = 1024 * 1024;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that this thread has allocated now.
fn live() -> usize {
    LIVE.get().unsigned_abs()
}

/// The result of `act`, and the most bytes that it had allocated at any time.
fn peak_of<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let value = act();
    (value, (PEAK.get() - before).unsigned_abs())
}

fn publish(sequence: u64, len: usize) -> Vec<u8> {
    let mut wire = Vec::with_capacity(HEADER_BYTES + len);
    let header = Header::publish(ChannelId(1), SenderId::new(1, 1), sequence, u32::try_from(len).unwrap());
    wire.extend_from_slice(header.as_bytes());
    wire.resize(HEADER_BYTES + len, 0x5a);
    wire
}

/// One read: at most `max` bytes of `wire` go where the decoder wants them, then everything is decoded. Returns the number of bytes
/// that were read.
fn read(
    decoder: &mut Decoder,
    chunk: &mut BytesMut,
    wire: &[u8],
    max: usize,
    items: &mut Vec<Item>,
) -> Result<usize, DecodeError> {
    let mut target = decoder.target(chunk);
    let len = wire.len().min(max).min(target.remaining_mut());
    target.put_slice(&wire[..len]);
    while let Some(item) = decoder.next(chunk)? {
        items.push(item);
    }
    Ok(len)
}

/// Reads all of `wire`, and then once more without data. Drops the items after each read.
fn read_all(decoder: &mut Decoder, chunk: &mut BytesMut, mut wire: &[u8], max: usize) {
    loop {
        let len = read(decoder, chunk, wire, max, &mut Vec::new()).unwrap();
        if len == 0 {
            return;
        }
        wire = &wire[len..];
    }
}

#[test]
fn an_idle_decoder_holds_nothing() {
    for (name, mut decoder) in [("lender", Decoder::lender(u32::MAX)), ("consumer", Decoder::consumer(u32::MAX))] {
        for len in [0, 10, CHUNK_BYTES - HEADER_BYTES, CHUNK_BYTES, 200_000, MIB] {
            for max in [1000, CHUNK_BYTES, usize::MAX] {
                let wire = [publish(0, len), publish(1, len), publish(2, len)].concat();
                let before = live();
                let mut chunk = BytesMut::new();
                read_all(&mut decoder, &mut chunk, &wire, max);
                drop(chunk);
                assert_eq!(decoder.held_bytes(), 0);
                let held = live().saturating_sub(before);
                assert_eq!(held, 0, "{name}: {held} bytes remain after frames of {len} bytes in reads of {max}");
            }
        }
    }
}

/// The room for the rest of a frame is reserved at once, but only what has arrived is in use: the pages of the rest are untouched.
#[test]
fn an_incomplete_frame_holds_what_has_arrived_and_reserves_its_size() {
    for (name, mut decoder) in [("lender", Decoder::lender(u32::MAX)), ("consumer", Decoder::consumer(u32::MAX))] {
        // After a large frame, the buffer for the next read has the same size. Here it gets small frames and the start of another.
        let small = publish(1, 100);
        let large = publish(2, MIB);
        let chunk_bytes = decoder.target(&mut BytesMut::new()).remaining_mut();
        for smalls in [0, 1, 5] {
            let wire = [publish(0, MIB), small.repeat(smalls), large.clone(), large.clone()].concat();
            let (first_end, smalls_end) = (large.len(), large.len() + smalls * small.len());
            let before = live();
            let mut chunk = BytesMut::new();
            let mut at = 0;
            while at < wire.len() {
                at += read(&mut decoder, &mut chunk, &wire[at..], 150_000, &mut Vec::new()).unwrap();
                let arrived = match at {
                    _ if at < first_end => at,
                    _ if at < smalls_end => (at - first_end) % small.len(),
                    _ => (at - smalls_end) % large.len(),
                };
                assert_eq!(decoder.held_bytes(), arrived, "{name} at {at}");
                let allocated = live().saturating_sub(before + chunk_bytes);
                let reserved = if arrived > 0 { large.len() } else { 0 };
                assert!(allocated <= reserved + SLACK_BYTES, "{name}: {allocated} bytes are allocated at {at}");
            }
        }
    }
}

#[test]
fn a_frame_in_many_pieces_is_not_copied_with_each() {
    for (name, mut decoder) in [("lender", Decoder::lender(u32::MAX)), ("consumer", Decoder::consumer(u32::MAX))] {
        let wire = publish(0, MIB);
        let mut chunk = BytesMut::new();
        let before = ALLOCATIONS.get();
        read_all(&mut decoder, &mut chunk, &wire, 2000);
        let allocations = ALLOCATIONS.get() - before;
        assert!(allocations < 20, "{name}: {allocations} allocations for one frame in {} pieces", wire.len() / 2000);
    }
}

#[test]
fn a_small_part_of_a_chunk_does_not_pin_it() {
    for (len, is_copied) in [(CHUNK_BYTES / 3, false), (CHUNK_BYTES / 5, true), (100, true)] {
        let (mut chunk, mut items) = (BytesMut::new(), Vec::new());
        read(&mut Decoder::lender(u32::MAX), &mut chunk, &publish(0, len), usize::MAX, &mut items).unwrap();
        let Some(Item::Run(run)) = items.first() else { panic!("{items:?}") };
        assert_eq!(run.pinned_bytes(), if is_copied { HEADER_BYTES + len } else { CHUNK_BYTES });
    }
}

#[test]
fn memory_for_a_frame_follows_the_bytes_that_arrive() {
    const AT_ONCE: usize = MIB + 8192;
    for (name, mut decoder) in [("lender", Decoder::lender(u32::MAX)), ("consumer", Decoder::consumer(u32::MAX))] {
        let wire = publish(0, 64 * MIB);
        let (mut chunk, mut at, mut items) = (BytesMut::new(), 0, Vec::new());
        let before = live();
        while at < wire.len() {
            let size = if at == 0 { HEADER_BYTES + 1 } else { 300_000 };
            at += read(&mut decoder, &mut chunk, &wire[at..], size, &mut items).unwrap();
            decoder.target(&mut chunk);
            let allocated = live().saturating_sub(before + CONSUMER_CHUNK_BYTES);
            assert!(allocated <= AT_ONCE.max(4 * at), "{name}: {allocated} bytes are allocated for {at}");
        }
        assert!(matches!(items[..], [Item::Run(_)]), "{name}");
    }
}

#[test]
fn a_consumer_reads_more_at_once_while_there_is_more_and_less_when_it_was_idle() {
    let mut decoder = Decoder::consumer(u32::MAX);
    let mut chunk = BytesMut::new();
    let room = |decoder: &mut Decoder, chunk: &mut BytesMut| decoder.target(chunk).remaining_mut();
    assert_eq!(room(&mut decoder, &mut chunk), CONSUMER_CHUNK_BYTES);
    while decoder.idle(&mut chunk) {} // until little is read at once
    assert_eq!((room(&mut decoder, &mut BytesMut::new()), chunk.capacity()), (CONSUMER_CHUNK_BYTES_MIN, 0));
    let wire: Vec<u8> = (0..200).flat_map(|sequence| publish(sequence, 10_000)).collect();
    let (mut at, mut rooms) = (0, Vec::new());
    while at < wire.len() {
        rooms.push(room(&mut decoder, &mut chunk));
        let len = read(&mut decoder, &mut chunk, &wire[at..], usize::MAX, &mut Vec::new()).unwrap();
        at += len;
    }
    // The start of an incomplete frame takes a part of the room.
    for (step, most) in [(1, 4 * CONSUMER_CHUNK_BYTES_MIN), (2, CONSUMER_CHUNK_BYTES), (3, CONSUMER_CHUNK_BYTES)] {
        assert!((most - 11_000..=most).contains(&rooms[step]), "{rooms:?}");
    }
    // As much may arrive again, and no memory is kept until then.
    assert!(decoder.idle(&mut chunk));
    assert_eq!((chunk.capacity(), room(&mut decoder, &mut chunk)), (0, CONSUMER_CHUNK_BYTES - decoder.held_bytes()));
    // A read that does not fill its room is not followed by a larger one.
    while decoder.idle(&mut chunk) {}
    for sequence in 0..5 {
        read(&mut decoder, &mut chunk, &publish(sequence, 10), usize::MAX, &mut Vec::new()).unwrap();
        assert_eq!(room(&mut decoder, &mut chunk), CONSUMER_CHUNK_BYTES_MIN);
    }
}

#[test]
fn lent_runs_hold_the_memory_that_they_report() {
    let mut decoder = Decoder::lender(u32::MAX);
    for len in [0, 10, 1000, 20_000, CHUNK_BYTES, 300_000] {
        for max in [100, 4096, 50_000, usize::MAX] {
            let wire: Vec<u8> = (0..20).flat_map(|sequence| publish(sequence, len)).collect();
            let mut kept = Vec::with_capacity(1000);
            let mut chunk = BytesMut::new();
            let before = live();
            let mut at = 0;
            while at < wire.len() {
                at += read(&mut decoder, &mut chunk, &wire[at..], max, &mut kept).unwrap();
            }
            drop(chunk);
            let pinned = |item: &Item| match item {
                Item::Run(run) => run.pinned_bytes() + 128,
                Item::Control(_) | Item::Discarded(_) => 0,
            };
            let reported: usize = kept.iter().map(pinned).sum();
            let held = live().saturating_sub(before);
            assert!(
                held <= reported,
                "frames of {len} bytes in reads of {max}: {held} bytes held, {reported} reported"
            );
        }
    }
}

#[test]
fn a_huge_announced_length_allocates_nothing() {
    for (kind, max) in [(0x01, 1000), (kind::HELLO, 64 << 20), (0xf0, 64 << 20)] {
        for flags in [0, 1] {
            let mut header = Header::control(kind, flags, u32::MAX).as_bytes().to_vec();
            let last = header.pop().unwrap();
            let mut decoder = Decoder::lender(max);
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            let mut items = Vec::new();
            assert_eq!(read(&mut decoder, &mut chunk, &header, 100, &mut items), Ok(HEADER_BYTES - 1));
            let (result, peak) = peak_of(|| read(&mut decoder, &mut chunk, &[last], 100, &mut items));
            result.unwrap_err();
            assert_eq!(decoder.held_bytes(), 0);
            assert!(items.is_empty() && peak <= SLACK_BYTES, "{peak} bytes");
        }
    }
}

#[test]
fn a_discarded_frame_releases_its_memory_at_once() {
    for (name, mut decoder) in [("lender", Decoder::lender(u32::MAX)), ("consumer", Decoder::consumer(u32::MAX))] {
        for parks in [false, true] {
            let large = publish(0, MIB);
            let mut chunk = BytesMut::new();
            let before = live();
            let mut items = Vec::with_capacity(1);
            let kept = live() - before;
            let mut at = read(&mut decoder, &mut chunk, &large, 100_000, &mut items).unwrap();
            while at < MIB / 2 {
                at += read(&mut decoder, &mut chunk, &large[at..], 100_000, &mut items).unwrap();
            }
            assert!(live() - before >= MIB && decoder.discard_frame());
            chunk = BytesMut::new();
            let held = live() - before - kept;
            assert!(held <= SLACK_BYTES, "{name}: {held} bytes are held");
            // The rest goes through the chunk.
            while at < large.len() {
                let len = (large.len() - at).min(5000);
                let mut target = decoder.target(&mut chunk);
                assert!(target.remaining_mut() <= CONSUMER_CHUNK_BYTES, "room for the discarded frame");
                target.put_slice(&large[at..at + len]);
                at += len;
                if parks {
                    decoder.park(&mut chunk);
                    assert_eq!(decoder.held_bytes(), len);
                }
                while let Some(item) = decoder.next(&mut chunk).unwrap() {
                    assert_eq!(at, large.len());
                    items.push(item);
                }
                chunk = BytesMut::new();
                let held = live() - before - kept;
                assert!(decoder.held_bytes() == 0 && held <= SLACK_BYTES, "{name}: {held} bytes are held");
            }
            assert!(matches!(&items[..], [Item::Discarded(header)] if header.frame_bytes() == large.len()));
            drop(chunk);
            assert_eq!(live() - before, kept, "{name}");
            chunk = BytesMut::new();
            drop(items);
            read_all(&mut decoder, &mut chunk, &publish(1, 10), 1000);
        }
    }
}

#[test]
fn parked_bytes_are_all_that_a_parked_decoder_holds() {
    for wire in [publish(0, 100), [publish(0, 100), publish(1, 100)].concat()] {
        holds_what_is_parked(&wire);
    }
}

fn holds_what_is_parked(wire: &[u8]) {
    let mut decoder = Decoder::lender(u32::MAX);
    let before = live();
    let mut chunk = BytesMut::new();
    decoder.target(&mut chunk).put_slice(wire);
    decoder.park(&mut chunk);
    drop(chunk);
    assert_eq!(decoder.held_bytes(), wire.len());
    assert!(decoder.incomplete_frame().is_none() && !decoder.discard_frame(), "its frames are complete");
    let held = live() - before;
    assert!((wire.len()..wire.len() + SLACK_BYTES).contains(&held), "{held} bytes are held");
    while decoder.next(&mut BytesMut::new()).unwrap().is_some() {}
    assert_eq!((decoder.held_bytes(), live()), (0, before));
}

#[test]
fn lengths_inside_a_control_body_allocate_little() {
    // The last field of a Report, an empty list, is replaced by lists that announce many elements.
    let mut wire = Vec::new();
    Control::Report(Report::default()).encode(&mut wire).unwrap();
    let numbers = &wire[HEADER_BYTES..wire.len() - 1];
    let huge = [&[253][..], &u64::MAX.to_le_bytes()].concat();
    let large = [&[252][..], &1_000_000_u32.to_le_bytes()].concat();
    let list = |count: &[u8]| [numbers, count].concat();
    let data = |count: &[u8]| [numbers, &[1, 7], count].concat();
    let goodbye = |count: &[u8]| [count, b"abc"].concat();
    let small = |count: u16| [&[251][..], &count.to_le_bytes()].concat();
    for count in [&huge, &large, &small(30_000), &small(40_000)] {
        for (kind, body) in [(kind::REPORT, list(count)), (kind::REPORT, data(count)), (kind::GOODBYE, goodbye(count))]
        {
            let header = Header::control(kind, 0, u32::try_from(body.len()).unwrap());
            let mut chunk = BytesMut::from([header.as_bytes(), &body].concat().as_slice());
            let mut decoder = Decoder::consumer(1000);
            let (result, peak) = peak_of(|| decoder.next(&mut chunk));
            assert!(matches!(result, Err(DecodeError::Control { .. })), "{result:?}");
            assert!(peak <= 8 * CONTROL_BYTES_MAX as usize, "a body of {} bytes allocated {peak}", body.len());
        }
    }
}

#[test]
fn the_fullest_control_body_stays_small() {
    let body = usize::try_from(CONTROL_BYTES_MAX).unwrap();
    let extensions = vec![Extension { id: 0, data: Vec::new() }; (body - 20) / 2];
    let mut wire = Vec::new();
    Control::Report(Report { extensions, ..Report::default() }).encode(&mut wire).unwrap();
    let mut chunk = BytesMut::from(wire.as_slice());
    let mut decoder = Decoder::consumer(1000);
    let (item, peak) = peak_of(|| decoder.next(&mut chunk));
    assert!(matches!(item, Ok(Some(Item::Control(Control::Report(_))))), "{item:?}");
    assert!(peak <= 64 * body, "a body of {} bytes allocated {peak}", wire.len() - HEADER_BYTES);
}
