//! The bytes of the wire, pinned: `golden.txt` holds one frame of every kind, and more where a field has cases. A change
//! of bytes fails here, in whichever direction it was made.
//!
//! A change that is meant is made by `UPDATE_GOLDEN=1 cargo test -p broadcaster-protocol --test golden every_frame`, which
//! writes `golden.txt` anew. Bytes that were published in a release never change inside a protocol version.
#![allow(clippy::unwrap_used)]

use broadcaster_protocol::control::{
    Control, Extension, Goodbye, Hello, Lagged, MAGIC, Monitor, Named, Open, Opened, Overflow, Refused, RefusedCode,
    Report, Role, Subscribe, Subscribed, Welcome, capability, kind,
};
use broadcaster_protocol::endpoint::{Env, candidates};
use broadcaster_protocol::limits::{
    BATCH_BYTES_MAX, CHANNEL_NAME_BYTES_MAX, CONTROL_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX, REASON_BYTES_MAX,
    SOCKET_PATH_BYTES_MAX_BSD, SOCKET_PATH_BYTES_MAX_LINUX, VERSION_BYTES_MAX,
};
use broadcaster_protocol::{ChannelId, DecodeError, Decoder, Header, Item, SenderId};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

const UPDATE_VARIABLE: &str = "UPDATE_GOLDEN";

const GOLDEN: &str = include_str!("golden.txt");

const DOCUMENT: &str = include_str!("../PROTOCOL.md");

const PREFACE: &str = "\
# The bytes of every kind of frame: a name, then hex, the header on its first line. golden.rs says which values they
# stand for and checks them in both directions. The session_ frames are the example of PROTOCOL.md.
#
# After a change that is meant to change bytes:
# UPDATE_GOLDEN=1 cargo test -p broadcaster-protocol --test golden every_frame
";

#[derive(Debug, Clone)]
enum Value {
    Control(Control),
    Publish { channel: ChannelId, sender: SenderId, sequence: u64, payload: Vec<u8> },
    Batch { channel: ChannelId, sender: SenderId, first: u64, payloads: Vec<Vec<u8>> },
}

fn control(control: Control) -> Value {
    Value::Control(control)
}

fn hello(role: Role, pid: u32, sender_number: u32) -> Hello {
    Hello {
        magic: MAGIC,
        protocol_min: 1,
        protocol_max: 1,
        role,
        capabilities: 0,
        pid,
        sender_number,
        version: "0.2.0".into(),
        extensions: vec![],
    }
}

