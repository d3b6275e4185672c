//! The bytes of the wire, pinned: `golden.txt` holds at least one frame of every kind, and one for each case of a field that has
//! several. Any change of the encoding fails here, in whichever direction it was made.
//!
//! To change bytes on purpose, run `UPDATE_GOLDEN=1 cargo test -p broadcaster-protocol --test golden every_frame`, which rewrites
//! `golden.txt`. Bytes that a release has published never change within a protocol version.
#![allow(clippy::unwrap_used)]

use broadcaster_protocol::control::{
    AddLink, AwaitProgress, BeginRing, Confirm, Control, CountListeners, Credit, Declined, EndRing, Extension,
    Extensions, Follow, Goodbye, Hello, InboxOpened, Inspect, Lagged, Lagging, LinkAdded, LinkReady, Listeners, MAGIC,
    Named, OfferLink, OfferRing, Open, OpenInbox, Opened, Overflow, Prepare, Prepared, Presence, Progress, Recall,
    Receipt, Refused, RefusedCode, Report, Retained, RingAccepted, Selector, Stop, Subscribe, Subscribed, Superseded,
    Unfollow, Unlink, Unsubscribe, Unsubscribed, Unwatch, Unwatched, Watch, Watched, Welcome, extension, kind,
};
use broadcaster_protocol::limits::{
    BATCH_BYTES_MAX, CHANNEL_NAME_BYTES_MAX, CONTROL_BYTES_MAX, HEADER_BYTES, META_BYTES_MAX, PAYLOAD_BYTES_MAX,
    PURPOSE_BYTES_MAX, REASON_BYTES_MAX, SOCKET_PATH_BYTES_MAX_BSD, SOCKET_PATH_BYTES_MAX_LINUX, VERSION_BYTES_MAX,
};
use broadcaster_protocol::meta::{Entry, Metadata, Retention, tag};
use broadcaster_protocol::{ChannelId, DecodeError, Decoder, Header, Item, SenderId};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

const UPDATE_VARIABLE: &str = "UPDATE_GOLDEN";

const GOLDEN: &str = include_str!("golden.txt");

const DOCUMENT: &str = include_str!("../PROTOCOL.md");

const EXAMPLE: &str = include_str!("../examples/minimal.py");

const PREFACE: &str = "\
# The bytes of every kind of frame: a name, then hex, with the header on the first line. golden.rs lists their values and
# checks both directions. The session_ frames are the example in PROTOCOL.md.
#
# To change bytes on purpose:
# UPDATE_GOLDEN=1 cargo test -p broadcaster-protocol --test golden every_frame
";

#[derive(Debug, Clone)]
enum Value {
    Control(Control),
    Publish { channel: ChannelId, sender: SenderId, sequence: u64, metadata: Metadata, payload: Vec<u8> },
    Reply { inbox: ChannelId, sender: SenderId, request: u64, metadata: Metadata, payload: Vec<u8> },
    Retain { channel: ChannelId, sender: SenderId, sequence: u64, metadata: Metadata, payload: Vec<u8> },
    Redeclare { channel: ChannelId, sender: SenderId, sequence: u64, metadata: Metadata, payload: Vec<u8> },
    Batch { channel: ChannelId, sender: SenderId, first: u64, payloads: Vec<Vec<u8>> },
}

fn control(message: impl Into<Control>) -> Value {
    Value::Control(message.into())
}

fn hello(purpose: &str, pid: u32, sender_number: u32) -> Value {
    control(Hello {
        magic: MAGIC,
        protocol_min: 1,
        protocol_max: 1,
        capabilities: 0,
        pid,
        sender_number,
        purpose: purpose.into(),
        version: "0.2.0".into(),
        extensions: vec![],
    })
}

fn welcome(sender: SenderId) -> Value {
    control(Welcome {
        protocol: 1,
        capabilities: 0,
        sender: sender.raw(),
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        pid: 4000,
        version: "0.2.0".into(),
        extensions: vec![],
    })
}

fn report(number: u64) -> Report {
    Report {
        uptime_ms: number,
        connections: number + 1,
        senders: number + 2,
        listeners: number + 3,
        channels: number + 4,
        messages_accepted: number + 5,
        bytes_accepted: number + 6,
        messages_delivered: number + 7,
        messages_lost: number + 8,
        held_bytes: number + 9,
        held_bytes_max: number + 10,
        extensions: vec![],
    }
}

fn subscribe(selector: Selector, overflow: Overflow, observer: bool) -> Value {
    control(Subscribe { subscription: 1, selector, overflow, observer, extensions: vec![] })
}

fn name(channel: &str) -> Selector {
    Selector::Name(channel.into())
}

fn refused(code: RefusedCode) -> Value {
    control(Refused::new(code, "why"))
}

fn lagged(count: u64) -> Value {
    control(Lagged { id: 1, count, extensions: vec![] })
}

