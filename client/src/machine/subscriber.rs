//! The subscriptions of one connection, for listeners and monitors alike: frames as they arrive, and gaps in their places. It
//! never decides whether to connect again.

use super::session::{Ended, Machine, Phase, Session};
use crate::ChannelName;
use broadcaster_protocol::control::{self, Control, Lagged, Overflow, Refused, RefusedCode, Subscribe, Welcome};
use broadcaster_protocol::frame::KIND_PUBLISH;
use broadcaster_protocol::limits::PAYLOAD_BYTES_MAX;
use broadcaster_protocol::meta::MetadataRef;
use broadcaster_protocol::{ChannelId, Frame, Item, Run, SenderId};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Names that are remembered at most. A daemon has no more channels.
const NAMES_MAX: usize = 1 << 20;

/// Bytes of frames that wait until the last subscription is confirmed: one message of any size, or many. The daemon confirms a thousand
/// subscriptions in a few turns, and traffic does not wait for that.
const HELD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX as usize + (1 << 20);

/// What a run takes in addition to its bytes while it waits.
const HELD_RUN_BYTES: usize = 128;

/// Items that wait until the last subscription is confirmed, gaps and names included.
const HELD_ITEMS_MAX: usize = NAMES_MAX;

/// Which channels a subscription covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// The channel of this name.
    Name(ChannelName),
    /// Every channel, including those that appear later.
    All,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Which channels it covers.
    pub selector: Selector,
    /// What happens when the connection does not keep up.
    pub overflow: Overflow,
    /// Whether it only observes: it does not count as a listener.
    pub observer: bool,
}

/// What [`Subscriber::poll_next`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A frame.
    Frame,
    /// A gap: this many messages were lost here, or an unknown number because the daemon that counted them is gone.
    Lagged(Option<u64>),
    /// Nothing, until more bytes were read.
    Nothing,
}

/// A message, or a gap, that arrived without a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum External {
    /// A message on the channel of the first subscription.
    Message {
        /// The sender, as claimed.
        sender: SenderId,
        /// The sender's sequence number, as claimed.
        sequence: u64,
        /// The payload.
        payload: Bytes,
    },
    /// An unknown number of messages are missing here.
    Gap,
}

/// The subscriptions of one connection.
#[derive(Debug)]
pub struct Subscriber {
    session: Session,
    /// By the number that the daemon knows them by.
    subscriptions: Vec<Entry>,
    names: BTreeMap<ChannelId, ChannelName>,
    /// What arrived before every subscription was confirmed.
    held: VecDeque<Item>,
    /// Bytes of the runs in `held`.
    held_bytes: usize,
    /// What arrived without a daemon.
    external: VecDeque<External>,
    run: Option<Run>,
    /// The first frame of `run` was handed out.
    used: bool,
    /// The message that was found, if it arrived without a daemon.
    found: Option<External>,
    /// The channel of what was found. `None`: a gap that may concern every channel.
    channel: Option<ChannelName>,
    /// The id of `channel`, if it was found in a run.
    channel_id: Option<ChannelId>,
    /// Messages arrive without a daemon.
    detached: bool,
    /// The last read has taken everything that had arrived.
    drained: bool,
    /// The process of the daemon that serves, or that has ended the last connection without a reason.
    daemon: Option<u32>,
}

#[derive(Debug)]
struct Entry {
    subscription: Subscription,
    /// The present daemon has confirmed it.
    confirmed: bool,
    /// Messages have been received for it before, so that joining again leaves a gap.
    joined: bool,
    /// A gap has not been reported yet.
    gap: bool,
}

impl Entry {
    fn join(&mut self) {
        self.gap |= self.joined;
        self.joined = true;
    }

    fn name(&self) -> Option<&ChannelName> {
        match &self.subscription.selector {
            Selector::Name(name) => Some(name),
            Selector::All => None,
        }
    }
}

impl Subscriber {
    /// A subscriber in the process `pid`; `purpose` is for display. No two subscriptions may have the same selector.
    pub fn new(subscriptions: Vec<Subscription>, purpose: &str, pid: u32) -> Self {
        let entry = |subscription| Entry { subscription, confirmed: false, joined: false, gap: false };
        Self {
            session: Session::new(purpose, pid),
            subscriptions: subscriptions.into_iter().map(entry).collect(),
            names: BTreeMap::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            external: VecDeque::new(),
            run: None,
            used: false,
            found: None,
            channel: None,
            channel_id: None,
            detached: false,
            drained: false,
            daemon: None,
        }
    }