fn welcome(sender: u64) -> Welcome {
    Welcome {
        protocol: 1,
        capabilities: capability::MONITOR,
        sender,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        pid: 4000,
        version: "0.2.0".into(),
        extensions: vec![],
    }
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

fn subscribe(channel: &str, overflow: Overflow) -> Value {
    control(Control::Subscribe(Subscribe { channel: channel.into(), overflow }))
}

fn refused(code: RefusedCode) -> Value {
    control(Control::Refused(Refused::new(code, "why")))
}

fn lagged(count: u64) -> Value {
    control(Control::Lagged(Lagged { channel: 1, count }))
}

fn goodbye(reason: &str) -> Value {
    control(Control::Goodbye(Goodbye { reason: reason.into() }))
}

fn publish(sender: SenderId, sequence: u64, payload: &[u8]) -> Value {
    Value::Publish { channel: ChannelId(1), sender, sequence, payload: payload.into() }
}

/// Every frame of the file, in its order.
fn vectors() -> Vec<(&'static str, Value)> {
    let sender = SenderId::new(4242, 7);
    let extensions = vec![
        Extension { id: 1, data: vec![] },
        Extension { id: 250, data: vec![0x00, 0x7f, 0xfa, 0xfb, 0xfc, 0xfd, 0xff] },
        Extension { id: u16::MAX, data: (0..=255).collect() },
    ];
    vec![
        ("session_listener_hello", control(Control::Hello(hello(Role::Listener, 4243, 0)))),
        ("session_listener_welcome", control(Control::Welcome(welcome(0)))),
        ("session_subscribe", subscribe("news", Overflow::DropOldest)),
        ("session_subscribed", control(Control::Subscribed(Subscribed { channel: "news".into(), id: 1 }))),
        ("session_sender_hello", control(Control::Hello(hello(Role::Sender, 4242, 7)))),
        ("session_sender_welcome", control(Control::Welcome(welcome(sender.raw())))),
        ("session_open", control(Control::Open(Open { channel: "news".into(), next_sequence: 0 }))),
        ("session_opened", control(Control::Opened(Opened { channel: 1, listeners: 1 }))),
        ("session_publish", publish(sender, 0, b"hello")),
        (
            "session_batch",
            Value::Batch { channel: ChannelId(1), sender, first: 1, payloads: vec![b"one".to_vec(), b"two".to_vec()] },
        ),
        ("session_lagged", lagged(300)),
        ("session_goodbye", goodbye("the daemon is stopping")),
        ("publish_empty", publish(SenderId::new(0, 0), 0, b"")),
        (
            "publish_every_field",
            Value::Publish {
                channel: ChannelId(0x0403_0201),
                sender: SenderId::from_raw(0x1817_1615_1413_1211),
                sequence: 0x2827_2625_2423_2221,
                payload: (0xf0..=0xff).collect(),
            },
        ),
        ("publish_last_sequence", publish(SenderId::new(u32::MAX, u32::MAX), u64::MAX, b"x")),
        ("batch_of_one", Value::Batch { channel: ChannelId(1), sender, first: 0, payloads: vec![b"hello".to_vec()] }),
        (
            "batch_every_field",
            Value::Batch {
                channel: ChannelId(0x0403_0201),
                sender: SenderId::from_raw(0x1817_1615_1413_1211),
                first: 0x2827_2625_2423_2221,
                payloads: vec![vec![], vec![0xff], vec![0xee; 300], vec![]],
            },
        ),
        (
            "hello_every_field",
            control(Control::Hello(Hello {
                magic: *b"\xfb\xfc\xfd\xff",
                protocol_min: 2,
                protocol_max: 0x0403,
                role: Role::Inspector,
                capabilities: 0x0807_0605_0403_0201,
                pid: 0x1413_1211,
                sender_number: 0x2423_2221,
                version: "größe".into(),
                extensions: extensions.clone(),
            })),
        ),
        (
            "welcome_every_field",
            control(Control::Welcome(Welcome {
                protocol: 0x0201,
                capabilities: u64::MAX,
                sender: 0x1817_1615_1413_1211,
                payload_bytes_max: 0x2423_2221,
                pid: 0x3433_3231,
                version: String::new(),
                extensions,
            })),
        ),
        ("refused_version", refused(RefusedCode::Version)),
        ("refused_other_user", refused(RefusedCode::OtherUser)),
        ("refused_connections", refused(RefusedCode::Connections)),
        ("refused_channels", refused(RefusedCode::Channels)),
        ("refused_protocol", refused(RefusedCode::Protocol)),
        ("refused_handshake", refused(RefusedCode::Handshake)),
        ("refused_too_slow", refused(RefusedCode::TooSlow)),
        ("refused_memory", refused(RefusedCode::Memory)),
        ("refused_stopping", refused(RefusedCode::Stopping)),
        ("refused_by_a_newer_daemon", refused(RefusedCode::Other(1000))),
        ("goodbye_without_reason", goodbye("")),
        ("goodbye_of_250_bytes", goodbye(&"g".repeat(250))),
        ("goodbye_of_251_bytes", goodbye(&"g".repeat(251))),
        (
            "open_every_field",
            control(Control::Open(Open { channel: "größe.日本".into(), next_sequence: 0x0807_0605_0403_0201 })),
        ),
        ("opened_every_field", control(Control::Opened(Opened { channel: 0x0403_0201, listeners: 0x1413_1211 }))),
        ("subscribe_drop_newest", subscribe("c", Overflow::DropNewest)),
        ("subscribe_latest", subscribe("c", Overflow::Latest)),
        ("subscribe_disconnect", subscribe(&"c".repeat(CHANNEL_NAME_BYTES_MAX), Overflow::Disconnect)),
        ("subscribed_every_field", control(Control::Subscribed(Subscribed { channel: "c".into(), id: 0x0403_0201 }))),
        ("lagged_250", lagged(250)),
        ("lagged_251", lagged(251)),
        ("lagged_65535", lagged(65_535)),
        ("lagged_65536", lagged(65_536)),
        ("lagged_4294967295", lagged(4_294_967_295)),
        ("lagged_4294967296", lagged(4_294_967_296)),
        ("lagged_18446744073709551615", lagged(u64::MAX)),
        ("inspect", control(Control::Inspect)),
        ("report_small", control(Control::Report(report(1)))),
        (
            "report_large",
            control(Control::Report(Report {
                extensions: vec![Extension { id: 5, data: b"five".to_vec() }],
                ..report(0x0807_0605_0403_0201)
            })),
        ),
        ("stop", control(Control::Stop)),
        ("monitor_all", control(Control::Monitor(Monitor { channels: vec![] }))),
        ("monitor_two", control(Control::Monitor(Monitor { channels: vec!["news".into(), "größe.日本".into()] }))),
        ("monitoring", control(Control::Monitoring)),
        ("named", control(Control::Named(Named { channel: 0x0403_0201, name: "news".into() }))),
        ("named_no_more", control(Control::Named(Named { channel: 1, name: String::new() }))),
    ]
}

fn encode(value: &Value) -> Vec<u8> {
    match value {
        Value::Control(control) => {
            let mut wire = Vec::new();
            control.encode(&mut wire).unwrap();
            wire
        }
        Value::Publish { channel, sender, sequence, payload } => {
            let header = Header::publish(*channel, *sender, *sequence, payload.len().try_into().unwrap());
            [header.as_bytes(), payload].concat()
        }
        Value::Batch { channel, sender, first, payloads } => {
            let records = payloads.iter().map(|payload| (u32::try_from(payload.len()).unwrap().to_le_bytes(), payload));
            let body: Vec<u8> = records.flat_map(|(len, payload)| [&len[..], payload].concat()).collect();
            let header = Header::batch(*channel, *sender, *first, body.len().try_into().unwrap());
            [header.as_bytes(), &body].concat()
        }
    }
}

/// What the decoder makes of one whole frame.
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

/// The file as it should be.
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
    assert_eq!(pinned, wanted, "the names in golden.txt and those here; {UPDATE_VARIABLE}=1 writes golden.txt anew");
    for ((name, bytes), (_, value)) in golden.iter().zip(&vectors) {
        let encoded = encode(value);
        assert_eq!(encoded, *bytes, "{name}: {value:?} is written in other bytes than golden.txt has");
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
            (Item::Run(run), Value::Publish { channel, sender, sequence, payload }) => {
                assert_eq!((run.channel(), run.sender(), run.bytes()), (*channel, *sender, bytes), "{name}");
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
        !matches!(Decoder::lender(0).next(&mut chunk), Err(DecodeError::UnknownKind { .. }))
    });
    let pinned: BTreeSet<u8> = parse(GOLDEN).iter().map(|(_, bytes)| bytes[4]).collect();
    assert_eq!(known.collect::<BTreeSet<u8>>(), pinned);
}

