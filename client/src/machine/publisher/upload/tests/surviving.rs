//! Rings whose daemon is gone.

use super::*;
use crate::machine::Lifetime;

/// Words of messages that take up a quarter of the ring.
const QUARTER_BYTES: u64 = ((HEADER_WORDS + CAPACITY_WORDS) * 8 / 4) as u64;

/// A listener that reads the ring of channel 3 by itself.
struct Follower {
    reader: Reader,
    intake: Intake<Memory>,
    /// What it has received.
    sequences: Vec<u64>,
}

impl Follower {
    /// The publisher learns of it with its next message.
    fn of(bus: &mut Bus, link: u32) -> Self {
        let reader = bus.link(3, link);
        let ring = Arc::clone(&bus.publications[&3].relay.as_ref().expect("a ring").memory);
        let intake = Intake::open(ring, Start::Newest, ChannelId(3), SenderId::from_raw(77)).expect("a ring");
        Self { reader, intake, sequences: Vec::new() }
    }

    fn received(&mut self) -> &[u64] {
        loop {
            let taken = self.intake.take(None, 1000).expect("a ring");
            assert_eq!(taken.lost, 0, "tests send less than a ring");
            let Some(run) = taken.run else { return &self.sequences };
            self.reader.page.count(self.intake.cursor().position, run.messages(), 0);
            for (sequence, message) in run.iter() {
                assert_eq!(message, payload(sequence));
                self.sequences.push(sequence);
            }
        }
    }
}

impl Bus {
    /// The daemon is killed, and none takes its place.
    fn die(&mut self) {
        self.relay();
        self.break_off();
        self.serves = false;
    }
}

/// A publisher whose messages are in a ring with so many listeners. The next one is that with this number.
fn followed(followers: u32) -> (Publisher, Bus, Vec<Follower>, u64) {
    let (mut publisher, mut bus) = active();
    let followers = (0..followers).map(|link| Follower::of(&mut bus, link)).collect();
    send_all(&mut publisher, &mut bus, 1);
    let next = publisher.committed();
    (publisher, bus, followers, next)
}

/// The listener finds its own connection lost, and calls the publisher.
fn called(followers: &mut [Follower]) {
    followers[0].reader.page.call();
}

/// Sends until that waits; returns how many messages were sent.
fn until_wait(publisher: &mut Publisher, bus: &mut Bus) -> u64 {
    let mut sent = 0;
    while send(publisher, bus) == DONE {
        sent += 1;
        assert!(sent < 10_000, "it does not wait");
    }
    sent
}

/// Each message was accepted once by the next daemon, from the one with this number on.
fn check_from(publisher: &Publisher, bus: &mut Bus, next: u64) {
    bus.relay();
    let sequences = bus.sequences("news");
    let behind = sequences.iter().position(|&sequence| sequence == next).expect("accepted");
    assert_eq!(sequences[behind..], (next..publisher.committed()).collect::<Vec<_>>());
}

#[test]
fn messages_go_on_without_a_daemon_and_reach_the_next_one() {
    for fed in [0, 1, 30] {
        let (mut publisher, mut bus, mut followers, next) = followed(2);
        for sequence in next..next + fed {
            publisher.feed(&payload(sequence)).expect("fed");
        }
        bus.die();
        called(&mut followers);
        let sent = until_wait(&mut publisher, &mut bus);
        let bytes = sent * (HEADER_BYTES + payload(next).len()) as u64;
        assert!(
            (QUARTER_BYTES * 9 / 10..QUARTER_BYTES * 12 / 10).contains(&(bytes + fed * 40)),
            "{bytes} bytes, {fed} fed"
        );
        for follower in &mut followers {
            assert_eq!(follower.received().last(), Some(&(publisher.committed() - 1)));
        }
        assert!(!bus.sequences("news").contains(&next), "no daemon has them");
        bus.serves = true;
        send_all(&mut publisher, &mut bus, 10);
        check_from(&publisher, &mut bus, next);
        for follower in &mut followers {
            let count = publisher.committed();
            assert_eq!(follower.received(), (next - 1..count).collect::<Vec<_>>(), "while they have not left");
        }
    }
}

