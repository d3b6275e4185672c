//! A run is used up from the front, message by message, and always knows what is left; the same for single frames and
//! for batches.
#![allow(clippy::unwrap_used)]

use broadcaster_protocol::frame::extent;
use broadcaster_protocol::limits::HEADER_BYTES;
use broadcaster_protocol::{ChannelId, Decoder, Header, Item, Run, SenderId};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

/// A frame of its own for each message.
fn frames(first: u64, payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut sequence = first;
    let mut bytes = Vec::new();
    for payload in payloads {
        let len = u32::try_from(payload.len()).unwrap();
        bytes.extend_from_slice(Header::publish(ChannelId(3), SenderId::new(4, 5), sequence, len).as_bytes());
        bytes.extend_from_slice(payload);
        sequence = sequence.wrapping_add(1);
    }
    bytes
}

/// Batches of so many messages each.
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

/// The run has these messages, in every way in which it can be looked at.
fn check(run: &Run, first: u64, payloads: &[Vec<u8>]) {
    assert_eq!((run.channel(), run.sender(), run.first()), (ChannelId(3), SenderId::new(4, 5), first));
    assert_eq!(run.messages(), payloads.len() as u64);
    let expected =
        (0..).map(|at| first.wrapping_add(at)).zip(payloads.iter().map(|payload| Bytes::from(payload.clone())));
    assert!(run.iter().eq(expected));
    let front = run.front().map(|frame| (frame.sender, frame.sequence, frame.payload));
    assert_eq!(front, payloads.first().map(|payload| (SenderId::new(4, 5), first, payload.as_slice())));
    assert_eq!(run.bytes().is_empty(), payloads.is_empty());
}

/// Takes all messages off, one by one, and checks what is left each time.
fn use_up(mut run: Run, first: u64, payloads: &[Vec<u8>]) {
    let pinned = run.pinned_bytes();
    for at in 0..payloads.len() {
        check(&run, first.wrapping_add(at as u64), &payloads[at..]);
        run.skip_front();
    }
    let end = first.wrapping_add(payloads.len() as u64);
    check(&run, end, &[]);
    run.skip_front();
    check(&run, end, &[]);
    assert_eq!(run.pinned_bytes(), pinned, "what is pinned does not become less");
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
fn a_clone_is_used_up_by_itself() {
    let payloads = [b"a".to_vec(), b"bc".to_vec(), vec![]];
    let run = run(&batches(7, &payloads, 3));
    let mut used = run.clone();
    used.skip_front();
    check(&used, 8, &payloads[1..]);
    check(&run, 7, &payloads);
}

#[test]
fn the_extent_of_a_frame_is_its_bytes_and_messages() {
    let payloads = vec![b"abc".to_vec(); 5];
    let single = frames(0, &payloads);
    assert_eq!(extent(&single), (HEADER_BYTES + 3, 1));
    let batch = batches(0, &payloads, 4);
    let first = HEADER_BYTES + 4 * 7;
    assert_eq!(extent(&batch), (first, 4));
    assert_eq!(extent(&batch[first..]), (HEADER_BYTES + 7, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_comes_off_in_its_turn(
        payloads in vec(vec(any::<u8>(), 0..50), 1..40),
        messages in 1..10_usize,
        first in prop_oneof![Just(0), u64::MAX - 20..=u64::MAX],
    ) {
        for wire in [frames(first, &payloads), batches(first, &payloads, messages)] {
            let run = run(&wire);
            assert_eq!(*run.bytes(), wire);
            use_up(run, first, &payloads);
        }
    }
}