    /// Moves on to what is next in the stream.
    ///
    /// # Errors
    ///
    /// [`Ended`]: the connection must be given up.
    pub fn poll_next(&mut self) -> Result<Received, Ended> {
        if self.next_of_run() {
            return Ok(Received::Frame);
        }
        let next = self.poll_next_item();
        if next.is_err() {
            self.daemon = None;
        }
        next
    }

    fn poll_next_item(&mut self) -> Result<Received, Ended> {
        (self.run, self.found) = (None, None);
        match self.external.pop_front() {
            Some(External::Gap) => {
                (self.channel, self.channel_id) = (self.subscriptions.first().and_then(Entry::name).cloned(), None);
                return Ok(Received::Lagged(None));
            }
            message @ Some(External::Message { .. }) => {
                (self.channel, self.channel_id) = (self.subscriptions.first().and_then(Entry::name).cloned(), None);
                self.found = message;
                return Ok(Received::Frame);
            }
            None => {}
        }
        if (self.is_ready() || self.detached)
            && let Some(entry) = self.subscriptions.iter_mut().find(|entry| entry.gap)
        {
            entry.gap = false;
            (self.channel, self.channel_id) = (entry.name().cloned(), None);
            return Ok(Received::Lagged(None));
        }
        while self.is_ready() {
            let item = match self.held.pop_front() {
                None => self.session.next()?,
                held => held,
            };
            match item {
                None => break,
                Some(Item::Run(run)) => {
                    self.select(run.channel(), KIND_PUBLISH)?;
                    self.run = Some(run);
                    self.used = true;
                    return Ok(Received::Frame);
                }
                Some(Item::Control(Control::Lagged(lagged))) => {
                    self.select(ChannelId(lagged.id), control::kind::LAGGED)?;
                    return Ok(Received::Lagged(Some(lagged.count)));
                }
                Some(Item::Control(Control::Named(named))) => self.named(&named)?,
                Some(item) => return Err(self.session.declined_or_unexpected(item)),
            }
        }
        Ok(Received::Nothing)
    }

    /// Moves on within the frames that were found together. Returns false, and changes nothing else, if there are no more of them:
    /// then [`poll_next`](Self::poll_next) finds what is next.
    #[inline]
    pub fn next_of_run(&mut self) -> bool {
        let Some(run) = &mut self.run else { return false };
        if self.used {
            run.skip_front();
        }
        self.used = run.messages() > 0;
        self.used
    }

    /// The channel with this id is what was found.
    #[inline]
    fn select(&mut self, id: ChannelId, kind: u8) -> Result<(), Ended> {
        if self.channel_id != Some(id) {
            self.channel = Some(self.names.get(&id).ok_or(Ended::Unexpected(kind))?.clone());
            self.channel_id = Some(id);
        }
        Ok(())
    }

    fn named(&mut self, named: &control::Named) -> Result<(), Ended> {
        let id = ChannelId(named.id);
        if self.channel_id == Some(id) {
            self.channel_id = None;
        }
        if named.name.is_empty() {
            self.names.remove(&id);
            return Ok(());
        }
        match ChannelName::new(&named.name) {
            Ok(name) if self.covers(&name) && self.names.len() < NAMES_MAX => {
                self.names.insert(id, name);
                Ok(())
            }
            Ok(_) | Err(_) => Err(Ended::Unexpected(control::kind::NAMED)),
        }
    }

    fn covers(&self, name: &ChannelName) -> bool {
        self.subscriptions.iter().any(|entry| entry.name().is_none_or(|own| own == name))
    }

    /// The channel of what [`poll_next`](Self::poll_next) found. `None`: a gap that may concern every channel.
    pub fn channel(&self) -> Option<&ChannelName> {
        self.channel.as_ref()
    }