#[test]
fn a_ring_that_has_survived_ends_when_its_listeners_have_left() {
    let (mut publisher, mut bus, mut followers, next) = followed(2);
    bus.die();
    called(&mut followers);
    send_all(&mut publisher, &mut bus, 5);
    bus.serves = true;
    followers[0].reader.page.leave();
    send_all(&mut publisher, &mut bus, 5);
    assert!(publisher.survives(OWN), "one reads it still");
    assert!(!followers[0].reader.rung.is_held.load(Ordering::Relaxed));
    followers[1].reader.page.leave();
    send_all(&mut publisher, &mut bus, 1);
    assert!(!publisher.survives(OWN));
    assert!(!followers[1].reader.rung.is_held.load(Ordering::Relaxed));
    until_rings(&mut publisher, &mut bus, 1);
    check_from(&publisher, &mut bus, next);
    assert_eq!(bus.rings_made, 2, "the next daemon is offered another one");
}

#[test]
fn a_message_that_a_listener_may_have_missed_waits_for_the_next_daemon() {
    let (mut publisher, mut bus, mut followers, next) = followed(2);
    bus.die();
    called(&mut followers);
    send_all(&mut publisher, &mut bus, 5);
    followers[0].reader.page.leave();
    let payload = payload(publisher.committed());
    let mut sending = Sending::new(OWN, &[], &payload);
    for _ in 0..3 {
        assert_eq!(sending.poll::<_, Failure>(&mut publisher, &mut bus), Ok(Step::Wait(Due::Daemon)));
    }
    assert_eq!(publisher.committed(), next + 6, "once");
    assert!(sending.has_begun());
    assert_eq!(followers[1].received().last(), Some(&(next + 5)));
    bus.serves = true;
    assert_eq!(sending.poll::<_, Failure>(&mut publisher, &mut bus), DONE);
    check_from(&publisher, &mut bus, next);
}

#[test]
fn a_message_that_was_committed_is_not_reported_as_not_sent() {
    let (mut publisher, mut bus, mut followers, next) = followed(2);
    bus.die();
    called(&mut followers);
    send_all(&mut publisher, &mut bus, 1);
    followers[0].reader.page.leave();
    bus.fails = true;
    let text = payload(publisher.committed());
    let mut sending = Sending::new(OWN, &[], &text);
    assert_eq!(sending.poll::<_, Failure>(&mut publisher, &mut bus), Ok(Step::Wait(Due::Daemon)));
    assert!(!bus.fails && sending.has_begun());
    assert_eq!(publisher.committed(), next + 2, "once");
    // One that is not committed is reported.
    publisher.end_surviving(OWN);
    bus.fails = true;
    assert_eq!(send(&mut publisher, &mut bus), Err(Failure::Refused));
    assert_eq!(publisher.committed(), next + 2);
}

#[test]
fn messages_wait_as_soon_as_the_next_daemon_has_answered() {
    let (mut publisher, mut bus, mut followers, _) = followed(1);
    bus.die();
    called(&mut followers);
    send_all(&mut publisher, &mut bus, 1);
    assert!(publisher.goes_on(OWN));
    publisher.session_mut().announce_rings(true);
    publisher.connected();
    assert!(publisher.goes_on(OWN));
    let mut bytes = Vec::new();
    welcome().encode(&mut bytes).expect("encoded");
    feed_bytes(&mut publisher, &bytes);
    publisher.received().expect("a welcome");
    assert!(publisher.survives(OWN) && !publisher.goes_on(OWN), "it may have other listeners");
}

#[test]
fn a_ring_that_all_have_left_ends_without_another_message() {
    let (mut publisher, mut bus, mut followers, _) = followed(1);
    bus.die();
    called(&mut followers);
    send_all(&mut publisher, &mut bus, 1);
    followers[0].reader.page.leave();
    bus.serves = true;
    assert_eq!(flushed(&mut publisher, &mut bus), DONE);
    assert!(!publisher.survives(OWN));
}

#[test]
fn while_others_need_the_daemon_messages_wait_for_it() {
    let (mut publisher, mut bus, mut followers, next) = followed(1);
    bus.publications.get_mut(&3).and_then(|own| own.relay.as_mut()).expect("a ring").reader.page.set_relaying(true);
    bus.die();
    called(&mut followers);
    assert_eq!(send(&mut publisher, &mut bus), Ok(Step::Wait(Due::Daemon)));
    assert_eq!(publisher.committed(), next);
    bus.serves = true;
    send_all(&mut publisher, &mut bus, 5);
    check_from(&publisher, &mut bus, next);
    assert_eq!(followers[0].received(), (next - 1..next + 5).collect::<Vec<_>>(), "the listener has not left");
}

