//! What one sender does on many channels, in every colour, on a bus of its own.

#![cfg(all(feature = "embedded", feature = "tokio"))]
#![allow(clippy::unwrap_used)]

mod common;

use common::in_every_colour;
use system_broadcaster::{Metadata, NameError, SendError};

#[test]
fn one_sender_reaches_many_channels_in_one_order() {
    in_every_colour(|colour, options| {
        let mut all = options.daemon().monitor([""; 0]).unwrap();
        let mut listener = colour.listener(options, "b").unwrap();
        let mut sender = colour.sender(options, "a").unwrap();
        let channels = ["a", "b", "c"];
        let metadata = Metadata::new().content_type("text/plain").unwrap();
        for n in 0..300_usize {
            let (channel, payload) = (channels[n % 3], n.to_string());
            match n % 4 {
                0 => colour.send_to_with(&mut sender, channel, &metadata, payload.as_bytes()).unwrap(),
                _ => colour.send_to(&mut sender, channel, payload.as_bytes()).unwrap(),
            }
        }
        for n in 0..300_usize {
            let message = all.recv().unwrap();
            assert_eq!((message.channel().as_str(), message.payload()), (channels[n % 3], n.to_string().as_bytes()));
            assert_eq!((message.sender(), message.sequence()), (sender.id(), n as u64 / 3));
            assert_eq!(message.metadata().content_type().is_some(), n % 4 == 0);
        }
        for n in 0..100 {
            assert_eq!(colour.recv(&mut listener).unwrap().payload(), (3 * n + 1).to_string().as_bytes());
        }
        let status = options.daemon().status().unwrap();
        assert_eq!(status.senders, 1, "one connection");
        colour.confirm(&mut sender).unwrap();
        assert_eq!(sender.channel().as_str(), "a");
    });
}

#[test]
fn what_was_fed_goes_before_a_message_on_another_channel() {
    in_every_colour(|colour, options| {
        let mut all = options.daemon().monitor([""; 0]).unwrap();
        let mut sender = colour.sender(options, "a").unwrap();
        colour.feed(&mut sender, b"1").unwrap();
        colour.feed(&mut sender, b"2").unwrap();
        colour.send_to(&mut sender, "b", b"3").unwrap();
        colour.feed(&mut sender, b"4").unwrap();
        colour.flush(&mut sender).unwrap();
        for n in 1..=4 {
            assert_eq!(all.recv().unwrap().payload(), n.to_string().as_bytes());
        }
    });
}

#[test]
fn a_name_that_is_not_allowed_is_an_error_and_nothing_else() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "a").unwrap();
        let error = colour.send_to(&mut sender, "a/b", b"x").unwrap_err();
        assert!(matches!(error, SendError::Name(NameError::Forbidden { .. })), "{error}");
        colour.send(&mut sender, b"x").unwrap();
        colour.confirm(&mut sender).unwrap();
    });
}

#[test]
fn every_channel_keeps_counting_on_the_next_daemon() {
    in_every_colour(|colour, options| {
        let mut sender = colour.sender(options, "a").unwrap();
        for _ in 0..3 {
            colour.send_to(&mut sender, "b", b"before").unwrap();
        }
        colour.confirm(&mut sender).unwrap();
        options.daemon().stop().unwrap();
        let mut listener = options.listener("b").unwrap();
        colour.send_to(&mut sender, "b", b"after").unwrap();
        let message = colour.recv(&mut listener).unwrap();
        assert_eq!((message.payload(), message.sequence(), message.sender()), (&b"after"[..], 3, sender.id()));
    });
}