fn goodbye(reason: &str) -> Value {
    control(Goodbye { reason: reason.into(), extensions: vec![] })
}

fn named(id: u32, name: &str) -> Value {
    control(Named { id, name: name.into(), extensions: vec![] })
}

fn publish(sender: SenderId, sequence: u64, metadata: Metadata, payload: &[u8]) -> Value {
    Value::Publish { channel: ChannelId(1), sender, sequence, metadata, payload: payload.into() }
}

/// Metadata with an entry of every tag.
fn every_tag() -> Metadata {
    let metadata = Metadata::new().reply_address(b"\x01\x02").unwrap().schema(b"\xfe").unwrap();
    metadata.content_type("text/plain").unwrap().origin("größe").unwrap().header("key", b"\x00\xff").unwrap()
}

fn extensions() -> Extensions {
    vec![
        Extension { id: 1, data: vec![] },
        Extension { id: 250, data: vec![0x00, 0x7f, 0xfa, 0xfb, 0xfc, 0xfd, 0xff] },
        Extension { id: u16::MAX, data: (0..=255).collect() },
    ]
}

/// The frames of the session that `PROTOCOL.md` shows.
fn session() -> Vec<(&'static str, Value)> {
    let (listener, sender) = (SenderId::new(4243, 9), SenderId::new(4242, 7));
    let text = Metadata::new().content_type("text/plain").unwrap();
    let payloads = vec![b"one".to_vec(), b"two".to_vec()];
    vec![
        ("session_listener_hello", hello("listen", 4243, 9)),
        ("session_listener_welcome", welcome(listener)),
        ("session_subscribe", subscribe(name("news"), Overflow::DropOldest, false)),
        ("session_subscribed", control(Subscribed { subscription: 1, extensions: vec![] })),
        ("session_named", named(1, "news")),
        ("session_sender_hello", hello("send", 4242, 7)),
        ("session_sender_welcome", welcome(sender)),
        ("session_open", control(Open { channel: "news".into(), next_sequence: 0, extensions: vec![] })),
        ("session_opened", control(Opened { channel: "news".into(), id: 1, listeners: 1, extensions: vec![] })),
        ("session_publish", publish(sender, 0, Metadata::new(), b"hello")),
        ("session_publish_metadata", publish(sender, 1, text, b"hi")),
        ("session_batch", Value::Batch { channel: ChannelId(1), sender, first: 2, payloads }),
        ("session_lagged", lagged(300)),
        ("session_goodbye", goodbye("the daemon is stopping")),
    ]
}

/// Data frames.
fn data() -> Vec<(&'static str, Value)> {
    let sender = SenderId::new(4242, 7);
    let publish_every_field = Value::Publish {
        channel: ChannelId(0x0403_0201),
        sender: SenderId::from_raw(0x1817_1615_1413_1211),
        sequence: 0x2827_2625_2423_2221,
        metadata: every_tag(),
        payload: (0xf0..=0xff).collect(),
    };
    let batch_every_field = Value::Batch {
        channel: ChannelId(0x0403_0201),
        sender: SenderId::from_raw(0x1817_1615_1413_1211),
        first: 0x2827_2625_2423_2221,
        payloads: vec![vec![], vec![0xff], vec![0xee; 300], vec![]],
    };
    let reply_every_field = Value::Reply {
        inbox: ChannelId(0x0403_0201),
        sender: SenderId::from_raw(0x1817_1615_1413_1211),
        request: 0x2827_2625_2423_2221,
        metadata: every_tag(),
        payload: (0xf0..=0xff).collect(),
    };
    let address = [&3_u32.to_le_bytes()[..], &5_u64.to_le_bytes()].concat();
    let request = Metadata::new().reply_address(&address).unwrap();
    let last = SenderId::new(u32::MAX, u32::MAX);
    vec![
        ("publish_empty", publish(SenderId::new(0, 0), 0, Metadata::new(), b"")),
        ("publish_every_field", publish_every_field),
        ("publish_last_sequence", publish(last, u64::MAX, Metadata::new(), b"x")),
        ("publish_metadata_without_payload", publish(sender, 0, Metadata::new().header("", b"").unwrap(), b"")),
        ("batch_of_one", Value::Batch { channel: ChannelId(1), sender, first: 0, payloads: vec![b"hello".to_vec()] }),
        ("batch_every_field", batch_every_field),
        ("request", publish(sender, 0, request, b"which?")),
        (
            "reply",
            Value::Reply {
                inbox: ChannelId(3),
                sender,
                request: 5,
                metadata: Metadata::new(),
                payload: b"this".to_vec(),
            },
        ),
        ("reply_every_field", reply_every_field),
    ]
}