#[test]
fn a_listener_that_reads_nothing_is_given_up() {
    let (mut publisher, mut bus, mut followers, next) = followed(2);
    bus.die();
    called(&mut followers);
    send_all(&mut publisher, &mut bus, 1);
    bus.serves = true;
    let is_held = |follower: &Follower| follower.reader.rung.is_held.load(Ordering::Relaxed);
    // For as long as it takes the one that reads.
    for _ in 0..2000 {
        send_all(&mut publisher, &mut bus, 1);
        followers[0].received();
    }
    assert!(publisher.survives(OWN) && is_held(&followers[0]) && !is_held(&followers[1]));
    check_from(&publisher, &mut bus, next);
    assert_eq!(followers[0].received(), (next - 1..publisher.committed()).collect::<Vec<_>>());
}

#[test]
fn what_only_a_daemon_can_do_ends_the_ring() {
    for asks in [0, 1, 2] {
        let (mut publisher, mut bus, mut followers, next) = followed(1);
        bus.die();
        called(&mut followers);
        send_all(&mut publisher, &mut bus, 1);
        let text = payload(publisher.committed());
        let mut sending = match asks {
            0 => Sending::retain(OWN, Lifetime::default(), &[], &text),
            1 => Sending::request(OWN, 5, &[], &text),
            _ => Sending::new(OWN, &[], &text),
        };
        if asks == 2 {
            bus.serves = true;
            let large = vec![0; CAPACITY_WORDS * 8];
            assert_eq!(Sending::new(OWN, &[], &large).poll::<_, Failure>(&mut publisher, &mut bus), DONE);
            assert_eq!(bus.sequences("news").last(), Some(&(next + 1)));
        } else {
            assert_eq!(sending.poll::<_, Failure>(&mut publisher, &mut bus), Ok(Step::Wait(Due::Daemon)));
            assert_eq!(publisher.committed(), next + 1);
            bus.serves = true;
            assert_eq!(sending.poll::<_, Failure>(&mut publisher, &mut bus), DONE);
            check_from(&publisher, &mut bus, next);
        }
        assert!(!publisher.survives(OWN));
        assert_eq!(followers[0].received()[1], next, "what was there before");
    }
}

/// The system may close the connection of a listener before that of its sender.
#[test]
fn a_sender_that_was_called_looks_until_it_knows_why() {
    let (mut publisher, mut bus, mut followers, _) = followed(2);
    called(&mut followers);
    let reads = bus.reads;
    send_all(&mut publisher, &mut bus, 10);
    assert!(bus.reads >= reads + 10 && publisher.rings() == 1);
    bus.die();
    send_all(&mut publisher, &mut bus, 1);
    assert!(publisher.survives(OWN));

    let (mut publisher, mut bus, mut followers, _) = followed(2);
    called(&mut followers);
    send_all(&mut publisher, &mut bus, 1);
    bus.answer(Unlink { link: 0, extensions: Vec::new() });
    send_all(&mut publisher, &mut bus, 2);
    let reads = bus.reads;
    send_all(&mut publisher, &mut bus, 10);
    assert_eq!(
        (bus.reads, publisher.rings()),
        (reads, 1),
        "the daemon serves: the listener alone has lost its connection"
    );
}

#[test]
fn a_ring_without_listeners_does_not_survive() {
    let (mut publisher, mut bus, _, next) = followed(0);
    bus.die();
    publisher.set_loss(Loss::Closed);
    assert_eq!(send(&mut publisher, &mut bus), Ok(Step::Wait(Due::Daemon)));
    assert!(!publisher.survives(OWN));
    bus.serves = true;
    send_all(&mut publisher, &mut bus, 1);
    check_from(&publisher, &mut bus, next);
}

#[test]
fn a_daemon_that_ends_the_connection_with_a_word_takes_the_ring_with_it() {
    for loss in [Loss::Ended(Ended::Goodbye), Loss::Write] {
        let (mut publisher, mut bus, _followers, _) = followed(1);
        bus.die();
        publisher.set_loss(loss);
        assert_eq!(send(&mut publisher, &mut bus), Ok(Step::Wait(Due::Daemon)));
        assert!(!publisher.survives(OWN));
    }
}

