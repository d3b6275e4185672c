//! Typed handles: each codec, each way to receive, marks and their mismatches, damaged payloads, and values that are channels.

#![cfg(all(feature = "embedded", feature = "tokio", feature = "json", feature = "postcard", feature = "bincode"))]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;

use common::{bus, runtime};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;
use system_broadcaster::typed::{
    Bincode, Codec, DecodeError, Json, Postcard, Schema, TypedListener, TypedRecvError, TypedSendError, TypedSender,
};
use system_broadcaster::{ChannelName, ChannelPattern, Metadata, Options, RecvError, Selector, SendError, SenderId};

/// Longer than any step takes.
const WATCHDOG: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Theme {
    dark: bool,
    accent: String,
    fonts: Vec<Font>,
    sizes: BTreeMap<String, (u8, i64)>,
    parent: Option<Box<Theme>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Font {
    Default,
    Named(String),
    Sized { name: String, size: f32 },
    Both(char, u128),
}

impl Schema for Theme {
    const NAME: &'static str = "com.example.Theme";
}

fn theme() -> Theme {
    let leaf = Theme { dark: true, accent: String::new(), fonts: vec![], sizes: BTreeMap::new(), parent: None };
    Theme {
        dark: false,
        accent: "teal".into(),
        fonts: vec![
            Font::Default,
            Font::Named("Inter".into()),
            Font::Sized { name: "ß".into(), size: 10.5 },
            Font::Both('é', u128::MAX),
        ],
        sizes: BTreeMap::from([("a".into(), (1, i64::MIN)), ("b".into(), (2, -1))]),
        parent: Some(Box::new(leaf)),
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Other {
    number: u32,
}

impl Schema for Other {
    const NAME: &'static str = "com.example.Other";
}

fn in_every_way<C: Codec>() {
    let (_host, options) = bus();
    let mut listener = options.typed_listener::<Theme, C>("theme").unwrap();
    let mut sender = options.typed_sender::<Theme, C>("theme").unwrap();
    sender.send(&theme()).unwrap();
    let message = listener.recv().unwrap();
    assert_eq!(message.value(), &theme());
    assert_eq!((message.sender(), message.sequence()), (sender.sender().id(), 0));
    assert_eq!((message.channel().as_str(), message.sender_pid()), ("theme", Some(std::process::id())));
    assert_eq!(message.metadata().schema(), Some(format!("{}:com.example.Theme", C::NAME).as_bytes()));
    assert_eq!(message.metadata().content_type(), C::CONTENT_TYPE);
    sender.try_send(&theme()).unwrap();
    assert_eq!(listener.recv_timeout(WATCHDOG).unwrap().into_value(), theme());
    let error = listener.recv_timeout(Duration::from_millis(1)).unwrap_err();
    assert!(error.is_timeout() && matches!(error, TypedRecvError::Recv(RecvError::TimedOut { .. })));
    assert!(matches!(listener.try_recv(), Err(TypedRecvError::Recv(RecvError::Empty))));
    sender.send_with(&Metadata::new().header("trace", b"42").unwrap(), &theme()).unwrap();
    let (value, message) = listener.iter().next().unwrap().unwrap().into_parts();
    assert_eq!((value, message.metadata().header("trace")), (theme(), Some(&b"42"[..])));
    runtime().block_on(async {
        sender.send_async(&theme()).await.unwrap();
        assert_eq!(listener.recv_async().await.unwrap().value(), &theme());
        sender.send_with_async(&Metadata::new(), &theme()).await.unwrap();
        assert_eq!(listener.messages().next().await.unwrap().unwrap().value(), &theme());
        sender.send_async(&theme()).await.unwrap();
        let closer = listener.listener_mut().closer().unwrap();
        let mut stream = listener.into_stream();
        assert_eq!(stream.next().await.unwrap().unwrap().value(), &theme());
        closer.close();
        assert!(stream.next().await.is_none());
        assert!(stream.into_inner().iter().next().is_none());
    });
}

#[test]
fn json_carries_values() {
    in_every_way::<Json>();
}

#[test]
fn postcard_carries_values() {
    in_every_way::<Postcard>();
}

#[test]
fn bincode_carries_values() {
    in_every_way::<Bincode>();
}

#[test]
fn handles_of_a_task_are_typed_too() {
    let (_host, options) = bus();
    runtime().block_on(async {
        let mut listener = options.typed_listener_async::<u64, Postcard>("numbers").await.unwrap();
        let mut sender = options.typed_sender_async::<u64, Postcard>("numbers").await.unwrap();
        sender.send_async(&7).await.unwrap();
        assert_eq!(listener.recv_async().await.unwrap().into_value(), 7);
    });
}

#[test]
fn another_type_is_an_error_that_names_both() {
    let (_host, options) = bus();
    let mut listener = options.typed_listener::<Theme, Postcard>("theme").unwrap();
    let mut other = options.typed_sender::<Other, Postcard>("theme").unwrap();
    let mut json = options.typed_sender::<Theme, Json>("theme").unwrap();
    let mut right = options.typed_sender::<Theme, Postcard>("theme").unwrap();

    other.send(&Other { number: 7 }).unwrap();
    let error = listener.recv().unwrap_err();
    let id = other.sender().id();
    let expected = "not postcard:com.example.Theme";
    let text = format!("a message on channel theme from sender {id} is postcard:com.example.Other, {expected}");
    assert_eq!(error.to_string(), text);
    let message = error.into_message().unwrap();
    assert_eq!(message.decode::<Other, Postcard>().unwrap(), Other { number: 7 }, "it can be decoded as what it is");

    json.send(&theme()).unwrap();
    let Err(TypedRecvError::Mismatch { expected, found, message }) = listener.recv() else { panic!("a mismatch") };
    assert_eq!(expected, "postcard:com.example.Theme");
    assert_eq!((found.as_deref(), message.sender()), (Some("json:com.example.Theme"), json.sender().id()));

    right.send(&theme()).unwrap();
    assert_eq!(listener.recv().unwrap().value(), &theme(), "the listener continues");
}

#[test]
fn a_mark_cannot_forge_a_line_of_text() {
    let (_host, options) = bus();
    let mut listener = options.typed_listener::<Theme, Json>("theme").unwrap();
    let mark = Metadata::new().schema(b"json:\x1b[2J\n\xff").unwrap();
    options.sender("theme").unwrap().send_with(&mark, b"{}").unwrap();
    let text = listener.recv().unwrap_err().to_string();
    assert!(text.contains("is json:\\u{1b}[2J\\n\u{fffd}, not json:com.example.Theme"), "{text}");
}

#[test]
fn without_a_mark_only_a_self_describing_codec_decodes() {
    let (_host, options) = bus();
    let mut json = options.typed_listener::<Other, Json>("theme").unwrap();
    let mut postcard = options.typed_listener::<Other, Postcard>("theme").unwrap();
    let mut sender = options.sender("theme").unwrap();
    sender.send(br#"{"number":7}"#).unwrap();
    assert_eq!(json.recv().unwrap().value(), &Other { number: 7 });
    let error = postcard.recv().unwrap_err();
    assert!(matches!(error, TypedRecvError::Mismatch { found: None, .. }));
    assert!(error.to_string().ends_with("is without a mark, not postcard:com.example.Other"), "{error}");

    sender.send(b"text").unwrap();
    let error = json.recv().unwrap_err();
    let text =
        format!("the payload of a message on channel theme from sender {} is not json:com.example.Other", sender.id());
    assert_eq!(error.to_string(), text);
    assert!(error.source().unwrap().to_string().contains("line 1 column 2"), "{:?}", error.source());
    assert_eq!(error.into_message().unwrap().payload(), b"text");
}

#[test]
fn a_mark_precedes_the_schema_of_the_caller() {
    let (_host, options) = bus();
    let mut listener = options.typed_listener::<Other, Json>("theme").unwrap();
    let mut sender = options.typed_sender::<Other, Json>("theme").unwrap();
    sender.send_with(&Metadata::new().schema(b"mine").unwrap(), &Other { number: 7 }).unwrap();
    assert_eq!(listener.recv().unwrap().value(), &Other { number: 7 });
    let full = Metadata::new().header("key", &[0; 4080]).unwrap();
    let error = sender.send_with(&full, &Other { number: 7 }).unwrap_err();
    assert!(matches!(error, TypedSendError::Metadata(_)), "{error}");
}

#[test]
fn values_are_sent_to_other_channels() {
    let (_host, options) = bus();
    let mut other = options.typed_listener::<u32, Json>("other").unwrap();
    let mut sender = options.typed_sender::<u32, Json>("theme").unwrap();
    sender.send_to("other", &7).unwrap();
    assert_eq!(other.recv().unwrap().value(), &7);
    runtime().block_on(sender.send_to_async("other", &8)).unwrap();
    assert_eq!(other.recv().unwrap().value(), &8);
    assert!(matches!(sender.send_to("no/slash", &7), Err(TypedSendError::Send(SendError::Name(_)))));
}

#[test]
fn a_listener_on_a_pattern_can_be_typed() {
    let (_host, options) = bus();
    let listener = options.listener_on([Selector::pattern("com.example.*").unwrap()]).unwrap();
    let mut listener = TypedListener::<u32, Json>::new(listener);
    let mut sender = options.typed_sender::<u32, Json>("com.example.a").unwrap();
    sender.send(&7).unwrap();
    sender.send_to("com.example.b", &8).unwrap();
    for (channel, value) in [("com.example.a", 7), ("com.example.b", 8)] {
        let message = listener.recv().unwrap();
        assert_eq!((message.channel().as_str(), message.value()), (channel, &value));
    }
}

/// A value that no codec can encode.
struct Unencodable;

impl Schema for Unencodable {
    const NAME: &'static str = "com.example.Unencodable";
}

impl Serialize for Unencodable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("on purpose"))
    }
}

#[test]
fn what_cannot_be_encoded_is_not_sent() {
    let (_host, options) = bus();
    let mut listener = options.listener("theme").unwrap();
    let mut sender = options.typed_sender::<Unencodable, Json>("theme").unwrap();
    let error = sender.send(&Unencodable).unwrap_err();
    assert_eq!(error.to_string(), "a value of json:com.example.Unencodable cannot be encoded");
    assert_eq!(error.source().unwrap().to_string(), "on purpose");
    assert!(sender.try_send(&Unencodable).is_err());
    sender.sender_mut().send(b"next").unwrap();
    let message = listener.recv().unwrap();
    assert_eq!((message.payload(), message.sequence()), (&b"next"[..], 0));
}

#[test]
fn a_value_larger_than_a_payload_is_an_error() {
    let (_host, options) = bus();
    let mut sender = options.typed_sender::<String, Postcard>("text").unwrap();
    let error = sender.send(&"x".repeat(64 * 1024 * 1024)).unwrap_err();
    assert!(matches!(error, TypedSendError::Send(SendError::TooLarge { .. })), "{error}");
}

#[test]
fn losses_pass_through() {
    let (_host, options) = bus();
    let mut listener = options.typed_listener::<String, Postcard>("text").unwrap();
    options.daemon().stop().unwrap();
    let error = listener.recv().unwrap_err();
    assert_eq!(error.lag().map(|lag| lag.count), Some(None), "{error}");
    options.typed_sender::<String, Postcard>("text").unwrap().send(&"next".into()).unwrap();
    assert_eq!(listener.recv().unwrap().value(), "next");
}

/// Everything that a listener could be fooled with: truncated, extended and changed payloads end in an error or a value, and in neither case
/// in anything else.
fn survives_damage<C: Codec>() {
    let mut payload = Vec::new();
    C::encode(&theme(), &mut payload).unwrap();
    assert_eq!(C::decode::<Theme>(&payload).unwrap(), theme());
    for len in 0..payload.len() {
        assert!(C::decode::<Theme>(&payload[..len]).is_err(), "{len} bytes");
    }
    payload.push(b'1');
    assert!(C::decode::<Theme>(&payload).is_err(), "bytes follow the value");
    payload.pop();
    for at in 0..payload.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xfb, 0xfc, 0xfd, 0xfe, 0xff] {
            let mut damaged = payload.clone();
            damaged[at] = byte;
            let _either: Result<Theme, _> = C::decode(&damaged);
        }
    }
    // Random bytes, most of them small, so that lengths are often valid.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20_000 {
        let random: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state & 1 == 0 { (state >> 8) as u8 % 4 } else { (state >> 8) as u8 }
        })
        .take(64)
        .collect();
        let _either: Result<Theme, _> = C::decode(&random);
    }
}

