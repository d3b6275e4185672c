//! What a connection may request, and the answers. It never touches a message in transit.

use crate::broker::Broker;
use crate::connection::{ConnPhase, Publication, Reach};
use crate::credit::{self, Pace};
use crate::delivery::named;
use crate::effect::{Attachment, Effects};
use crate::event::{ConnId, Incomplete, LinkId, Moment};
use crate::limits::{PATTERN_SEGMENTS, counted};
use crate::outbox::Terms;
use crate::registry::{Begun, Channel, Counted, Selector};
use crate::retained::replay_of;
use crate::ring::Upload;
use broadcaster_protocol::control::{
    self, Control, CountListeners, Declined, Hello, Listeners, Open, Opened, Overflow, RefusedCode, Retained,
    Subscribe, Subscribed, Unsubscribe, Unsubscribed, Welcome, capability, purpose_text,
};
use broadcaster_protocol::limits::{PROTOCOL_MAX, PROTOCOL_MIN};
use broadcaster_protocol::{ChannelId, ChannelName, ChannelPattern, DecodeError, SenderId, handshake};
use std::error::Error;

/// Why a request is not carried out.
pub(crate) type Refusal = (RefusedCode, String);

impl Broker {
    pub(crate) fn control(&mut self, now: Moment, conn: ConnId, control: Control, effects: &mut Effects) {
        let is_over = self.phase.is_over();
        let Some(connection) = self.connection(conn) else { return };
        match (connection.phase, control) {
            (ConnPhase::Leaving, _) => {}
            (ConnPhase::Greeting, Control::Hello(hello)) => self.hello(now, conn, &hello, effects),
            (ConnPhase::Greeting, _) => {
                self.refuse(now, conn, RefusedCode::Protocol, "the first frame is not a Hello", effects);
            }
            (ConnPhase::Active, _) if is_over => {}
            (ConnPhase::Active, control) => {
                let (kind, number) = (control.kind(), number_of(&control));
                match self.request(now, conn, control, effects) {
                    Ok(()) => {}
                    Err((
                        code @ (RefusedCode::Connections | RefusedCode::Channels | RefusedCode::Unsupported),
                        reason,
                    )) => {
                        let declined = Declined::new(kind, number, code, reason);
                        self.reply(now, conn, &Control::Declined(declined), effects);
                    }
                    Err((code, reason)) => self.refuse(now, conn, code, &reason, effects),
                }
            }
        }
    }

    fn request(&mut self, now: Moment, conn: ConnId, control: Control, effects: &mut Effects) -> Result<(), Refusal> {
        match control {
            Control::Open(open) => self.open(now, conn, &open, effects)?,
            Control::Subscribe(subscribe) => self.subscribe(now, conn, subscribe, effects)?,
            Control::Inspect(_) => {
                let report = self.report(now);
                self.reply(now, conn, &Control::Report(report), effects);
            }
            Control::Unsubscribe(unsubscribe) => self.unsubscribe(now, conn, &unsubscribe, effects)?,
            Control::CountListeners(count) => self.count_listeners(now, conn, &count, effects)?,
            Control::Stop(_) => self.stop(now, effects),
            Control::Confirm(confirm) => self.confirm(now, conn, &confirm, effects)?,
            Control::Watch(watch) => self.watch(now, conn, &watch, effects)?,
            Control::Unwatch(unwatch) => self.unwatch(now, conn, &unwatch, effects)?,
            Control::OpenInbox(_) => self.open_inbox(now, conn, effects),
            Control::Prepare(_) => self.prepare(now, conn, effects)?,
            Control::Prepared(_) => self.prepared(now, conn, effects)?,
            Control::BeginRing(begin) => self.begin_ring(conn, &begin, effects)?,
            Control::EndRing(end) => self.end_ring(conn, &end, effects)?,
            Control::LinkAdded(added) => self.link_added(now, conn, LinkId(added.link), effects)?,
            Control::Unlink(unlink) => self.unlink(now, conn, LinkId(unlink.link), effects)?,
            Control::Progress(progress) => self.progress(now, conn, LinkId(progress.link), effects)?,
            Control::Hello(_)
            | Control::Welcome(_)
            | Control::Refused(_)
            | Control::Goodbye(_)
            | Control::Opened(_)
            | Control::Subscribed(_)
            | Control::Lagged(_)
            | Control::Named(_)
            | Control::Unsubscribed(_)
            | Control::Declined(_)
            | Control::Credit(_)
            | Control::Receipt(_)
            | Control::Listeners(_)
            | Control::Watched(_)
            | Control::Presence(_)
            | Control::Unwatched(_)
            | Control::Retained(_)
            | Control::Superseded(_)
            | Control::InboxOpened(_)
            | Control::OfferRing(_)
            | Control::RingAccepted(_)
            | Control::Recall(_)
            | Control::OfferLink(_)
            | Control::LinkReady(_)
            | Control::AddLink(_)
            | Control::Follow(_)
            | Control::Unfollow(_)
            | Control::AwaitProgress(_)
            | Control::Report(_) => {
                let reason = format!("a frame of kind {:#04x} is not a request", control.kind());
                return Err((RefusedCode::Protocol, reason));
            }
        }
        Ok(())
    }