    /// The frame that [`poll_next`](Self::poll_next) found, until it is called again.
    #[inline]
    pub fn frame(&self) -> Option<Frame<'_>> {
        match (&self.run, &self.found) {
            (Some(run), _) => run.front(),
            (None, Some(External::Message { sender, sequence, payload })) => {
                let metadata = MetadataRef::default();
                Some(Frame { sender: *sender, sequence: *sequence, metadata, payload })
            }
            (None, Some(External::Gap) | None) => None,
        }
    }

    /// The same, unless it arrived without a daemon.
    #[inline]
    pub(super) fn frame_from_daemon(&self) -> Option<Frame<'_>> {
        self.run.as_ref().and_then(Run::front)
    }

    /// A part of that frame as memory of its own: by reference if it is most of what it pins, else copied.
    pub fn own(&self, part: &[u8]) -> Bytes {
        match (&self.run, &self.found) {
            (Some(run), _) if part.len() * 2 >= run.pinned_bytes() => run.bytes().slice_ref(part),
            (None, Some(External::Message { payload, .. })) => payload.slice_ref(part),
            _ => Bytes::copy_from_slice(part),
        }
    }

    /// Bytes were read to the [target](Machine::target).
    #[inline]
    pub fn has_read(&mut self, bytes: usize) {
        self.drained = bytes < self.session.room();
    }

    /// Nothing has arrived, or is likely to have arrived: releases memory that only a busy connection needs. Returns whether the next read
    /// may wait by itself; otherwise it would hold much memory while it waits.
    pub fn has_drained(&mut self) -> bool {
        self.drained = !self.session.idle();
        self.drained
    }

    /// Whether the last read has taken everything that had arrived, so that the next one is likely to wait.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Appends what arrived without a daemon.
    pub fn deliver(&mut self, external: External) {
        self.external.push_back(external);
    }
}

impl Machine for Subscriber {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn connected(&mut self) {
        self.session.connected(0);
        self.names.clear();
        self.channel_id = None;
    }

    fn disconnected(&mut self) {
        if self.session.phase == Phase::Joining {
            self.daemon = None; // there was nothing yet for which this subscriber could be too slow
        }
        self.session.disconnected();
        self.held.clear();
        self.held_bytes = 0;
        self.subscriptions.iter_mut().for_each(|entry| entry.confirmed = false);
    }

    fn received(&mut self) -> Result<(), Ended> {
        while !self.is_ready() {
            match (self.session.phase, self.session.next()?) {
                (_, None) => break,
                (Phase::Greeting, Some(Item::Control(Control::Welcome(welcome)))) => {
                    self.check_whether_too_slow(&welcome)?;
                    self.subscribe();
                }
                (Phase::Joining, Some(Item::Control(Control::Subscribed(subscribed)))) => {
                    self.confirm(subscribed.subscription)?;
                }
                (
                    Phase::Joining,
                    Some(item @ (Item::Run(_) | Item::Control(Control::Named(_) | Control::Lagged(_)))),
                ) if self.held.len() < HELD_ITEMS_MAX => {
                    self.hold(item);
                }
                (_, Some(item)) => return Err(self.session.declined_or_unexpected(item)),
            }
        }
        Ok(())
    }

    fn detached(&mut self) {
        self.detached = true;
        self.subscriptions.iter_mut().for_each(Entry::join);
    }
}

impl Subscriber {
    /// If the same daemon serves again after it ended the connection, a subscriber with the policy *disconnect* was too slow. It may not have
    /// received the reason, which the daemon keeps for a second only.
    fn check_whether_too_slow(&mut self, welcome: &Welcome) -> Result<(), Ended> {
        let before = self.daemon.take();
        let requested = self.subscriptions.iter().any(|entry| entry.subscription.overflow == Overflow::Disconnect);
        if requested && before == Some(welcome.pid) {
            let reason = "this subscriber chose to be disconnected when it is too slow";
            return Err(Ended::Refused(Refused::new(RefusedCode::TooSlow, reason)));
        }
        self.daemon = Some(welcome.pid);
        Ok(())
    }