/// Retained messages.
fn retained() -> Vec<(&'static str, Value)> {
    let sender = SenderId::new(4242, 7);
    let retain = |sequence, metadata, payload: &[u8]| Value::Retain {
        channel: ChannelId(1),
        sender,
        sequence,
        metadata,
        payload: payload.into(),
    };
    let retain_every_field = Value::Retain {
        channel: ChannelId(0x0403_0201),
        sender: SenderId::from_raw(0x1817_1615_1413_1211),
        sequence: 0x2827_2625_2423_2221,
        metadata: retention(0x1817_1615_1413_1211, 0x2423_2221).followed_by(&every_tag()).unwrap(),
        payload: (0xf0..=0xff).collect(),
    };
    let redeclare = Value::Redeclare {
        channel: ChannelId(1),
        sender,
        sequence: 1,
        metadata: retention(59_000, 1),
        payload: b"dark".to_vec(),
    };
    let replay = Subscribe {
        subscription: 1,
        selector: name("c"),
        overflow: Overflow::DropOldest,
        observer: false,
        extensions: vec![Extension::replay(0x0403_0201)],
    };
    let receipt = Receipt {
        number: 1,
        next_sequence: 5,
        listeners: 3,
        took: 2,
        lagging: 0,
        worst: vec![],
        extensions: vec![Extension::not_retained("größe")],
    };
    let (every, nothing) = (extensions(), control(Retained { id: 1, count: 0, extensions: vec![] }));
    vec![
        ("retain", retain(0, Metadata::new(), b"light")),
        ("retain_for_a_minute", retain(1, retention(60_000, 1), b"dark")),
        ("retain_clear", retain(2, Metadata::new(), b"")),
        ("retain_every_field", retain_every_field),
        ("redeclare", redeclare),
        ("subscribe_with_replay", control(replay)),
        ("receipt_not_retained", control(receipt)),
        ("retained_nothing", nothing),
        ("retained_every_field", control(Retained { id: 0x0403_0201, count: 0x1413_1211, extensions: every.clone() })),
        (
            "superseded_every_field",
            control(Superseded { id: 0x0403_0201, sequence: 0x1817_1615_1413_1211, extensions: every }),
        ),
    ]
}

fn retention(lifetime_ms: u64, keep: u32) -> Metadata {
    Metadata::new().retention(Retention { lifetime_ms, keep }).unwrap()
}

/// The frames of the handshake, and the last frame of a connection.
fn handshake() -> Vec<(&'static str, Value)> {
    let hello_every_field = Hello {
        magic: *b"\xfb\xfc\xfd\xff",
        protocol_min: 2,
        protocol_max: 0x0403,
        capabilities: 0x0807_0605_0403_0201,
        pid: 0x1413_1211,
        sender_number: 0x2423_2221,
        purpose: "日本".into(),
        version: "größe".into(),
        extensions: extensions(),
    };
    let welcome_every_field = Welcome {
        protocol: 0x0201,
        capabilities: u64::MAX,
        sender: 0x1817_1615_1413_1211,
        payload_bytes_max: 0x2423_2221,
        pid: 0x3433_3231,
        version: String::new(),
        extensions: extensions(),
    };
    let refused_every_field =
        Refused { extensions: extensions(), ..Refused::new(RefusedCode::Other(u16::MAX), "größe") };
    vec![
        ("hello_every_field", control(hello_every_field)),
        ("welcome_every_field", control(welcome_every_field)),
        ("refused_version", refused(RefusedCode::Version)),
        ("refused_other_user", refused(RefusedCode::OtherUser)),
        ("refused_connections", refused(RefusedCode::Connections)),
        ("refused_channels", refused(RefusedCode::Channels)),
        ("refused_protocol", refused(RefusedCode::Protocol)),
        ("refused_handshake", refused(RefusedCode::Handshake)),
        ("refused_too_slow", refused(RefusedCode::TooSlow)),
        ("refused_memory", refused(RefusedCode::Memory)),
        ("refused_stopping", refused(RefusedCode::Stopping)),
        ("refused_unsupported", refused(RefusedCode::Unsupported)),
        ("refused_by_a_newer_daemon", refused(RefusedCode::Other(1000))),
        ("refused_every_field", control(refused_every_field)),
        ("goodbye_without_reason", goodbye("")),
        ("goodbye_of_250_bytes", goodbye(&"g".repeat(250))),
        ("goodbye_of_251_bytes", goodbye(&"g".repeat(251))),
        ("goodbye_every_field", control(Goodbye { reason: "größe".into(), extensions: extensions() })),
    ]
}