    fn hello(&mut self, now: Moment, conn: ConnId, hello: &Hello, effects: &mut Effects) {
        let protocol = match handshake::negotiate(hello, &self.version, PROTOCOL_MIN, PROTOCOL_MAX) {
            Ok(protocol) => protocol,
            Err(refused) => return self.refuse_with(now, conn, refused, effects),
        };
        self.set_deadline(conn, None);
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return };
        let mut number = hello.sender_number;
        while self.senders.contains_key(&SenderId::new(connection.pid, number)) {
            number = number.wrapping_add(1);
        }
        let sender = SenderId::new(connection.pid, number);
        self.senders.insert(sender, conn);
        connection.phase = ConnPhase::Active;
        connection.incomplete = Incomplete::None; // it was the Hello
        connection.purpose = purpose_text(&hello.purpose);
        connection.sender = Some(sender);
        let capabilities = if self.rings.is_supported() { capability::RINGS } else { capability::NONE };
        connection.shares_memory = capabilities & hello.capabilities & capability::RINGS != 0;
        let welcome = Welcome {
            protocol,
            capabilities,
            sender: sender.raw(),
            payload_bytes_max: self.limits.payload_bytes_max,
            pid: self.pid,
            version: self.version.clone(),
            extensions: Vec::new(),
        };
        self.reply(now, conn, &Control::Welcome(welcome), effects);
    }

    fn open(&mut self, now: Moment, conn: ConnId, open: &Open, effects: &mut Effects) -> Result<(), Refusal> {
        let name = channel_name(&open.channel)?;
        let patience = credit::patience(&open.extensions).map_err(|reason| (RefusedCode::Protocol, reason))?;
        let known = self.registry.id_of(&name);
        let Some(connection) = self.connection(conn) else { return Ok(()) };
        if known.is_some_and(|id| connection.publications.contains_key(&id)) {
            return Err((RefusedCode::Protocol, format!("the channel {name:?} is open on this connection already")));
        }
        self.check_channels(conn, Some(&name))?;
        if known.is_none() {
            self.check_attachments(None, &Selector::Name(name.clone()))?;
        }
        let id = self.registry.publish(&name);
        self.turn_work += self.registry.take_work();
        let listeners = self.registry.channel(id).map_or(0, Channel::listeners);
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return Ok(()) };
        self.counts.senders += usize::from(connection.publications.is_empty());
        let pace = patience.map(|patience| Pace::new(patience, now));
        connection.may_reply = true;
        let next = open.next_sequence;
        let (reach, upload) = (Reach::default(), Upload::default());
        connection.publications.insert(id, Publication { next, reach, pace, upload, not_retained: None });
        let opened = Opened {
            channel: open.channel.clone(),
            id: id.0,
            listeners: u32::try_from(listeners).unwrap_or(u32::MAX),
            extensions: Vec::new(),
        };
        self.reply(now, conn, &Control::Opened(opened), effects);
        if patience.is_some() {
            self.begin_pace(conn, id);
        }
        Ok(())
    }

    fn subscribe(
        &mut self,
        now: Moment,
        conn: ConnId,
        subscribe: Subscribe,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let Subscribe { subscription: number, selector, overflow, observer, extensions } = subscribe;
        let replay = replay_of(&extensions).map_err(|reason| (RefusedCode::Protocol, reason))?;
        if let Overflow::Other(number) = overflow {
            return Err((RefusedCode::Unsupported, format!("overflow policy {number}")));
        }
        let selector = selector_of(&selector)?;
        let terms = Terms { overflow, observer, replay };
        self.check_subscription(conn, number, &selector, terms)?;
        self.expire_retained(now, effects);

        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return Ok(()) };
        let of_kind = if observer { &mut self.counts.observers } else { &mut self.counts.listeners };
        let before = if observer { connection.subscriptions.observers() } else { connection.subscriptions.listeners() };
        *of_kind += usize::from(before == 0);
        connection.may_reply |= !observer;
        let subscriber = connection.subscriptions.add(conn, number, selector.clone(), terms);
        let begun = self.registry.subscribe(&selector, subscriber);
        self.review_rings(effects);
        let subscribed = Subscribed { subscription: number, extensions: Vec::new() };
        self.reply(now, conn, &Control::Subscribed(subscribed), effects);
        self.begin_delivery(now, conn, &selector, &begun, terms, effects);
        self.report_changes(now, effects);
        for counted in self.registry.take_counted() {
            if let Some(connection) = self.connection(counted.conn) {
                connection.counting.remove(&counted.id);
            }
            self.report_listeners(now, counted, effects);
        }
        self.turn_work += self.registry.take_work();
        Ok(())
    }

    /// After Subscribed: the names that the connection has to know, and what is replayed to it.
    fn begin_delivery(
        &mut self,
        now: Moment,
        conn: ConnId,
        selector: &Selector,
        begun: &Begun,
        terms: Terms,
        effects: &mut Effects,
    ) {
        if let Some(name) = begun.named.and_then(|id| self.name_for(conn, id)) {
            self.reply(now, conn, &name, effects);
        }
        for &id in &begun.replayed {
            if begun.named.is_none()
                && let Some(name) = self.name_for(conn, id)
            {
                self.announce(conn, &name, effects);
            }
            self.replay(now, conn, id, terms, effects);
        }
        if let (Selector::Name(_), true) = (selector, terms.replay > 0 && begun.replayed.is_empty()) {
            let nothing = Retained { id: begun.named.map_or(0, |id| id.0), count: 0, extensions: Vec::new() };
            self.reply(now, conn, &Control::Retained(nothing), effects);
        }
    }

    /// The message that gives the connection the name of a channel that it has just subscribed to. It counts as sent.
    fn name_for(&mut self, conn: ConnId, id: ChannelId) -> Option<Control> {
        let name = self.registry.channel(id).map(|channel| named(id, channel.name()))?;
        self.registry.set_named(id, conn);
        Some(name)
    }

    fn unsubscribe(
        &mut self,
        now: Moment,
        conn: ConnId,
        unsubscribe: &Unsubscribe,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let number = unsubscribe.subscription;
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return Ok(()) };
        let subscriptions = &mut connection.subscriptions;
        let Some((selector, gone)) = subscriptions.remove(conn, number) else {
            return Err((RefusedCode::Protocol, format!("this connection has no subscription {number}")));
        };
        let (of_kind, left) = match gone.terms.observer {
            true => (&mut self.counts.observers, subscriptions.observers()),
            false => (&mut self.counts.listeners, subscriptions.listeners()),
        };
        *of_kind -= usize::from(left == 0);
        let patterns = subscriptions.patterns(conn);
        let ended = self.registry.unsubscribe(&selector, gone, |name| subscriptions.best(conn, name, &patterns));
        self.credits.release(now, &mut connection.backlog); // it may not count any more where a sender waits for it
        self.end_unfounded_links(now, conn, effects);
        self.review_rings(effects);
        let unsubscribed = Unsubscribed { subscription: number, extensions: Vec::new() };
        self.reply(now, conn, &Control::Unsubscribed(unsubscribed), effects);
        self.report_changes(now, effects);
        if let Some(ended) = ended {
            self.announce_end(now, &ended, effects);
        }
        Ok(())
    }

    fn count_listeners(
        &mut self,
        now: Moment,
        conn: ConnId,
        count: &CountListeners,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let &CountListeners { number, id, minimum, extensions: _ } = count;
        let (id, minimum) = (ChannelId(id), usize::try_from(minimum).unwrap_or(usize::MAX));
        let Some(connection) = self.connections.get_mut(conn.0).and_then(Option::as_mut) else { return Ok(()) };
        if !connection.publications.contains_key(&id) {
            return Err((RefusedCode::Protocol, format!("channel {} is not open on this connection", id.0)));
        }
        if let Some(replaced) = connection.counting.remove(&id) {
            self.registry.stop_counting(id, replaced, conn);
        }
        match self.registry.count_listeners(id, minimum, conn, number) {
            Some(counted) => self.report_listeners(now, counted, effects),
            None => _ = connection.counting.insert(id, minimum),
        }
        Ok(())
    }

    fn report_listeners(&mut self, now: Moment, counted: Counted, effects: &mut Effects) {
        let listeners = u32::try_from(counted.listeners).unwrap_or(u32::MAX);
        let listeners = Listeners { number: counted.number, listeners, extensions: Vec::new() };
        self.reply(now, counted.conn, &Control::Listeners(listeners), effects);
    }

    fn check_subscription(
        &mut self,
        conn: ConnId,
        number: u32,
        selector: &Selector,
        terms: Terms,
    ) -> Result<(), Refusal> {
        let (observing, all) = (self.counts.observers, self.registry.wildcards());
        let (observers_max, wildcards_max) = (self.limits.observers_max, self.limits.wildcards_max);
        let (patterns, patterns_max) = (self.registry.patterns(), self.limits.patterns_max);
        let (patterns, segments) = (patterns.len(), patterns.segments());
        let Some(connection) = self.connection(conn) else { return Ok(()) };
        if connection.subscriptions.has_number(number) {
            return Err((RefusedCode::Protocol, format!("this connection has a subscription {number} already")));
        }
        if connection.subscriptions.covers(selector) {
            let what = match selector {
                Selector::Name(name) => format!("the channel {name:?}"),
                Selector::Pattern(pattern) => format!("the pattern {pattern:?}"),
                Selector::All => "all channels".to_owned(),
            };
            return Err((RefusedCode::Protocol, format!("this connection has a subscription to {what} already")));
        }
        if terms.observer && connection.subscriptions.observers() == 0 && observing >= observers_max {
            let reason =
                format!("the daemon has {}, which is the limit", counted(observers_max, "observing connection"));
            return Err((RefusedCode::Connections, reason));
        }
        if *selector == Selector::All && all >= wildcards_max {
            let subscriptions = counted(wildcards_max, "subscription");
            let reason = format!("the daemon has {subscriptions} to all channels, which is the limit");
            return Err((RefusedCode::Channels, reason));
        }
        if let Selector::Pattern(pattern) = selector {
            if patterns >= patterns_max {
                let subscriptions = counted(patterns_max, "subscription");
                let reason = format!("the daemon has {subscriptions} to patterns, which is the limit");
                return Err((RefusedCode::Channels, reason));
            }
            let segments_max = patterns_max.saturating_mul(PATTERN_SEGMENTS);
            let segments = segments + pattern.segments().count();
            if segments > segments_max {
                let reason = format!(
                    "the patterns of all subscriptions would have {segments} segments; the limit is {segments_max}"
                );
                return Err((RefusedCode::Channels, reason));
            }
        }
        let creates = match selector {
            Selector::Name(name) if !terms.observer => Some(name),
            Selector::Name(_) | Selector::Pattern(_) | Selector::All => None,
        };
        self.check_channels(conn, creates)?;
        self.check_attachments(Some(conn), selector)
    }

    /// Whether connections may receive as many channels as if the connection subscribed to this, or opened the channel of this name.
    pub(crate) fn check_attachments(&mut self, conn: Option<ConnId>, selector: &Selector) -> Result<(), Refusal> {
        let (max, present) = (self.limits.attachments_max, self.registry.attachments());
        // A subscription adds one for each channel at most, and a channel one for each connection.
        if present.saturating_add(self.registry.len().max(self.limits.connections_max)) <= max {
            return Ok(());
        }
        let wanted = present + self.registry.attachments_added(conn, selector);
        self.turn_work += self.registry.take_work();
        if wanted <= max {
            return Ok(());
        }
        let reason =
            format!("connections would receive {wanted} channels, counted for each connection; the limit is {max}");
        Err((RefusedCode::Channels, reason))
    }

    /// Whether the connection may have one channel more, and the channel `name` may begin to exist.
    pub(crate) fn check_channels(&mut self, conn: ConnId, name: Option<&ChannelName>) -> Result<(), Refusal> {
        let (held_max, max) = (self.limits.channels_per_connection_max, self.limits.channels_max);
        let held = self.connection(conn).map_or(0, |connection| connection.channels());
        if held >= held_max {
            let reason =
                format!("this connection has {held} publications, subscriptions and watches; the limit is {held_max}");
            return Err((RefusedCode::Channels, reason));
        }
        if name.is_some_and(|name| self.registry.id_of(name).is_none()) && self.registry.len() >= max {
            let reason = format!("the daemon has {}, which is the limit", counted(max, "channel"));
            return Err((RefusedCode::Channels, reason));
        }
        Ok(())
    }

    pub(crate) fn reply(&mut self, now: Moment, conn: ConnId, control: &Control, effects: &mut Effects) {
        self.reply_with(now, conn, control, None, effects);
    }

    /// Queues a control frame, and what is written with its first byte.
    pub(crate) fn reply_with(
        &mut self,
        now: Moment,
        conn: ConnId,
        control: &Control,
        attachment: Option<Attachment>,
        effects: &mut Effects,
    ) {
        let replies_bytes_max = self.limits.replies_bytes_max;
        let Some(connection) = self.connection(conn) else { return };
        connection.push_deferred();
        connection.push_control_with(control, attachment);
        connection.request_write(conn, effects);
        if connection.neglects_replies(now, replies_bytes_max) {
            self.refuse_unread(conn);
        }
    }

    /// Announces a channel whose messages are replayed. One request can lead to thousands of these.
    pub(crate) fn announce(&mut self, conn: ConnId, control: &Control, effects: &mut Effects) {
        if let Some(connection) = self.connection(conn) {
            let before = connection.outbox.replies_bytes();
            connection.push_control(control);
            connection.announcements_bytes += connection.outbox.replies_bytes() - before;
            connection.request_write(conn, effects);
        }
    }

    /// The connection does not read its control frames.
    pub(crate) fn refuse_unread(&mut self, conn: ConnId) {
        let reason = format!("more than {} bytes of control frames wait to be read", self.limits.replies_bytes_max);
        self.to_refuse.push((conn, RefusedCode::Stalled, reason));
    }

    pub(crate) fn malformed(&mut self, now: Moment, conn: ConnId, error: &DecodeError, effects: &mut Effects) {
        let reason = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        self.refuse(now, conn, RefusedCode::Protocol, &reason, effects);
    }

    /// What the server holds of the connection's input is charged, and an incomplete frame must make progress.
    pub(crate) fn holding(&mut self, now: Moment, conn: ConnId, bytes: usize, frame: Incomplete) {
        let timeout = now.after(self.limits.frame_timeout);
        let Some(connection) = self.connection(conn) else { return };
        if connection.is_leaving() {
            return;
        }
        connection.incoming.set(bytes);
        connection.incomplete = frame;
        if connection.phase == ConnPhase::Active {
            let is_complete = frame == Incomplete::None;
            self.set_deadline(conn, Some(timeout).filter(|_| !is_complete));
        }
    }
}

