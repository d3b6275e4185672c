//! A run is consumed from the front, message by message, and always knows its remaining messages, both for single frames and for
//! batches.
#![allow(clippy::unwrap_used)]

use broadcaster_protocol::frame::extent;
use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_protocol::meta::MetadataRef;
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, Run, SenderId};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

/// A Publish frame for each payload.
fn frames(first: u64, payloads: &[Vec<u8>]) -> Vec<u8> {
    frames_with(first, &vec![vec![]; payloads.len()], payloads)
}

/// A Publish frame for each payload, with its metadata.
fn frames_with(first: u64, metadata: &[Vec<u8>], payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut sequence = first;
    let mut bytes = Vec::new();
    for (metadata, payload) in metadata.iter().zip(payloads) {
        let header =
            Header::publish(ChannelId(3), SenderId::new(4, 5), sequence, u32::try_from(payload.len()).unwrap());
        let header = header.with_metadata(u16::try_from(metadata.len()).unwrap());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(metadata);
        bytes.extend_from_slice(payload);
        sequence = sequence.wrapping_add(1);
    }
    bytes
}

/// Batches of `messages` messages each.
fn batches(first: u64, payloads: &[Vec<u8>], messages: usize) -> Vec<u8> {
    let mut sequence = first;
    let mut bytes = Vec::new();
    for payloads in payloads.chunks(messages) {
        let record = |payload: &Vec<u8>| [&u32::try_from(payload.len()).unwrap().to_le_bytes()[..], payload].concat();
        let body: Vec<u8> = payloads.iter().flat_map(record).collect();
        let len = u32::try_from(body.len()).unwrap();
        bytes.extend_from_slice(Header::batch(ChannelId(3), SenderId::new(4, 5), sequence, len).as_bytes());
        bytes.extend_from_slice(&body);
        sequence = sequence.wrapping_add(payloads.len() as u64);
    }
    bytes
}

fn run(wire: &[u8]) -> Run {
    match Decoder::consumer(1 << 20).next(&mut BytesMut::from(wire)) {
        Ok(Some(Item::Run(run))) => run,
        other => panic!("not a run: {other:?}"),
    }
}

/// The run has these messages, through each of its methods.
fn check(run: &Run, first: u64, metadata: &[Vec<u8>], payloads: &[Vec<u8>]) {
    assert_eq!((run.channel(), run.sender(), run.first()), (ChannelId(3), SenderId::new(4, 5), first));
    assert_eq!(run.messages(), payloads.len() as u64);
    let expected =
        (0..).map(|at| first.wrapping_add(at)).zip(payloads.iter().map(|payload| Bytes::from(payload.clone())));
    assert!(run.iter().eq(expected));
    let front = run.front().map(|frame| (frame.sender, frame.sequence, frame.payload));
    assert_eq!(front, payloads.first().map(|payload| (SenderId::new(4, 5), first, payload.as_slice())));
    assert_eq!(run.front().map(|frame| frame.metadata), metadata.first().map(|metadata| MetadataRef::new(metadata)));
    assert_eq!(run.bytes().is_empty(), payloads.is_empty());
}

/// Removes all messages, one by one, and checks the rest each time.
fn consume(mut run: Run, first: u64, metadata: &[Vec<u8>], payloads: &[Vec<u8>]) {
    let pinned = run.pinned_bytes();
    for at in 0..payloads.len() {
        check(&run, first.wrapping_add(at as u64), &metadata[at..], &payloads[at..]);
        run.skip_front();
    }
    let end = first.wrapping_add(payloads.len() as u64);
    check(&run, end, &[], &[]);
    run.skip_front();
    check(&run, end, &[], &[]);
    assert_eq!(run.pinned_bytes(), pinned, "a run pins the same memory until it is dropped");
}

#[test]
fn payloads_are_references_into_the_run() {
    let payloads = [b"a".to_vec(), b"bc".to_vec()];
    for wire in [frames(0, &payloads), batches(0, &payloads, 2)] {
        let run = run(&wire);
        let bytes = run.bytes().as_ptr_range();
        for (_, payload) in run.iter() {
            assert!(bytes.contains(&payload.as_ptr()));
        }
        assert!(bytes.contains(&run.front().unwrap().payload.as_ptr()));
    }
}

#[test]
fn clones_are_consumed_independently() {
    let payloads = [b"a".to_vec(), b"bc".to_vec(), vec![]];
    let run = run(&batches(7, &payloads, 3));
    let mut clone = run.clone();
    clone.skip_front();
    let metadata = [vec![], vec![], vec![]];
    check(&clone, 8, &metadata[1..], &payloads[1..]);
    check(&run, 7, &metadata, &payloads);
}

#[test]
fn the_extent_of_a_frame_is_its_bytes_and_messages() {
    let payloads = vec![b"abc".to_vec(); 5];
    let single = frames(0, &payloads);
    assert_eq!(extent(&single), (HEADER_BYTES + 3, 1));
    let with_metadata = frames_with(0, &[b"meta".to_vec()], &payloads);
    assert_eq!(extent(&with_metadata), (HEADER_BYTES + 4 + 3, 1));
    let batch = batches(0, &payloads, 4);
    let first = HEADER_BYTES + 4 * 7;
    assert_eq!(extent(&batch), (first, 4));
    assert_eq!(extent(&batch[first..]), (HEADER_BYTES + 7, 1));
}

/// Metadata and payloads of some messages.
fn messages() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<Vec<u8>>)> {
    let metadata = prop_oneof![Just(vec![]), vec(any::<u8>(), 0..30)];
    vec((metadata, vec(any::<u8>(), 0..50)), 1..40).prop_map(|messages| messages.into_iter().unzip())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_are_removed_in_order(
        (metadata, payloads) in messages(),
        messages in 1..10_usize,
        first in prop_oneof![Just(0), u64::MAX - 20..=u64::MAX],
    ) {
        let none = vec![vec![]; payloads.len()];
        for (wire, metadata) in [
            (frames(first, &payloads), &none),
            (frames_with(first, &metadata, &payloads), &metadata),
            (batches(first, &payloads, messages), &none),
        ] {
            let run = run(&wire);
            assert_eq!(*run.bytes(), wire);
            consume(run, first, metadata, &payloads);
        }
    }
}

#[test]
fn a_retained_message_has_memory_of_its_own_and_the_same_bytes() {
    let header = Header::redeclare(ChannelId(3), SenderId::new(4, 5), 6, 4).with_metadata(2);
    let wire = [header.as_bytes(), b"mm", b"dark"].concat();
    let run = run(&[&wire[..], &frames(7, &[vec![0; 100]])].concat());
    assert!(run.is_redeclared());
    let retained = run.to_retained();
    assert!(retained.is_retained() && !retained.is_redeclared());
    let header = Header::retain(ChannelId(3), SenderId::new(4, 5), 6, 4).with_metadata(2);
    assert_eq!(retained.bytes()[..], [header.as_bytes(), b"mm", b"dark"].concat());
    assert_eq!((retained.first(), retained.messages(), retained.pinned_bytes()), (6, 1, wire.len()));
    assert!(!run.bytes().as_ptr_range().contains(&retained.bytes().as_ptr()));
    assert_eq!(retained.front().map(|front| front.payload), Some(&b"dark"[..]));
}