/// Integers need not be written in the shortest form to be read: other clients may have simpler encoders.
#[test]
fn longer_forms_of_integers_are_read() {
    let shortest = encode(&lagged(7));
    let body = |body: &[u8]| {
        let header = Header::control(kind::LAGGED, 0, body.len().try_into().unwrap());
        BytesMut::from([header.as_bytes(), body].concat().as_slice())
    };
    assert_eq!(shortest[HEADER_BYTES..], [1, 7]);
    let seven = Control::Lagged(Lagged { channel: 1, count: 7 });
    let count_in_u64 = [&[1, 253][..], &7_u64.to_le_bytes()].concat();
    for longer in [&[251, 1, 0, 7][..], &[252, 1, 0, 0, 0, 251, 7, 0], &count_in_u64] {
        let item = Decoder::consumer(0).next(&mut body(longer));
        assert!(matches!(&item, Ok(Some(Item::Control(control))) if *control == seven), "{longer:?}: {item:?}");
    }
    // A marker for more bytes than the field's type has, and markers that mean nothing.
    let channel_in_u64 = [&[253][..], &1_u64.to_le_bytes(), &[7]].concat();
    for wrong in [&channel_in_u64[..], &[254, 7], &[255, 7], &[1, 254], &[1, 255]] {
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
        (kind::HELLO, "Hello"),
        (kind::WELCOME, "Welcome"),
        (kind::REFUSED, "Refused"),
        (kind::GOODBYE, "Goodbye"),
        (kind::OPEN, "Open"),
        (kind::OPENED, "Opened"),
        (kind::SUBSCRIBE, "Subscribe"),
        (kind::SUBSCRIBED, "Subscribed"),
        (kind::LAGGED, "Lagged"),
        (kind::INSPECT, "Inspect"),
        (kind::REPORT, "Report"),
        (kind::STOP, "Stop"),
        (kind::MONITOR, "Monitor"),
        (kind::MONITORING, "Monitoring"),
        (kind::NAMED, "Named"),
    ] {
        let row = format!("| `{number:#04x}` | {name} |");
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
    for (name, limit) in [
        ("header", HEADER_BYTES),
        ("channel name", CHANNEL_NAME_BYTES_MAX),
        ("payload", PAYLOAD_BYTES_MAX as usize),
        ("batch body", BATCH_BYTES_MAX as usize),
        ("control body", CONTROL_BYTES_MAX as usize),
        ("version text", VERSION_BYTES_MAX),
        ("reason text", REASON_BYTES_MAX),
        ("socket path, Linux", SOCKET_PATH_BYTES_MAX_LINUX),
        ("socket path, macOS and BSD", SOCKET_PATH_BYTES_MAX_BSD),
    ] {
        let row = format!("| {name} | {limit} bytes |");
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
}

#[test]
fn the_document_shows_a_hashed_place() {
    let home = "/home/a-user-whose-home-directory-has-a-name-that-is-longer-than-one-would-think";
    let state = format!("{home}/.local/state/broadcaster");
    let env = Env {
        euid: 1000,
        state_dir: Some(state.clone().into()),
        short_dir: Some("/tmp".into()),
        path_bytes_max: SOCKET_PATH_BYTES_MAX_LINUX,
        ..Env::default()
    };
    let places = candidates(&env).unwrap();
    let shown = format!("{state}\n{}\n", places[0].socket.display());
    assert!(places.len() == 1 && DOCUMENT.contains(&shown), "{shown}");
}