    fn subscribe(&mut self) {
        for (subscription, entry) in (0..).zip(&self.subscriptions) {
            let Subscription { selector, overflow, observer } = &entry.subscription;
            let selector = match selector {
                Selector::Name(name) => control::Selector::Name(name.as_str().to_owned()),
                Selector::All => control::Selector::All,
            };
            let (overflow, observer) = (*overflow, *observer);
            let subscribe = Subscribe { subscription, selector, overflow, observer, extensions: Vec::new() };
            self.session.push(&subscribe.into());
        }
        self.session.phase = Phase::Joining;
    }

    /// Keeps what arrives for one subscription until all are confirmed. Frames for which there is no room are lost: a gap takes their place.
    fn hold(&mut self, mut item: Item) {
        if let Item::Run(run) = &item {
            let bytes = self.held_bytes + run.bytes().len() + HELD_RUN_BYTES;
            if bytes <= HELD_BYTES_MAX {
                self.held_bytes = bytes;
            } else {
                let (id, count) = (run.channel().0, run.messages());
                item = Item::Control(Control::Lagged(Lagged { id, count, extensions: Vec::new() }));
            }
        }
        if let Item::Control(Control::Lagged(lagged)) = &item {
            let gaps = self.held.iter_mut().rev().map_while(|held| match held {
                Item::Control(Control::Lagged(gap)) => Some(gap),
                _ => None,
            });
            if let Some(gap) = gaps.into_iter().find(|gap| gap.id == lagged.id) {
                gap.count = gap.count.saturating_add(lagged.count);
                return;
            }
        }
        self.held.push_back(item);
    }