/// Publications and subscriptions.
fn channels() -> Vec<(&'static str, Value)> {
    let open_every_field =
        Open { channel: "größe.日本".into(), next_sequence: 0x0807_0605_0403_0201, extensions: extensions() };
    let opened_every_field =
        Opened { channel: "größe.日本".into(), id: 0x0403_0201, listeners: 0x1413_1211, extensions: extensions() };
    let subscribe_every_field = Subscribe {
        subscription: 0x0403_0201,
        selector: Selector::Other { kind: 0x1211, text: "größe.*".into() },
        overflow: Overflow::Other(0x2221),
        observer: true,
        extensions: extensions(),
    };
    let backpressure = Extension { id: extension::BACKPRESSURE, data: 5000_u32.to_le_bytes().to_vec() };
    let open_with_backpressure = Open { channel: "c".into(), next_sequence: 0, extensions: vec![backpressure] };
    let declined = Declined::new(kind::SUBSCRIBE, 0x0403_0201, RefusedCode::Channels, "why");
    let longest = "c".repeat(CHANNEL_NAME_BYTES_MAX);
    vec![
        ("open_every_field", control(open_every_field)),
        ("open_with_backpressure", control(open_with_backpressure)),
        ("opened_every_field", control(opened_every_field)),
        ("subscribe_drop_newest", subscribe(name("c"), Overflow::DropNewest, false)),
        ("subscribe_latest", subscribe(name("c"), Overflow::Latest, false)),
        ("subscribe_disconnect", subscribe(name(&longest), Overflow::Disconnect, false)),
        ("subscribe_observer", subscribe(name("news"), Overflow::DropOldest, true)),
        ("subscribe_all", subscribe(Selector::All, Overflow::DropOldest, false)),
        ("subscribe_all_observer", subscribe(Selector::All, Overflow::DropOldest, true)),
        ("subscribe_pattern", subscribe(Selector::Pattern("com.*.**".into()), Overflow::DropOldest, false)),
        ("subscribe_every_field", control(subscribe_every_field)),
        ("subscribed_every_field", control(Subscribed { subscription: 0x0403_0201, extensions: extensions() })),
        ("unsubscribe_every_field", control(Unsubscribe { subscription: 0x0403_0201, extensions: extensions() })),
        ("unsubscribed_every_field", control(Unsubscribed { subscription: 0x0403_0201, extensions: extensions() })),
        ("declined", control(declined.clone())),
        ("declined_every_field", control(Declined { request: 0xff, extensions: extensions(), ..declined })),
        ("named_no_more", named(1, "")),
        ("named_every_field", control(Named { id: 0x0403_0201, name: "größe.日本".into(), extensions: extensions() })),
        ("lagged_250", lagged(250)),
        ("lagged_251", lagged(251)),
        ("lagged_65535", lagged(65_535)),
        ("lagged_65536", lagged(65_536)),
        ("lagged_4294967295", lagged(4_294_967_295)),
        ("lagged_4294967296", lagged(4_294_967_296)),
        ("lagged_18446744073709551615", lagged(u64::MAX)),
        ("lagged_every_field", control(Lagged { id: 0x0403_0201, count: u64::MAX - 1, extensions: extensions() })),
    ]
}

/// Backpressure, receipts and presence.
fn services() -> Vec<(&'static str, Value)> {
    let worst = vec![
        Lagging { listener: 0x1817_1615_1413_1211, messages: 250, bytes: 251 },
        Lagging { listener: 0, messages: u64::MAX, bytes: 0x2827_2625_2423_2221 },
    ];
    let receipt =
        Receipt { number: 1, next_sequence: 5, listeners: 3, took: 2, lagging: 0, worst: vec![], extensions: vec![] };
    let receipt_every_field = Receipt {
        number: 0x0403_0201,
        next_sequence: 0x1817_1615_1413_1211,
        listeners: 0x2423_2221,
        took: 0x3433_3231,
        lagging: 0x4443_4241,
        worst,
        extensions: extensions(),
    };
    let count_every_field =
        CountListeners { number: 0x0403_0201, id: 0x1413_1211, minimum: 0x2423_2221, extensions: extensions() };
    let presence_every_field = Presence {
        watch: 0x0403_0201,
        present: true,
        listener: 0x1817_1615_1413_1211,
        purpose: "größe".into(),
        extensions: extensions(),
    };
    let left = Presence { watch: 1, present: false, listener: 77, purpose: String::new(), extensions: vec![] };
    vec![
        ("credit_every_field", control(Credit { id: 0x0403_0201, bytes: u64::MAX, extensions: extensions() })),
        ("confirm_every_field", control(Confirm { number: 0x0403_0201, id: 0x1413_1211, extensions: extensions() })),
        ("receipt", control(receipt)),
        ("receipt_every_field", control(receipt_every_field)),
        ("count_listeners_every_field", control(count_every_field)),
        ("listeners_every_field", control(Listeners { number: 1, listeners: 0x0403_0201, extensions: extensions() })),
        ("watch_every_field", control(Watch { watch: 0x0403_0201, channel: "größe".into(), extensions: extensions() })),
        (
            "watched_every_field",
            control(Watched { watch: 0x0403_0201, listeners: 0x1413_1211, extensions: extensions() }),
        ),
        ("presence_left", control(left)),
        ("presence_every_field", control(presence_every_field)),
        ("unwatch_every_field", control(Unwatch { watch: 0x0403_0201, extensions: extensions() })),
        ("unwatched_every_field", control(Unwatched { watch: 0x0403_0201, extensions: extensions() })),
    ]
}

