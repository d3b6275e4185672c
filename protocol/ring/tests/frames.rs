//! What a listener reads from a ring are the bytes that it would have read from a socket.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;

use broadcaster_protocol::decode::Item;
use broadcaster_protocol::frame::{KIND_PUBLISH, KIND_RETAIN};
use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_protocol::{ChannelId, Decoder, Header, SenderId};
use broadcaster_ring::{Poll, Reader, Record, Start, Writer};
use bytes::BytesMut;
use common::memory;

const CHANNEL: ChannelId = ChannelId(7);

const SENDER: SenderId = SenderId::new(42, 3);

fn header(record: &Record) -> [u8; HEADER_BYTES] {
    let header = match record.kind {
        KIND_RETAIN => Header::retain(CHANNEL, SENDER, record.sequence, record.payload_bytes),
        _ => Header::publish(CHANNEL, SENDER, record.sequence, record.payload_bytes),
    };
    header.with_metadata(record.metadata_bytes).as_bytes().try_into().unwrap()
}

#[test]
fn a_record_becomes_the_frame_of_its_message() {
    let messages: [(u8, &[u8], &[u8]); 4] = [
        (KIND_PUBLISH, b"", b"plain"),
        (KIND_PUBLISH, b"\x03\x04\x00text", b"with metadata"),
        (KIND_RETAIN, b"", b"a value"),
        (KIND_PUBLISH, b"", b""),
    ];
    let memory = memory(64);
    let mut writer = Writer::new(memory.clone(), 10);
    for (kind, metadata, payload) in messages {
        writer.push(kind, metadata, payload).unwrap();
    }
    let _ = writer.publish();

    let mut wire = BytesMut::new();
    let mut reader = Reader::open(memory.clone(), Start::Oldest).unwrap();
    assert_eq!(reader.poll(&mut wire, usize::MAX, header), Ok(Poll::Messages(4)));
    for (sequence, (kind, metadata, payload)) in (10..).zip(messages) {
        // The first word of a record is the start of the header of its frame.
        let first_words = memory.iter().map(|word| word.load(std::sync::atomic::Ordering::Relaxed).to_le_bytes());
        assert!(first_words.into_iter().any(|word| wire[..8] == word || wire.is_empty()));
        let (len, lens) = (payload.len() as u32, metadata.len() as u16);
        let expected = match kind {
            KIND_RETAIN => Header::retain(CHANNEL, SENDER, sequence, len),
            _ => Header::publish(CHANNEL, SENDER, sequence, len),
        };
        let frame = wire.split_to(HEADER_BYTES + metadata.len() + payload.len());
        assert_eq!(frame, [expected.with_metadata(lens).as_bytes(), metadata, payload].concat());

        let mut decoder = Decoder::consumer(1024);
        let mut chunk = BytesMut::from(&frame[..]);
        let Some(Item::Run(run)) = decoder.next(&mut chunk).unwrap() else { panic!("a run") };
        let decoded = run.front().unwrap();
        assert_eq!((run.channel(), decoded.sender, decoded.sequence), (CHANNEL, SENDER, sequence));
        assert_eq!((decoded.metadata.as_bytes(), decoded.payload), (metadata, payload));
    }
    assert!(wire.is_empty());
}