#[test]
fn a_ring_survives_several_daemons() {
    let (mut publisher, mut bus, mut followers, next) = followed(1);
    for _ in 0..3 {
        bus.die();
        called(&mut followers);
        if publisher.committed() == next {
            send_all(&mut publisher, &mut bus, 5);
        } else {
            // The second daemon may have had listeners that do not read the ring.
            assert_eq!(until_wait(&mut publisher, &mut bus), 0);
        }
        bus.serves = true;
        send_all(&mut publisher, &mut bus, 5);
    }
    let count = publisher.committed();
    assert_eq!(followers[0].received(), (next - 1..count).collect::<Vec<_>>());
    check_from(&publisher, &mut bus, next);
}

#[test]
fn a_sender_with_another_id_ends_the_ring() {
    let (mut publisher, mut bus, mut followers, next) = followed(1);
    bus.die();
    called(&mut followers);
    send_all(&mut publisher, &mut bus, 1);
    assert!(publisher.survives(OWN));
    (bus.serves, bus.sender) = (true, 78);
    send_all(&mut publisher, &mut bus, 2);
    assert!(!publisher.survives(OWN));
    check_from(&publisher, &mut bus, next);
}

/// The next daemon takes smaller messages only: those that wait move up, and listeners know some of them by their old numbers.
#[test]
fn messages_behind_one_that_is_rejected_get_numbers_that_no_listener_knows() {
    let (mut publisher, mut bus, mut followers, next) = followed(1);
    bus.die();
    called(&mut followers);
    assert_eq!(Sending::new(OWN, &[], &[7; 500]).poll::<_, Failure>(&mut publisher, &mut bus), DONE);
    send_all(&mut publisher, &mut bus, 3);
    (bus.serves, bus.payload_bytes_max) = (true, 400);
    let rejected = send(&mut publisher, &mut bus);
    assert!(matches!(rejected, Err(Failure::Rejected(Rejected::TooLarge(_)))), "{rejected:?}");
    assert_eq!(flushed(&mut publisher, &mut bus), DONE);
    assert_eq!(bus.sequences("news")[usize::try_from(next).expect("few")..], [next + 4, next + 5, next + 6]);
}

/// The same if the listener has found the next daemon before its sender.
#[test]
fn numbers_that_a_listener_knows_are_not_used_again_though_the_ring_has_ended() {
    let (mut publisher, mut bus, mut followers, next) = followed(1);
    bus.die();
    called(&mut followers);
    assert_eq!(Sending::new(OWN, &[], &[7; 500]).poll::<_, Failure>(&mut publisher, &mut bus), DONE);
    send_all(&mut publisher, &mut bus, 3);
    followers[0].reader.page.leave();
    assert_eq!(send(&mut publisher, &mut bus), Ok(Step::Wait(Due::Daemon)));
    assert!(!publisher.survives(OWN));
    (bus.serves, bus.payload_bytes_max) = (true, 400);
    let rejected = send(&mut publisher, &mut bus);
    assert!(matches!(rejected, Err(Failure::Rejected(Rejected::TooLarge(_)))), "{rejected:?}");
    assert_eq!(flushed(&mut publisher, &mut bus), DONE);
    let known = next + 5;
    assert_eq!(bus.sequences("news")[usize::try_from(next).expect("few")..], [known, known + 1, known + 2, known + 3]);
}

#[test]
fn messages_without_credit_survive_with_the_ring() {
    let (mut publisher, mut bus) = paced(5);
    let mut follower = Follower::of(&mut bus, 1);
    send_all(&mut publisher, &mut bus, 5);
    let next = publisher.committed();
    publisher.feed(&payload(next)).expect("fed");
    bus.die();
    publisher.set_loss(Loss::Closed);
    assert!(until_wait(&mut publisher, &mut bus) > 100, "no daemon, and no credit");
    assert_eq!(follower.received().last(), Some(&(publisher.committed() - 1)));
    bus.serves = true;
    assert_eq!(send(&mut publisher, &mut bus), Ok(Step::Wait(Due::Answer)), "it has no credit there either");
    bus.answer(Credit { id: ID + 1, bytes: 1_000_000, extensions: Vec::new() });
    send_all(&mut publisher, &mut bus, 5);
    check_from(&publisher, &mut bus, next);
    let count = publisher.committed();
    assert_eq!(follower.received().last(), Some(&(count - 1)));
}