/// Requests.
fn requests() -> Vec<(&'static str, Value)> {
    let five = vec![Extension { id: 5, data: b"five".to_vec() }];
    vec![
        ("open_inbox", control(OpenInbox::default())),
        ("open_inbox_every_field", control(OpenInbox { extensions: extensions() })),
        ("inbox_opened_every_field", control(InboxOpened { id: 0x0403_0201, extensions: extensions() })),
        ("inspect", control(Inspect::default())),
        ("inspect_every_field", control(Inspect { extensions: extensions() })),
        ("report_small", control(report(1))),
        ("report_large", control(Report { extensions: five, ..report(0x0807_0605_0403_0201) })),
        ("stop", control(Stop::default())),
        ("stop_every_field", control(Stop { extensions: extensions() })),
    ]
}

/// What introduces shared memory.
fn rings() -> Vec<(&'static str, Value)> {
    let (id, link) = (0x0403_0201, 0x1413_1211);
    let (sender, bytes, position, sequence) =
        (0x2827_2625_2423_2221, 0x3837_3635_3433_3231, 0x4847_4645_4443_4241, 0x5857_5655_5453_5251);
    vec![
        ("offer_ring_every_field", control(OfferRing { id, bytes, extensions: extensions() })),
        ("ring_accepted_every_field", control(RingAccepted { id, extensions: extensions() })),
        ("begin_ring_every_field", control(BeginRing { id, sequence, extensions: extensions() })),
        ("end_ring_every_field", control(EndRing { id, sequence, extensions: extensions() })),
        ("recall_every_field", control(Recall { id, extensions: extensions() })),
        ("offer_link_every_field", control(OfferLink { link, id, sender, bytes, extensions: extensions() })),
        ("link_ready_every_field", control(LinkReady { link, extensions: extensions() })),
        ("add_link_every_field", control(AddLink { id, link, extensions: extensions() })),
        ("link_added_every_field", control(LinkAdded { link, extensions: extensions() })),
        ("follow_every_field", control(Follow { link, position, sequence, extensions: extensions() })),
        ("unfollow_every_field", control(Unfollow { link, sequence, extensions: extensions() })),
        ("unlink_every_field", control(Unlink { link, extensions: extensions() })),
        ("prepare", control(Prepare::default())),
        ("prepare_every_field", control(Prepare { extensions: extensions() })),
        ("prepared_every_field", control(Prepared { extensions: extensions() })),
        ("await_progress_every_field", control(AwaitProgress { link, position, extensions: extensions() })),
        ("progress_every_field", control(Progress { link, extensions: extensions() })),
    ]
}

/// Every frame of the file, in order.
fn vectors() -> Vec<(&'static str, Value)> {
    [session(), data(), handshake(), channels(), services(), requests(), retained(), rings()].concat()
}

fn encode(value: &Value) -> Vec<u8> {
    match value {
        Value::Control(control) => {
            let mut wire = Vec::new();
            control.encode(&mut wire).unwrap();
            wire
        }
        Value::Publish { channel, sender, sequence, metadata, payload } => {
            let header = Header::publish(*channel, *sender, *sequence, payload.len().try_into().unwrap());
            [header.with_metadata(metadata.meta_bytes()).as_bytes(), metadata.as_bytes(), payload].concat()
        }
        Value::Reply { inbox, sender, request, metadata, payload } => {
            let header = Header::reply(*inbox, *sender, *request, payload.len().try_into().unwrap());
            [header.with_metadata(metadata.meta_bytes()).as_bytes(), metadata.as_bytes(), payload].concat()
        }
        Value::Retain { channel, sender, sequence, metadata, payload } => {
            let header = Header::retain(*channel, *sender, *sequence, payload.len().try_into().unwrap());
            [header.with_metadata(metadata.meta_bytes()).as_bytes(), metadata.as_bytes(), payload].concat()
        }
        Value::Redeclare { channel, sender, sequence, metadata, payload } => {
            let header = Header::redeclare(*channel, *sender, *sequence, payload.len().try_into().unwrap());
            [header.with_metadata(metadata.meta_bytes()).as_bytes(), metadata.as_bytes(), payload].concat()
        }
        Value::Batch { channel, sender, first, payloads } => {
            let records = payloads.iter().map(|payload| (u32::try_from(payload.len()).unwrap().to_le_bytes(), payload));
            let body: Vec<u8> = records.flat_map(|(len, payload)| [&len[..], payload].concat()).collect();
            let header = Header::batch(*channel, *sender, *first, body.len().try_into().unwrap());
            [header.as_bytes(), &body].concat()
        }
    }
}