pub(crate) fn channel_name(name: &str) -> Result<ChannelName, Refusal> {
    ChannelName::new(name).map_err(|error| (RefusedCode::Protocol, error.to_string()))
}

/// The channels that a subscription covers, as the client has stated.
pub(crate) fn selector_of(selector: &control::Selector) -> Result<Selector, Refusal> {
    Ok(match selector {
        control::Selector::Name(name) => Selector::Name(channel_name(name)?),
        control::Selector::All => Selector::All,
        control::Selector::Pattern(pattern) => Selector::Pattern(channel_pattern(pattern)?),
        control::Selector::Other { kind, .. } => {
            return Err((RefusedCode::Unsupported, format!("selector kind {kind}")));
        }
    })
}

fn channel_pattern(pattern: &str) -> Result<ChannelPattern, Refusal> {
    ChannelPattern::new(pattern).map_err(|error| (RefusedCode::Protocol, error.to_string()))
}

/// The number that the client gave the request; 0 if it has none.
fn number_of(request: &Control) -> u32 {
    match request {
        Control::Subscribe(subscribe) => subscribe.subscription,
        Control::Confirm(confirm) => confirm.number,
        Control::Watch(watch) => watch.watch,
        Control::Unwatch(unwatch) => unwatch.watch,
        _ => 0,
    }
}