#[test]
fn damaged_payloads_are_errors() {
    survives_damage::<Json>();
    survives_damage::<Postcard>();
    survives_damage::<Bincode>();
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Branches(Vec<Tree>),
}

/// A chain of branches.
fn tree(depth: usize) -> Tree {
    (0..depth).fold(Tree::Leaf, |tree, _| Tree::Branches(vec![tree]))
}

fn bounds_depth<C: Codec>(text: &str) {
    let mut payload = Vec::new();
    C::encode(&tree(40), &mut payload).unwrap();
    assert_eq!(C::decode::<Tree>(&payload).unwrap(), tree(40));
    payload.clear();
    C::encode(&tree(150), &mut payload).unwrap();
    let error = C::decode::<Tree>(&payload).unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
}

#[test]
fn nesting_is_bounded() {
    bounds_depth::<Json>("recursion limit exceeded");
    bounds_depth::<Postcard>("values are nested more than 128 levels deep");
    bounds_depth::<Bincode>("values are nested more than 128 levels deep");
    // What would exhaust the stack otherwise: a million branches in as many bytes.
    assert!(Json::decode::<Tree>(&br#"{"Branches":["#.repeat(1_000_000)).is_err());
    assert!(Postcard::decode::<Tree>(&[1; 2_000_000]).is_err());
    assert!(Bincode::decode::<Tree>(&[1; 2_000_000]).is_err());
}

fn rejects<C: Codec, T: DeserializeOwned>(payload: &[u8]) {
    assert!(C::decode::<T>(payload).is_err(), "{payload:?}");
}

#[test]
fn lengths_that_a_payload_only_claims_are_errors() {
    const HUGE: &[u8] = &[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    const HUGE_POSTCARD: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    rejects::<Bincode, String>(HUGE);
    rejects::<Bincode, Vec<u64>>(HUGE);
    rejects::<Bincode, BTreeMap<u8, u8>>(HUGE);
    rejects::<Postcard, String>(HUGE_POSTCARD);
    rejects::<Postcard, Vec<u64>>(HUGE_POSTCARD);
    rejects::<Postcard, BTreeMap<u8, u8>>(HUGE_POSTCARD);
    // Elements without bytes would be counted for centuries.
    rejects::<Bincode, Vec<()>>(HUGE);
    rejects::<Postcard, Vec<()>>(HUGE_POSTCARD);
    let mut payload = Vec::new();
    Postcard::encode(&vec![(); 1000], &mut payload).unwrap();
    assert_eq!(Postcard::decode::<Vec<()>>(&payload).unwrap().len(), 1000);
}

#[test]
fn many_small_elements_are_within_the_bounds() {
    type Rows = Vec<((u8,), Vec<u8>, Option<()>)>;
    let rows: Rows = vec![((1,), vec![], None); 200_000];
    let mut payload = Vec::new();
    Postcard::encode(&rows, &mut payload).unwrap();
    assert_eq!(Postcard::decode::<Rows>(&payload).unwrap(), rows);
    payload.clear();
    Bincode::encode(&rows, &mut payload).unwrap();
    assert_eq!(Bincode::decode::<Rows>(&payload).unwrap(), rows);
}

#[derive(Serialize, Deserialize)]
struct Question {
    text: String,
    answer_to: ChannelName,
    asked_by: SenderId,
}

impl Schema for Question {
    const NAME: &'static str = "com.example.Question";
}

#[test]
fn a_reply_channel_is_sent_over_a_channel() {
    fn ask<C: Codec>() {
        let (_host, options) = bus();
        let mut questions = options.typed_listener::<Question, C>("questions").unwrap();
        let answering = std::thread::spawn({
            let options = options.clone();
            move || {
                let (question, message) = questions.recv().unwrap().into_parts();
                assert_eq!((question.asked_by, question.text.as_str()), (message.sender(), "6 * 7"));
                let mut answers: TypedSender<u32, C> = options.typed_sender(question.answer_to.as_str()).unwrap();
                answers.send(&42).unwrap();
            }
        });
        let mut asking = options.typed_sender::<Question, C>("questions").unwrap();
        let answer_to = ChannelName::new("answers.1").unwrap();
        let mut answers = options.typed_listener::<u32, C>(answer_to.as_str()).unwrap();
        let asked_by = asking.sender().id();
        asking.send(&Question { text: "6 * 7".into(), answer_to, asked_by }).unwrap();
        assert_eq!(answers.recv_timeout(WATCHDOG).unwrap().into_value(), 42);
        answering.join().unwrap();
    }
    ask::<Json>();
    ask::<Postcard>();
    ask::<Bincode>();
}

#[test]
fn what_is_no_name_does_not_become_a_channel() {
    let name = ChannelName::new("com.example.sync").unwrap();
    assert_eq!(serde_json::to_string(&name).unwrap(), r#""com.example.sync""#);
    assert_eq!(serde_json::from_str::<ChannelName>(r#""com.example.sync""#).unwrap(), name);
    let error = serde_json::from_str::<ChannelName>(r#""no/slash""#).unwrap_err().to_string();
    assert!(error.contains("'/' and control characters are not allowed"), "{error}");
    let long = format!("{:?}", "x".repeat(256));
    assert!(serde_json::from_str::<ChannelName>(&long).is_err());
    assert!(serde_json::from_str::<ChannelName>("7").is_err());
    let pattern = ChannelPattern::new("com.*").unwrap();
    assert_eq!(serde_json::from_str::<ChannelPattern>(&serde_json::to_string(&pattern).unwrap()).unwrap(), pattern);
    let error = serde_json::from_str::<ChannelPattern>(r#""com.ex*""#).unwrap_err().to_string();
    assert!(error.contains('*'), "{error}");
    for selector in [Selector::Name(ChannelName::new("com.*").unwrap()), Selector::Pattern(pattern)] {
        let text = serde_json::to_string(&selector).unwrap();
        assert!([r#"{"name":"com.*"}"#, r#"{"pattern":"com.*"}"#].contains(&&*text), "{text}");
        assert_eq!(serde_json::from_str::<Selector>(&text).unwrap(), selector);
        let mut payload = Vec::new();
        Bincode::encode(&selector, &mut payload).unwrap();
        assert_eq!(Bincode::decode::<Selector>(&payload).unwrap(), selector);
    }
    let mut payload = Vec::new();
    Postcard::encode("\u{7}", &mut payload).unwrap();
    assert!(Postcard::decode::<ChannelName>(&payload).is_err());
    let id: SenderId = serde_json::from_str(r#"{"pid":12,"number":7}"#).unwrap();
    assert_eq!((id.pid(), id.number()), (Some(12), 7));
    assert_eq!(serde_json::to_string(&id).unwrap(), r#"{"pid":12,"number":7}"#);
}

#[test]
fn an_untyped_receive_can_decode_as_well() {
    let (_host, options) = bus();
    let mut listener = options.listener("theme").unwrap();
    let mut sender = options.typed_sender::<Other, Postcard>("theme").unwrap();
    sender.send(&Other { number: 7 }).unwrap();
    let message = listener.recv_ref().unwrap();
    assert_eq!(message.decode::<Other, Postcard>().unwrap(), Other { number: 7 });
    let error = message.decode::<Theme, Postcard>().unwrap_err();
    assert_eq!(error.to_string(), "it is postcard:com.example.Other, not postcard:com.example.Theme");
    assert!(matches!(error, DecodeError::Mismatch { .. }));
    assert_eq!(message.payload(), [7]);
}

/// Handles are as free as their untyped halves, whatever the type is.
#[test]
fn handles_move_between_threads() {
    fn check<T: Send + Sync + Unpin + 'static>(_: T) {}
    struct Local(std::rc::Rc<()>);
    impl Schema for Local {
        const NAME: &'static str = "local";
    }
    impl Serialize for Local {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let Self(unit) = self;
            ().serialize(serializer).inspect(|_| drop(std::rc::Rc::clone(unit)))
        }
    }
    let (_host, options): (_, Options) = bus();
    check(options.typed_sender::<Local, Json>("local").unwrap());
}

/// A value whose encoding is empty.
#[derive(Serialize)]
struct Unit;

impl Schema for Unit {
    const NAME: &'static str = "com.example.Unit";
}

#[test]
fn a_late_listener_receives_the_value_and_skips_what_clears_it() {
    let (_host, options) = bus();
    let mut sender = options.typed_sender::<u32, Json>("volume").unwrap();
    sender.retain(&70).unwrap();
    sender.retain_for(&80, WATCHDOG).unwrap();
    let mut listener = options.typed_listener::<u32, Json>("volume").unwrap();
    sender.sender_mut().clear_retained().unwrap();
    sender.send(&90).unwrap();
    let next = |message: system_broadcaster::typed::TypedMessage<u32>| (message.is_replayed(), message.into_value());
    assert_eq!(next(listener.recv().unwrap()), (true, 80));
    assert_eq!(next(listener.recv_timeout(WATCHDOG).unwrap()), (false, 90));
    sender.sender_mut().clear_retained().unwrap();
    assert!(matches!(listener.try_recv(), Err(TypedRecvError::Recv(RecvError::Empty))));
    sender.sender_mut().clear_retained().unwrap();
    let error = listener.recv_timeout(Duration::from_millis(10));
    let after = Duration::from_millis(10);
    assert!(matches!(error, Err(TypedRecvError::Recv(RecvError::TimedOut { after: time })) if time == after));
    runtime().block_on(async {
        sender.retain_async(&1).await.unwrap();
        sender.sender_mut().clear_retained_async().await.unwrap();
        sender.retain_for_async(&2, WATCHDOG).await.unwrap();
        assert_eq!(next(listener.recv_async().await.unwrap()), (false, 1));
        assert_eq!(next(listener.messages().next().await.unwrap().unwrap()), (false, 2));
    });
    let mut units = options.typed_sender::<Unit, Postcard>("unit").unwrap();
    let error = units.retain(&Unit).unwrap_err();
    assert!(matches!(error, TypedSendError::Empty { .. }), "{error}");
    assert_eq!(options.daemon().status().unwrap().messages_accepted, 9, "it was not sent");
}