/// The item that the decoder yields for one whole frame.
fn decode(wire: &[u8]) -> Item {
    let mut chunk = BytesMut::from(wire);
    let mut decoder = Decoder::lender(PAYLOAD_BYTES_MAX);
    let item = decoder.next(&mut chunk).unwrap().unwrap();
    assert!(matches!(decoder.next(&mut chunk), Ok(None)) && !decoder.is_mid_frame());
    item
}

/// The names and bytes of the file.
fn parse(text: &str) -> Vec<(&str, Vec<u8>)> {
    let mut frames: Vec<(&str, Vec<u8>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.strip_prefix("    ") {
            None => frames.push((line, Vec::new())),
            Some(row) => frames.last_mut().unwrap().1.extend(hex(row)),
        }
    }
    frames
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {text:?}");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The expected content of the file.
fn render() -> String {
    let mut text = PREFACE.to_owned();
    for (name, value) in vectors() {
        let wire = encode(&value);
        let (header, body) = wire.split_at(HEADER_BYTES);
        let row = |bytes: &[u8]| bytes.iter().fold(String::new(), |row, byte| row + &format!("{byte:02x}"));
        let fields = [0..4, 4..5, 5..6, 6..8, 8..12, 12..20, 20..28].map(|field| row(&header[field]));
        write!(text, "\n{name}\n    {}\n", fields.join(" ")).unwrap();
        for part in body.chunks(16) {
            let groups: Vec<String> = part.chunks(4).map(row).collect();
            writeln!(text, "    {}", groups.join(" ")).unwrap();
        }
    }
    text
}

#[test]
fn every_frame_has_its_golden_bytes() {
    if std::env::var_os(UPDATE_VARIABLE).is_some_and(|value| value == "1") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.txt");
        return std::fs::write(path, render()).unwrap();
    }
    let (golden, vectors) = (parse(GOLDEN), vectors());
    let pinned: Vec<&str> = golden.iter().map(|frame| frame.0).collect();
    let wanted: Vec<&str> = vectors.iter().map(|vector| vector.0).collect();
    assert_eq!(pinned, wanted, "names in golden.txt and in this file; {UPDATE_VARIABLE}=1 rewrites golden.txt");
    for ((name, bytes), (_, value)) in golden.iter().zip(&vectors) {
        let encoded = encode(value);
        assert_eq!(encoded, *bytes, "{name}: {value:?} is not encoded as in golden.txt");
    }
}

#[test]
fn every_golden_frame_has_its_value() {
    let golden = parse(GOLDEN);
    for (name, value) in vectors() {
        let (_, bytes) = golden.iter().find(|frame| frame.0 == name).unwrap();
        let bytes = &Bytes::from(bytes.clone());
        match (decode(bytes), &value) {
            (Item::Control(decoded), Value::Control(control)) => assert_eq!(decoded, *control, "{name}"),
            (Item::Run(run), Value::Publish { channel, sender, sequence, metadata, payload }) => {
                assert_eq!((run.channel(), run.sender(), run.bytes()), (*channel, *sender, bytes), "{name}");
                assert_eq!((run.front().unwrap().metadata, run.is_reply()), (metadata.as_ref(), false), "{name}");
                assert_eq!(run.iter().collect::<Vec<_>>(), [(*sequence, payload.clone().into())], "{name}");
            }
            (Item::Run(run), Value::Reply { inbox, sender, request, metadata, payload }) => {
                assert_eq!((run.channel(), run.sender(), run.bytes()), (*inbox, *sender, bytes), "{name}");
                assert_eq!((run.front().unwrap().metadata, run.is_reply()), (metadata.as_ref(), true), "{name}");
                assert_eq!(run.iter().collect::<Vec<_>>(), [(*request, payload.clone().into())], "{name}");
            }
            (Item::Run(run), Value::Retain { channel, sender, sequence, metadata, payload })
            | (Item::Run(run), Value::Redeclare { channel, sender, sequence, metadata, payload }) => {
                assert_eq!((run.channel(), run.sender(), run.bytes()), (*channel, *sender, bytes), "{name}");
                let is_retain = matches!(value, Value::Retain { .. });
                assert_eq!((run.is_retained(), run.is_redeclared()), (is_retain, !is_retain), "{name}");
                assert_eq!(run.front().unwrap().metadata, metadata.as_ref(), "{name}");
                assert_eq!(run.iter().collect::<Vec<_>>(), [(*sequence, payload.clone().into())], "{name}");
            }
            (Item::Run(run), Value::Batch { channel, sender, first, payloads }) => {
                assert_eq!((run.channel(), run.sender(), run.bytes()), (*channel, *sender, bytes), "{name}");
                let messages = (*first..).zip(payloads.iter().map(|payload| payload.clone().into()));
                assert!(run.iter().eq(messages), "{name}");
            }
            (item, _) => panic!("{name}: decoded as {item:?}"),
        }
    }
}