    fn confirm(&mut self, subscription: u32) -> Result<(), Ended> {
        let at = usize::try_from(subscription).ok();
        match at.and_then(|at| self.subscriptions.get_mut(at)) {
            Some(entry) if !entry.confirmed => entry.confirmed = true,
            Some(_) | None => return Err(Ended::Unexpected(control::kind::SUBSCRIBED)),
        }
        if self.subscriptions.iter().all(|entry| entry.confirmed) {
            self.held_bytes = 0; // nothing more is added
            self.session.phase = Phase::Ready;
            self.detached = false;
            self.subscriptions.iter_mut().for_each(Entry::join);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::tests::{accept, feed, feed_bytes, named, subscribed, welcome};
    use super::*;
    use broadcaster_protocol::Header;

    fn on(names: &[&str]) -> Subscriber {
        let subscription = |name: &&str| Subscription {
            selector: Selector::Name(ChannelName::new(name).expect("a name")),
            overflow: Overflow::DropOldest,
            observer: false,
        };
        Subscriber::new(names.iter().map(subscription).collect(), "test", 7)
    }

    fn frame(channel: u32, sequence: u64, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("small");
        let header = Header::publish(ChannelId(channel), SenderId::new(9, 1), sequence, len);
        [header.as_bytes(), payload].concat()
    }

    fn next(subscriber: &mut Subscriber) -> (Received, Option<String>) {
        let received = subscriber.poll_next().expect("the stream is well formed");
        (received, subscriber.channel().map(ToString::to_string))
    }

    #[test]
    fn frames_carry_the_name_that_was_announced_last() {
        let mut subscriber = on(&["a", "b"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), subscribed(1), named(1, "a"), named(2, "b")]).expect("ok");
        feed_bytes(&mut subscriber, &[frame(2, 0, b"x"), frame(1, 0, b"y")].concat());
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("b".into())));
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("a".into())));
        assert_eq!(subscriber.frame().expect("found").payload, b"y");
        feed(&mut subscriber, &[named(1, ""), named(1, "b")]).expect("ok");
        feed_bytes(&mut subscriber, &frame(1, 0, b"z"));
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("b".into())), "the id stands for another channel now");
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
    }

    #[test]
    fn frames_before_the_last_confirmation_are_kept_in_order() {
        let mut subscriber = on(&["a", "b"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        feed_bytes(&mut subscriber, &frame(1, 0, b"early"));
        subscriber.received().expect("held");
        assert!(!subscriber.is_ready());
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        feed(&mut subscriber, &[subscribed(1), named(2, "b")]).expect("ok");
        assert!(subscriber.is_ready());
        feed_bytes(&mut subscriber, &frame(1, 1, b"late"));
        for payload in [&b"early"[..], b"late"] {
            assert_eq!(next(&mut subscriber).0, Received::Frame);
            assert_eq!(subscriber.frame().expect("found").payload, payload);
        }
    }

    /// Reads and handles `wire`, as a link does before the handshake is complete.
    fn receive_early(subscriber: &mut Subscriber, mut wire: &[u8]) {
        while !wire.is_empty() {
            let mut target = subscriber.target();
            let size = bytes::BufMut::remaining_mut(&target).min(wire.len());
            bytes::BufMut::put_slice(&mut target, &wire[..size]);
            wire = &wire[size..];
            subscriber.received().expect("the stream is well formed");
        }
    }

    #[test]
    fn many_subscriptions_are_confirmed_under_traffic() {
        let names: Vec<String> = (0..1000).map(|n| format!("{n:0>200}")).collect();
        let mut subscriber = on(&names.iter().map(String::as_str).collect::<Vec<_>>());
        accept(&mut subscriber, &[welcome()]).expect("ok");
        let mut wire = Vec::new();
        for (n, name) in (0..).zip(&names) {
            subscribed(n).encode(&mut wire).expect("encoded");
            named(n, name).encode(&mut wire).expect("encoded");
            for channel in [0, n / 2, n] {
                wire.extend(frame(channel, 0, name.as_bytes()));
            }
        }
        receive_early(&mut subscriber, &wire);
        assert!(subscriber.is_ready());
        for n in 0..1000 {
            for channel in [0, n / 2, n] {
                assert_eq!(next(&mut subscriber), (Received::Frame, Some(names[channel].clone())));
            }
        }
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
    }

    #[test]
    fn frames_that_cannot_be_kept_until_the_last_confirmation_are_counted() {
        let mut subscriber = on(&["a", "b", "c"]);
        let begin = [welcome(), subscribed(0), named(1, "a"), subscribed(1), named(2, "b")];
        accept(&mut subscriber, &begin).expect("ok");
        let payload = vec![7; 1 << 20];
        let round = [frame(1, 0, &payload), frame(2, 0, b""), frame(2, 0, b"")].concat();
        let kept = HELD_BYTES_MAX / (payload.len() + 1000);
        for _ in 0..kept + 10 {
            receive_early(&mut subscriber, &round);
        }
        feed(&mut subscriber, &[subscribed(2), named(3, "c")]).expect("ok");
        let (mut received, mut lost) = ([0; 2], [0; 2]);
        loop {
            let (found, channel) = next(&mut subscriber);
            let at = usize::from(channel.as_deref() == Some("b"));
            match found {
                Received::Frame => received[at] += 1,
                Received::Lagged(count) => lost[at] += count.expect("counted"),
                Received::Nothing => break,
            }
        }
        let rounds = u64::try_from(kept).expect("small") + 10;
        assert!(lost[0] > 0);
        assert_eq!([received[0] + lost[0], received[1] + lost[1]], [rounds, 2 * rounds]);
    }

    #[test]
    fn no_more_is_kept_before_the_last_confirmation_than_a_daemon_sends() {
        let mut subscriber = on(&["a", "b"]);
        accept(&mut subscriber, &[welcome(), subscribed(0)]).expect("ok");
        for _ in 0..HELD_ITEMS_MAX {
            feed(&mut subscriber, &[named(1, "a")]).expect("held");
        }
        assert_eq!(feed(&mut subscriber, &[named(1, "a")]), Err(Ended::Unexpected(control::kind::NAMED)));
    }

    #[test]
    fn a_read_that_does_not_fill_its_room_has_taken_everything() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        let room = subscriber.target().limit();
        for (bytes, is_drained) in [(room, false), (room - 1, true), (room, false)] {
            subscriber.has_read(bytes);
            assert_eq!(subscriber.is_drained(), is_drained, "{bytes} of {room}");
        }
        while !subscriber.has_drained() {} // until the next read needs little memory
        assert!(subscriber.is_drained());
    }

    #[test]
    fn joining_again_leaves_one_gap_for_each_subscription() {
        let mut subscriber = on(&["a", "b"]);
        let all = [welcome(), subscribed(0), subscribed(1), named(1, "a"), named(2, "b")];
        accept(&mut subscriber, &all).expect("ok");
        assert_eq!(next(&mut subscriber).0, Received::Nothing, "the first time leaves none");
        subscriber.disconnected();
        assert_eq!(next(&mut subscriber).0, Received::Nothing, "reported once it has joined again");
        accept(&mut subscriber, &all).expect("ok");
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("a".into())));
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("b".into())));
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
    }

    #[test]
    fn an_attempt_that_fails_leaves_no_gap_of_its_own() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome()]).expect("ok");
        subscriber.disconnected();
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
    }

    #[test]
    fn a_daemon_that_serves_on_has_disconnected_the_subscriber_for_being_slow() {
        let all = [welcome(), subscribed(0), named(1, "a")];
        let of = |overflow| {
            let mut subscriber = on(&["a"]);
            subscriber.subscriptions[0].subscription.overflow = overflow;
            subscriber
        };
        let is_too_slow = |joined: Result<(), Ended>| match joined {
            Err(Ended::Refused(refused)) => refused.code == RefusedCode::TooSlow,
            joined => {
                joined.expect("joined");
                false
            }
        };
        let mut subscriber = of(Overflow::Disconnect);
        accept(&mut subscriber, &[welcome()]).expect("ok");
        subscriber.disconnected();
        assert!(!is_too_slow(accept(&mut subscriber, &all)), "it had not joined before");
        subscriber.disconnected();
        subscriber.disconnected(); // as after an attempt in between that found nothing
        assert!(is_too_slow(accept(&mut subscriber, &all)));
        subscriber.disconnected();
        assert!(!is_too_slow(accept(&mut subscriber, &all)), "that is reported once");
        assert_eq!(next(&mut subscriber).0, Received::Lagged(None));

        feed(&mut subscriber, &[Control::Refused(Refused::new(RefusedCode::Memory, ""))]).expect("no handshake");
        subscriber.poll_next().expect_err("refused");
        subscriber.disconnected();
        assert!(!is_too_slow(accept(&mut subscriber, &all)), "the daemon has given another reason");
        subscriber.disconnected();
        let Control::Welcome(mut next_daemon) = welcome() else { unreachable!("a welcome") };
        next_daemon.pid += 1;
        assert!(!is_too_slow(accept(&mut subscriber, &[next_daemon.into(), subscribed(0)])), "another daemon");

        let mut subscriber = of(Overflow::DropOldest);
        accept(&mut subscriber, &all).expect("ok");
        subscriber.disconnected();
        assert!(!is_too_slow(accept(&mut subscriber, &all)), "it has not requested that");
    }

    #[test]
    fn losses_name_their_channel_and_count() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(3, "a")]).expect("ok");
        feed(&mut subscriber, &[Control::Lagged(Lagged { id: 3, count: 5, extensions: Vec::new() })]).expect("ok");
        assert_eq!(next(&mut subscriber), (Received::Lagged(Some(5)), Some("a".into())));
    }

    #[test]
    fn what_was_not_announced_ends_the_connection() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        feed_bytes(&mut subscriber, &frame(2, 0, b""));
        assert_eq!(subscriber.poll_next(), Err(Ended::Unexpected(KIND_PUBLISH)), "an id without a name");
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "b")]).expect("ok");
        assert_eq!(subscriber.poll_next(), Err(Ended::Unexpected(control::kind::NAMED)), "a channel not subscribed to");
        let mut subscriber = on(&["a"]);
        let twice = [welcome(), subscribed(1)];
        assert_eq!(accept(&mut subscriber, &twice), Err(Ended::Unexpected(control::kind::SUBSCRIBED)));
    }

    #[test]
    fn external_messages_are_found_like_frames() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        subscriber.disconnected();
        subscriber.detached();
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("a".into())), "a change of carrier is a gap");
        let payload = Bytes::from_static(b"posted");
        subscriber.deliver(External::Message { sender: SenderId::new(1, 2), sequence: 4, payload: payload.clone() });
        subscriber.deliver(External::Gap);
        assert_eq!(next(&mut subscriber), (Received::Frame, Some("a".into())));
        let found = subscriber.frame().expect("found");
        assert_eq!((found.sequence, found.payload), (4, &payload[..]));
        assert_eq!(subscriber.own(found.payload).as_ptr(), payload.as_ptr());
        assert_eq!(next(&mut subscriber), (Received::Lagged(None), Some("a".into())));
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(next(&mut subscriber).0, Received::Lagged(None), "and so is the way back");
    }

    #[test]
    fn memory_is_shared_only_where_it_is_used() {
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        feed_bytes(&mut subscriber, &frame(1, 0, b"small"));
        assert_eq!(next(&mut subscriber).0, Received::Frame);
        let payload = subscriber.frame().expect("found").payload;
        let own = subscriber.own(payload);
        assert_eq!(&own[..], b"small");
        assert_ne!(own.as_ptr(), payload.as_ptr(), "five bytes do not pin a chunk");
        let sent = frame(1, 1, &[7; 300_000]);
        assert_eq!(receive_in_pieces(&mut subscriber, &sent[..sent.len() - 1], &[usize::MAX]).len(), 0);
        feed_bytes(&mut subscriber, &sent[sent.len() - 1..]);
        assert_eq!(next(&mut subscriber).0, Received::Frame);
        let payload = subscriber.frame().expect("found").payload;
        assert_eq!(subscriber.own(payload).as_ptr(), payload.as_ptr(), "most of what it pins");
        assert_ne!(subscriber.own(&payload[..100_000]).as_ptr(), payload.as_ptr());
    }

    /// Reads `wire` in pieces of these sizes, repeatedly, as a link does; a size of 0 is a read that finds nothing. Returns the
    /// payloads.
    fn receive_in_pieces(subscriber: &mut Subscriber, wire: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let (mut rest, mut payloads) = (wire, Vec::new());
        for &size in sizes.iter().cycle() {
            while next(subscriber).0 == Received::Frame {
                payloads.push(subscriber.frame().expect("found").payload.to_vec());
            }
            if rest.is_empty() {
                break;
            }
            let mut target = subscriber.target();
            let size = size.min(bytes::BufMut::remaining_mut(&target)).min(rest.len());
            bytes::BufMut::put_slice(&mut target, &rest[..size]);
            rest = &rest[size..];
            match size {
                0 => _ = subscriber.has_drained(),
                size => subscriber.has_read(size),
            }
        }
        payloads
    }

    #[test]
    fn a_read_that_finds_nothing_loses_nothing_wherever_it_is() {
        let payloads: Vec<Vec<u8>> = (0..200_usize).map(|n| vec![n.to_le_bytes()[0]; n * n * 7 % 70_000]).collect();
        let wire: Vec<u8> = (0..).zip(&payloads).flat_map(|(n, payload)| frame(1, n, payload)).collect();
        for sizes in [&[1_000_000][..], &[1_000_000, 0], &[100_000, 0, 7], &[16_384, 16_384, 0], &[9_999, 0, 0, 77_777]]
        {
            let mut subscriber = on(&["a"]);
            accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
            assert!(receive_in_pieces(&mut subscriber, &wire, sizes) == payloads, "{sizes:?}");
        }
    }

    #[test]
    fn buffers_grow_while_reads_fill_them_and_shrink_when_nothing_arrives() {
        const SMALL: usize = broadcaster_protocol::decode::CONSUMER_CHUNK_BYTES_MIN;
        let mut subscriber = on(&["a"]);
        accept(&mut subscriber, &[welcome(), subscribed(0), named(1, "a")]).expect("ok");
        assert_eq!(next(&mut subscriber).0, Received::Nothing);
        while !subscriber.has_drained() {}
        assert_eq!(subscriber.target().limit(), SMALL);
        let wire: Vec<u8> = (0..10_000).flat_map(|n| frame(1, n, &[0; 100])).collect();
        assert_eq!(receive_in_pieces(&mut subscriber, &wire, &[usize::MAX]).len(), 10_000);
        assert_eq!(subscriber.target().limit(), broadcaster_protocol::decode::CONSUMER_CHUNK_BYTES);
        assert!(!subscriber.has_drained(), "as much may arrive again");
        assert_eq!(subscriber.session.held_bytes(), 0, "while the connection waits for it");
        assert!(!subscriber.has_drained(), "less than that has arrived");
        assert!(subscriber.has_drained(), "and still less");
        assert_eq!(subscriber.target().limit(), SMALL);
    }
}