#[test]
fn every_kind_has_a_golden_frame() {
    let known = (0..=u8::MAX).filter(|&kind| {
        let mut chunk = BytesMut::from(Header::control(kind, 0, 0).as_bytes());
        // An empty body is an error of its own for most kinds.
        !matches!(Decoder::lender(0).next(&mut chunk), Err(DecodeError::UnknownKind { .. }))
    });
    let pinned: BTreeSet<u8> = parse(GOLDEN).iter().map(|(_, bytes)| bytes[4]).collect();
    assert_eq!(known.collect::<BTreeSet<u8>>(), pinned);
}

/// Other clients may have simpler encoders.
#[test]
fn longer_forms_of_integers_are_read() {
    let shortest = encode(&lagged(7));
    let body = |body: &[u8]| {
        let header = Header::control(kind::LAGGED, 0, body.len().try_into().unwrap());
        BytesMut::from([header.as_bytes(), body].concat().as_slice())
    };
    assert_eq!(shortest[HEADER_BYTES..], [1, 7, 0]);
    let seven = Control::Lagged(Lagged { id: 1, count: 7, extensions: vec![] });
    let count_in_u64 = [&[1, 253][..], &7_u64.to_le_bytes(), &[0]].concat();
    for longer in [&[251, 1, 0, 7, 0][..], &[252, 1, 0, 0, 0, 251, 7, 0, 0], &count_in_u64] {
        let item = Decoder::consumer(0).next(&mut body(longer));
        assert!(matches!(&item, Ok(Some(Item::Control(control))) if *control == seven), "{longer:?}: {item:?}");
    }
    // A marker that is too wide for the type of the field, and markers without a meaning.
    let id_in_u64 = [&[253][..], &1_u64.to_le_bytes(), &[7, 0]].concat();
    for wrong in [&id_in_u64[..], &[254, 7, 0], &[255, 7, 0], &[1, 254, 0], &[1, 255, 0]] {
        let item = Decoder::consumer(0).next(&mut body(wrong));
        assert!(matches!(item, Err(DecodeError::Control { .. })), "{wrong:?}: {item:?}");
    }
}

/// The frames that `PROTOCOL.md` shows: a line `frame name`, then rows of hex, each with a text behind two spaces.
fn shown() -> Vec<(&'static str, Vec<u8>)> {
    let mut frames: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut inside = false;
    for line in DOCUMENT.lines() {
        if let Some(name) = line.strip_prefix("frame ") {
            frames.push((name, Vec::new()));
            inside = true;
        } else if line.is_empty() || line.starts_with("```") {
            inside = false;
        } else if inside {
            let bytes = line.split("  ").next().unwrap_or_default();
            frames.last_mut().unwrap().1.extend(hex(bytes));
        }
    }
    frames
}

#[test]
fn the_document_shows_golden_bytes() {
    let golden = parse(GOLDEN);
    let shown = shown();
    for (name, bytes) in &shown {
        let (_, pinned) = golden.iter().find(|frame| frame.0 == *name).unwrap_or_else(|| panic!("no frame {name}"));
        assert_eq!(bytes, pinned, "{name}");
    }
    let session = golden.iter().map(|frame| frame.0).filter(|name| name.starts_with("session_"));
    assert_eq!(shown.iter().map(|frame| frame.0).collect::<Vec<_>>(), session.collect::<Vec<_>>());
}

#[test]
fn the_document_names_every_number() {
    for (number, name) in [
        (0x01, "Publish"),
        (0x02, "Batch"),
        (0x03, "Reply"),
        (0x04, "Retain"),
        (0x05, "Redeclare"),
        (kind::RETAINED, "Retained"),
        (kind::SUPERSEDED, "Superseded"),
        (kind::OPEN_INBOX, "OpenInbox"),
        (kind::INBOX_OPENED, "InboxOpened"),
        (kind::OFFER_RING, "OfferRing"),
        (kind::RING_ACCEPTED, "RingAccepted"),
        (kind::BEGIN_RING, "BeginRing"),
        (kind::END_RING, "EndRing"),
        (kind::RECALL, "Recall"),
        (kind::OFFER_LINK, "OfferLink"),
        (kind::LINK_READY, "LinkReady"),
        (kind::ADD_LINK, "AddLink"),
        (kind::LINK_ADDED, "LinkAdded"),
        (kind::FOLLOW, "Follow"),
        (kind::UNFOLLOW, "Unfollow"),
        (kind::UNLINK, "Unlink"),
        (kind::PREPARE, "Prepare"),
        (kind::PREPARED, "Prepared"),
        (kind::AWAIT_PROGRESS, "AwaitProgress"),
        (kind::PROGRESS, "Progress"),
        (kind::HELLO, "Hello"),
        (kind::WELCOME, "Welcome"),
        (kind::REFUSED, "Refused"),
        (kind::GOODBYE, "Goodbye"),
        (kind::OPEN, "Open"),
        (kind::OPENED, "Opened"),
        (kind::SUBSCRIBE, "Subscribe"),
        (kind::SUBSCRIBED, "Subscribed"),
        (kind::LAGGED, "Lagged"),
        (kind::NAMED, "Named"),
        (kind::INSPECT, "Inspect"),
        (kind::REPORT, "Report"),
        (kind::STOP, "Stop"),
    ] {
        let row = format!("| `{number:#04x}` | {name} |");
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
    for (name, limit) in [
        ("header", HEADER_BYTES),
        ("channel name", CHANNEL_NAME_BYTES_MAX),
        ("payload", PAYLOAD_BYTES_MAX as usize),
        ("metadata", META_BYTES_MAX.into()),
        ("batch body", BATCH_BYTES_MAX as usize),
        ("control body", CONTROL_BYTES_MAX as usize),
        ("purpose text", PURPOSE_BYTES_MAX),
        ("version text", VERSION_BYTES_MAX),
        ("reason text", REASON_BYTES_MAX),
        ("socket path, Linux", SOCKET_PATH_BYTES_MAX_LINUX),
        ("socket path, macOS and BSD", SOCKET_PATH_BYTES_MAX_BSD),
    ] {
        let row = format!("| {name} | {limit} bytes |");
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
    for (code, name) in [
        (RefusedCode::Version, "version"),
        (RefusedCode::OtherUser, "other user"),
        (RefusedCode::Connections, "connections"),
        (RefusedCode::Channels, "channels"),
        (RefusedCode::Protocol, "protocol"),
        (RefusedCode::Handshake, "handshake"),
        (RefusedCode::TooSlow, "too slow"),
        (RefusedCode::Memory, "memory"),
        (RefusedCode::Stopping, "stopping"),
        (RefusedCode::Unsupported, "unsupported"),
    ] {
        let row = format!("| {} | {name} |", code.number());
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
    for (overflow, name) in [
        (Overflow::DropOldest, "drop oldest"),
        (Overflow::DropNewest, "drop newest"),
        (Overflow::Latest, "latest"),
        (Overflow::Disconnect, "disconnect"),
    ] {
        let row = format!("| {} | {name} |", overflow.number());
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
    for (number, name) in [
        (tag::REPLY_ADDRESS, "reply address"),
        (tag::SCHEMA, "schema"),
        (tag::CONTENT_TYPE, "content type"),
        (tag::ORIGIN, "origin"),
        (tag::HEADER, "user header"),
        (tag::RETENTION, "retention"),
    ] {
        let row = format!("| {number} | {name} |");
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
}

#[test]
fn the_document_contains_the_minimal_client() {
    let (_, program) = DOCUMENT.split_once("```python\n").unwrap();
    let (program, _) = program.split_once("```\n").unwrap();
    assert_eq!(program, EXAMPLE, "examples/minimal.py and its copy in PROTOCOL.md");
}

/// Another implementation can read the entries of `retain_every_field` with the rules of the page alone.
#[test]
fn the_golden_metadata_has_an_entry_of_every_tag() {
    let metadata = every_tag().followed_by(&retention(1, 2)).unwrap();
    let mut rest = metadata.as_bytes();
    let mut tags = Vec::new();
    while let Some((&[tag, low, high], tail)) = rest.split_first_chunk() {
        tags.push(tag);
        rest = &tail[usize::from(u16::from_le_bytes([low, high]))..];
    }
    assert!(rest.is_empty());
    assert_eq!(tags, [tag::REPLY_ADDRESS, tag::SCHEMA, tag::CONTENT_TYPE, tag::ORIGIN, tag::HEADER, tag::RETENTION]);
    assert!(metadata.as_ref().entries().eq([
        Entry::ReplyAddress(b"\x01\x02"),
        Entry::Schema(b"\xfe"),
        Entry::ContentType("text/plain"),
        Entry::Origin("größe"),
        Entry::Header("key", b"\x00\xff"),
        Entry::Retention(Retention { lifetime_ms: 1, keep: 2 }),
    ]));
}

/// The path of a Unix socket.
#[cfg(unix)]
#[test]
fn the_document_shows_a_hashed_path() {
    use broadcaster_protocol::endpoint::{Env, candidates};
    let home = "/home/a-user-whose-home-directory-has-a-name-that-is-longer-than-one-would-think";
    let state = format!("{home}/.local/state/broadcaster");
    let env = Env {
        euid: 1000,
        state_dir: Some(state.clone().into()),
        short_dir: Some("/tmp".into()),
        path_bytes_max: SOCKET_PATH_BYTES_MAX_LINUX,
        ..Env::default()
    };
    let candidates = candidates(&env).unwrap();
    let shown = format!("{state}\n{}\n", candidates[0].socket.display());
    assert!(candidates.len() == 1 && DOCUMENT.contains(&shown), "{shown}");
}
