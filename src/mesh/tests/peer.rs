//! Two and more peers: nothing lost, nothing doubled, order kept, whatever happens to the connections.

use super::super::peer::{AnewCause, Loss, PeerEvent, Seen, Unacknowledged};
use super::super::{Lane, Micros};
use super::net::{Net, PEER_BYTES_MAX, STEP_US};
use proptest::prelude::*;

/// Numbered messages from one node to another.
#[derive(Default, Clone)]
struct Numbers {
    sent: [u64; 2],
}

impl Numbers {
    /// A message of about `len` bytes: number, control messages sent before it, filling.
    fn send(&mut self, net: &mut Net, from: usize, to: usize, lane: Lane, len: usize) -> bool {
        let head = [self.sent[lane.index()].to_be_bytes(), self.sent[0].to_be_bytes()].concat();
        let ok = net.peer(from, to).send(lane, &[&head, &vec![7; len]]).is_ok();
        self.sent[lane.index()] += u64::from(ok);
        ok
    }

    /// All came once, in order, data never before the control messages that went before it.
    fn check(&self, net: &Net, from: usize, to: usize) {
        let mut next = [0u64; 2];
        for (peer, lane, message) in &net.nodes[to].got {
            if *peer != format!("n{from}.test") {
                continue;
            }
            let number = number(message);
            let control = u64::from_be_bytes(message[8..16].try_into().unwrap());
            assert_eq!(number, next[lane.index()], "{lane:?} from {from} to {to}");
            next[lane.index()] += 1;
            assert!(*lane == Lane::Control || next[0] >= control, "data overtook control");
        }
        assert_eq!(next, self.sent, "from {from} to {to}");
    }
}

fn pair(seed: u64) -> Net {
    let mut net = Net::new(2, seed);
    net.introduce(0, 1);
    net.introduce(1, 0);
    net
}

/// Numbers of messages that were not acknowledged, and whether they were seen.
fn fates(left: &mut Unacknowledged) -> Vec<(u64, Seen)> {
    let mut message = Vec::new();
    let next = || left.next_into(&mut message).map(|seen| (number_of(&message), seen));
    std::iter::from_fn(next).collect()
}

fn number_of(message: &[u8]) -> u64 {
    message.first_chunk().map_or(0, |number| u64::from_be_bytes(*number))
}

/// What node 0 has left of its data when its peer is a new process.
fn left_by_former_life(net: &mut Net) -> Vec<(u64, Seen)> {
    let mut events = net.nodes[0].events.drain(..);
    let left = events.find_map(|(_, event)| match event {
        PeerEvent::Anew { unacknowledged, .. } => Some(unacknowledged),
        _ => None,
    });
    fates(&mut left.unwrap()[1])
}

fn losses(net: &Net, node: usize) -> Vec<Loss> {
    let found = net.nodes[node].events.iter().filter_map(|(_, event)| match event {
        PeerEvent::Lost(loss) => Some(*loss),
        _ => None,
    });
    found.collect()
}

fn ups(net: &Net, node: usize) -> usize {
    net.nodes[node]
        .events
        .iter()
        .filter(|(_, event)| matches!(event, PeerEvent::Up { .. }))
        .count()
}

fn alarms(net: &Net, node: usize) -> Vec<&str> {
    let found = net.nodes[node].events.iter().filter_map(|(_, event)| match event {
        PeerEvent::Alarm(text) => Some(text.as_str()),
        _ => None,
    });
    found.collect()
}

#[test]
fn both_dial_and_one_connection_a_lane_survives() {
    for seed in 0..20 {
        let mut net = pair(seed);
        net.delay_us = 1_000 + 7_000 * seed;
        net.run(3_000_000);
        assert_eq!(net.open_cables(), 2, "seed {seed}");
        assert!(net.dials_seen <= 8, "seed {seed}: {} dials", net.dials_seen);
        assert_eq!((ups(&net, 0), ups(&net, 1)), (1, 1));
        assert!(losses(&net, 0).is_empty());
    }
}

#[test]
fn messages_before_during_and_after_the_first_connection() {
    let mut net = pair(1);
    let mut numbers = [Numbers::default(), Numbers::default()];
    for step in 0..2_000usize {
        for (node, numbers) in numbers.iter_mut().enumerate() {
            if step % 3 == 0 {
                numbers.send(&mut net, node, 1 - node, Lane::Control, step % 200);
            }
            for n in 0..4 {
                numbers.send(&mut net, node, 1 - node, Lane::Data, (step * 37 + n) % 900);
            }
        }
        net.step();
    }
    net.run(1_000_000);
    numbers[0].check(&net, 0, 1);
    numbers[1].check(&net, 1, 0);
    assert_eq!(net.peer(0, 1).queued_bytes(Lane::Data), 0, "all of it acknowledged");
}

#[test]
fn one_side_alone_may_know_the_other() {
    let mut net = Net::new(2, 3);
    net.introduce(1, 0);
    net.run(500_000);
    assert!(net.peer(0, 1).is_up() && net.peer(1, 0).is_up());
    let learnt: Vec<String> = net.peer(0, 1).addresses().iter().map(ToString::to_string).collect();
    assert_eq!(learnt, ["n1.test:5348"], "from its hello");
}

/// Load with something done to the network every so often; all must arrive.
fn load_with(seed: u64, steps: usize, mut fault: impl FnMut(&mut Net, usize)) -> Net {
    let mut net = pair(seed);
    let mut numbers = [Numbers::default(), Numbers::default()];
    for step in 0..steps {
        for (node, numbers) in numbers.iter_mut().enumerate() {
            if step % 5 == 0 {
                numbers.send(&mut net, node, 1 - node, Lane::Control, 60);
            }
            for n in 0..3 {
                numbers.send(&mut net, node, 1 - node, Lane::Data, (step * 131 + n * 977) % 3_000);
            }
        }
        fault(&mut net, step);
        net.step();
        for node in 0..2 {
            let status = net.peer(node, 1 - node).status();
            assert!(status.lanes.iter().map(|lane| lane.queued_bytes).sum::<u64>() <= PEER_BYTES_MAX);
        }
    }
    net.cut.clear();
    net.rejecting.clear();
    net.run(6_000_000);
    numbers[0].check(&net, 0, 1);
    numbers[1].check(&net, 1, 0);
    net
}

#[test]
fn reset_every_200_ms_under_load() {
    let mut net = load_with(4, 20_000, |net, step| {
        if step % 400 == 399 {
            net.reset_all();
        }
    });
    assert!(net.peer(0, 1).status().counters.connections > 80);
    assert!(losses(&net, 0).is_empty() && ups(&net, 0) == 1, "nobody noticed");
}

#[test]
fn another_process_takes_over_every_200_ms_under_load() {
    for seed in 0..2 {
        let mut net = load_with(60 + seed, 7_000, |net, step| {
            net.delay_us = 1_000 + 4_000 * seed;
            net.nodes[1].lazy = step % 900 > 700;
            if step % 401 == 399 {
                net.take_over(step % 2);
            }
        });
        for node in 0..2 {
            let mut events = net.nodes[node].events.iter();
            let anew = events.any(|(_, event)| matches!(event, PeerEvent::Anew { .. }));
            assert!(
                !anew && alarms(&net, node).is_empty(),
                "seed {seed}: it is the same node"
            );
            assert!(net.peer(node, 1 - node).is_up());
        }
    }
}

/// As a firewall does it: one side is reset, and the other learns it when it next says something.
#[test]
fn half_resets_of_slow_nodes_under_load() {
    for seed in 0..4 {
        let (mut unserved, mut longest) = (0, 0);
        let net = load_with(40 + seed, 20_000, |net, step| {
            net.delay_us = 15_000;
            match step % 1_500 {
                0 => net.rejecting.push(0),
                500 => net.rejecting.push(1),
                160 | 660 => net.rejecting.clear(),
                _ => {}
            }
            let served = net
                .peer(0, 1)
                .status()
                .lanes
                .iter()
                .all(|lane| lane.served_by.is_some() && !lane.stuck);
            unserved = if served { 0 } else { unserved + STEP_US };
            longest = longest.max(unserved);
        });
        println!("seed {seed}: a lane was unserved for {} ms", longest / 1_000);
        assert!(longest < 1_500_000, "seed {seed}: a lane was unserved for {longest} us");
        assert!(alarms(&net, 0).is_empty() && alarms(&net, 1).is_empty());
    }
}

#[test]
fn cuts_of_three_seconds_under_load() {
    let net = load_with(5, 30_000, |net, step| match step % 10_000 {
        2_000 => net.cut_both(0, 1),
        8_000 => net.cut.clear(),
        _ => {}
    });
    assert!(
        losses(&net, 0).iter().all(|loss| *loss == Loss::Silent),
        "{:?}",
        losses(&net, 0)
    );
    assert!(!losses(&net, 0).is_empty());
}

#[test]
fn one_direction_dead_under_load() {
    load_with(6, 30_000, |net, step| match step % 10_000 {
        2_000 => net.cut.push((0, 1)),
        5_000 => net.cut.clear(),
        6_000 => net.cut.push((1, 0)),
        9_000 => net.cut.clear(),
        _ => {}
    });
}

/// The peer hears and is not heard.
#[test]
fn what_counts_as_never_seen_never_was() {
    let mut net = pair(10);
    net.run(1_000_000);
    net.cut.push((1, 0));
    let mut numbers = Numbers::default();
    for _ in 0..1_500 {
        numbers.send(&mut net, 0, 1, Lane::Data, 50);
        net.step();
    }
    let now = net.now;
    let got: Vec<u64> = net.nodes[1].got.iter().map(|(.., message)| number(message)).collect();
    let [_, mut left] = net.peer(0, 1).declare_dead(now);
    let (mut message, mut kinds) = (Vec::new(), [0, 0]);
    while let Some(seen) = left.next_into(&mut message) {
        kinds[usize::from(seen == Seen::Never)] += 1;
        assert!(
            seen == Seen::Perhaps || !got.contains(&number(&message)),
            "{}",
            number(&message)
        );
    }
    assert!(kinds[0] > 100 && kinds[1] > 100, "{kinds:?}");
}

fn number(message: &[u8]) -> u64 {
    u64::from_be_bytes(message[..8].try_into().unwrap())
}

#[test]
fn cuts_with_a_relay_under_load() {
    let mut times = [0; 2];
    let mut net = load_with(9, 60_000, |net, step| {
        net.relay = true;
        match step % 20_000 {
            2_000 => net.cut_both(0, 1),
            12_000 => net.cut.clear(),
            _ => {}
        }
        let relayed = net.peer(0, 1).is_relayed(Lane::Data);
        times[usize::from(relayed)] += 1;
        // Found within three seconds, and left within as many.
        match step % 20_000 {
            8_000..=11_999 => assert!(relayed && net.peer(1, 0).is_relayed(Lane::Control), "at {step}"),
            0..=1_999 | 18_000..=19_999 => assert!(!relayed, "at {step}"),
            _ => {}
        }
    });
    assert!(times[1] > 3 * 4_000);
    let dials = net.peer(0, 1).status().counters.dials;
    assert!(dials < 60, "{dials} dials in half a minute");
    assert_eq!(net.open_cables(), 2);
}

#[test]
fn a_cut_heals_within_the_longest_pause() {
    let mut net = pair(7);
    net.run(1_000_000);
    net.cut_both(0, 1);
    net.run(60_000_000);
    assert!(!net.peer(0, 1).is_up());
    net.cut.clear();
    // The old connections are of no use, as after a long cut.
    let mut waited: Micros = 0;
    while !(net.peer(0, 1).is_up() && net.peer(1, 0).is_up()) {
        net.step();
        waited += super::net::STEP_US;
        assert!(waited < 3_500_000, "not healed after {waited} us");
    }
    let dials = net.dials_seen;
    assert!(dials < 120, "{dials} dials in a minute");
    // Control and data are up together.
    net.run(200_000);
    let lanes = net.peer(0, 1).status().lanes;
    assert!(
        lanes.iter().all(|lane| lane.served_by.is_some() && !lane.stuck),
        "{lanes:?}"
    );
}

#[test]
fn a_slow_receiver_stops_the_sender_and_loses_nothing() {
    let mut net = pair(8);
    net.run(500_000);
    net.nodes[1].lazy = true;
    let mut numbers = Numbers::default();
    let mut refused = 0;
    for _ in 0..4_000 {
        for _ in 0..4 {
            refused += usize::from(!numbers.send(&mut net, 0, 1, Lane::Data, 2_000));
        }
        net.step();
    }
    let status = net.peer(0, 1).status();
    assert!(refused > 0 && status.counters.messages_refused == refused as u64);
    assert!(
        status.lanes[1].out_of_credit && !status.lanes[1].stuck,
        "slow is not dead"
    );
    let waiting = net.peer(1, 0).status().lanes[1].waiting_bytes;
    assert!(waiting <= super::super::lane::WINDOW_BYTES as u64, "{waiting}");
    assert!(
        numbers.send(&mut net, 0, 1, Lane::Control, 10),
        "control is not behind data"
    );
    net.nodes[1].lazy = false;
    net.run(5_000_000);
    numbers.check(&net, 0, 1);
}

#[test]
fn a_message_larger_than_many_records() {
    let mut net = pair(9);
    let mut numbers = Numbers::default();
    for len in [0, 100_000, 5 << 20] {
        assert!(numbers.send(&mut net, 0, 1, Lane::Data, len));
        net.run(100_000);
        net.reset_all();
    }
    net.run(3_000_000);
    numbers.check(&net, 0, 1);
}

#[test]
fn a_lost_process_is_told_from_silence_and_a_new_one_from_the_old() {
    let mut net = pair(10);
    net.run(500_000);
    net.kill(1);
    net.run(500_000);
    assert_eq!(losses(&net, 0), [Loss::Process]);
    let mut numbers = Numbers::default();
    numbers.send(&mut net, 0, 1, Lane::Control, 10);
    numbers.send(&mut net, 0, 1, Lane::Data, 10);
    net.run(500_000);
    net.restart(1, 77);
    net.run(3_000_000);
    let (cause, incarnation, mut left) = net.nodes[0]
        .events
        .drain(..)
        .find_map(|(_, event)| match event {
            PeerEvent::Anew {
                cause,
                incarnation,
                unacknowledged,
            } => Some((cause, incarnation, unacknowledged)),
            _ => None,
        })
        .unwrap();
    assert_eq!((cause, incarnation), (AnewCause::NewIncarnation, 77));
    assert_eq!(fates(&mut left[0]), [(0, Seen::Never)]);
    assert_eq!(fates(&mut left[1]), [(0, Seen::Never)]);
    assert!(net.nodes[1].got.is_empty(), "the new process gets none of it");
    assert!(net.peer(0, 1).is_up());
    let mut numbers = Numbers::default();
    numbers.send(&mut net, 0, 1, Lane::Data, 10);
    net.run(100_000);
    numbers.check(&net, 0, 1);
}

#[test]
fn what_a_dead_process_may_have_handled_is_told_from_what_it_cannot_have_seen() {
    let mut net = pair(17);
    net.run(500_000);
    let mut numbers = Numbers::default();
    numbers.send(&mut net, 0, 1, Lane::Data, 10);
    net.run(10_000);
    numbers.send(&mut net, 0, 1, Lane::Data, 10);
    while net.nodes[1].got.len() < 2 {
        net.step();
    }
    // The last words of a process may be lost with it.
    net.kill(1);
    net.run(100_000);
    numbers.send(&mut net, 0, 1, Lane::Data, 10);
    net.restart(1, 77);
    net.run(3_000_000);
    assert_eq!(left_by_former_life(&mut net), [(1, Seen::Perhaps), (2, Seen::Never)]);
}

#[test]
fn what_is_said_to_a_silent_node_was_not_seen_but_for_the_beginning() {
    let mut net = pair(18);
    net.run(500_000);
    let mut numbers = Numbers::default();
    net.cut_both(0, 1);
    for _ in 0..40 {
        net.run(50_000);
        numbers.send(&mut net, 0, 1, Lane::Data, 10);
    }
    net.run(2_000_000);
    let now = net.now;
    let left = fates(&mut net.peer(0, 1).declare_dead(now)[1]);
    let doubtful = left.iter().filter(|(_, seen)| *seen == Seen::Perhaps).count();
    assert!(left.len() == 40 && (2..=4).contains(&doubtful), "{left:?}");
}

#[test]
fn one_who_was_given_up_is_told_what_had_come() {
    let mut net = pair(19);
    net.run(500_000);
    let mut numbers = Numbers::default();
    numbers.send(&mut net, 1, 0, Lane::Data, 10);
    while net.nodes[0].got.is_empty() {
        net.step();
    }
    // Node 0 hears nothing any more, nor is its last acknowledgement heard.
    net.cut_both(0, 1);
    numbers.send(&mut net, 1, 0, Lane::Data, 10);
    net.run(3_000_000);
    let now = net.now;
    net.peer(0, 1).declare_dead(now);
    net.cut.clear();
    net.run(3_000_000);
    let (_, event) = net.nodes[1]
        .events
        .drain(..)
        .find(|(_, event)| matches!(event, PeerEvent::Anew { .. }))
        .unwrap();
    let PeerEvent::Anew { mut unacknowledged, .. } = event else {
        unreachable!()
    };
    assert_eq!(fates(&mut unacknowledged[1]), [(1, Seen::Never)]);
}

#[test]
fn a_node_that_was_stopped_reads_nothing_of_what_came_meanwhile() {
    let mut net = pair(20);
    net.run(500_000);
    let mut numbers = Numbers::default();
    net.nodes[1].stopped = true;
    for _ in 0..10 {
        numbers.send(&mut net, 0, 1, Lane::Data, 10);
        net.run(500_000);
    }
    let now = net.now;
    let mut left = net.peer(0, 1).declare_dead(now);
    let fates = fates(&mut left[1]);
    assert!(
        fates.len() == 10 && fates[1..].iter().all(|(_, seen)| *seen == Seen::Never),
        "{fates:?}"
    );
    net.nodes[1].stopped = false;
    net.run(3_000_000);
    assert!(net.nodes[1].got.is_empty(), "it is too late for them");
    assert!(net.peer(0, 1).is_up() && net.peer(1, 0).is_up());
}

#[test]
fn a_node_that_was_stopped_and_not_given_up_gets_all() {
    let mut net = pair(21);
    net.run(500_000);
    let mut numbers = Numbers::default();
    net.nodes[1].stopped = true;
    for _ in 0..20 {
        numbers.send(&mut net, 0, 1, Lane::Data, 10);
        net.run(500_000);
    }
    net.nodes[1].stopped = false;
    net.run(3_000_000);
    numbers.check(&net, 0, 1);
}

#[test]
fn declared_dead_and_alive_it_starts_anew_by_itself() {
    let mut net = pair(11);
    net.run(500_000);
    let mut old = Numbers::default();
    net.cut_both(0, 1);
    for _ in 0..10 {
        old.send(&mut net, 0, 1, Lane::Data, 10);
        assert!(net.peer(1, 0).send(Lane::Data, &[b"to one who gave us up"]).is_ok());
    }
    net.run(5_000_000);
    let now = net.now;
    let mut left = net.peer(0, 1).declare_dead(now);
    assert_eq!(fates(&mut left[1]).len(), 10);
    net.run(55_000_000);
    net.cut.clear();
    net.run(4_000_000);
    assert!(net.peer(0, 1).is_up() && net.peer(1, 0).is_up());
    assert!(net.nodes[0].got.is_empty(), "nothing of the old stream arrives");
    let told = net.nodes[1].events.iter().any(|(_, event)| {
        matches!(event, PeerEvent::Anew { cause: AnewCause::DeclaredDead, unacknowledged, .. } if unacknowledged[1].bytes() > 0)
    });
    assert!(told, "the other side has its own messages back");
    let mut numbers = Numbers::default();
    for n in 0..50 {
        numbers.send(&mut net, 0, 1, Lane::Data, n);
        numbers.send(&mut net, 0, 1, Lane::Control, n);
        net.step();
    }
    net.run(200_000);
    numbers.check(&net, 0, 1);
    assert!(alarms(&net, 0).is_empty() && alarms(&net, 1).is_empty());
}

#[test]
fn idle_links_cost_little_and_know_their_round_trip() {
    let mut net = pair(12);
    net.delay_us = 10_000;
    net.run(30_000_000);
    let status = net.peer(0, 1).status();
    assert!(
        (20_000..23_000).contains(&status.round_trip_us.unwrap()),
        "{:?}",
        status.round_trip_us
    );
    assert!(status.counters.connections <= 4);
}

#[test]
fn membership_messages_cross_the_control_lane() {
    let mut net = pair(13);
    net.run(500_000);
    net.peer(0, 1).send_datagram(b"ping");
    net.run(10_000);
    let came = net.nodes[1]
        .events
        .iter()
        .any(|(_, event)| matches!(event, PeerEvent::Datagram(bytes) if bytes == b"ping"));
    assert!(came);
}

/// What a member says in its defence must outlive a connection; what has become old may go.
#[test]
fn membership_messages_wait_for_a_connection() {
    let mut net = pair(22);
    net.run(500_000);
    net.cut_both(0, 1);
    net.reset_all();
    for number in 0..70u8 {
        net.peer(0, 1).send_datagram(&[number]);
    }
    net.run(3_000_000);
    assert_eq!(losses(&net, 0), [Loss::Silent]);
    net.cut.clear();
    net.run(3_000_000);
    let events = net.nodes[1].events.iter();
    let came = events.filter_map(|(_, event)| match event {
        PeerEvent::Datagram(bytes) => Some(bytes[0]),
        _ => None,
    });
    assert_eq!(came.collect::<Vec<u8>>(), (6..70).collect::<Vec<u8>>());
}

#[test]
fn a_lost_peer_is_heard_of_before_its_connection_serves() {
    let mut net = pair(23);
    net.run(500_000);
    net.cut_both(0, 1);
    net.run(4_000_000);
    net.nodes[0].events.clear();
    net.cut.clear();
    let healed_at = net.now;
    net.run(4_000_000);
    let events = net.nodes[0].events.iter().map(|(_, event)| event);
    let before_up: Vec<_> = events
        .take_while(|event| !matches!(event, PeerEvent::Up { .. }))
        .collect();
    let heard = |event: &&PeerEvent| matches!(event, PeerEvent::Heard { at } if *at > healed_at);
    assert!(before_up.iter().any(heard), "{before_up:?}");
}

#[test]
fn a_former_life_does_not_come_back() {
    let mut net = pair(14);
    net.run(500_000);
    net.restart(1, 77);
    net.introduce(1, 0);
    net.run(2_000_000);
    assert!(net.peer(0, 1).is_up());
    // Two processes of one name: the first life is started again beside the second.
    net.restart(1, 2);
    net.introduce(1, 0);
    net.run(2_000_000);
    assert!(!net.peer(0, 1).is_up());
    assert!(net.dials_seen < 60, "{} dials", net.dials_seen);
}

#[test]
fn leaving_is_said() {
    let mut net = pair(15);
    net.run(500_000);
    let now = net.now;
    net.peer(1, 0).leave(now, super::super::error::Reason::Restarting);
    net.run(10_000);
    assert_eq!(losses(&net, 0), [Loss::Restarting]);
}

#[test]
fn eight_nodes_all_dial_all() {
    let mut net = Net::new(8, 16);
    for a in 0..8 {
        for b in 0..8 {
            if a != b {
                net.introduce(a, b);
            }
        }
    }
    let mut numbers = vec![vec![Numbers::default(); 8]; 8];
    for step in 0..1_500 {
        for (a, row) in numbers.iter_mut().enumerate() {
            for (b, numbers) in row.iter_mut().enumerate().filter(|(b, _)| *b != a) {
                let lane = if step % 4 == 0 { Lane::Control } else { Lane::Data };
                if step % 8 < 5 {
                    numbers.send(&mut net, a, b, lane, 40);
                }
            }
        }
        if step == 700 {
            net.reset_all();
        }
        net.step();
    }
    net.run(2_000_000);
    assert_eq!(net.open_cables(), 8 * 7);
    for (a, row) in numbers.iter().enumerate() {
        for (b, numbers) in row.iter().enumerate().filter(|(b, _)| *b != a) {
            numbers.check(&net, a, b);
        }
    }
}

#[derive(Clone, Debug)]
enum Fault {
    Reset,
    Cut(bool, bool),
    Heal,
    Lazy(bool),
    Delay(u8),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::Reset),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(a, b)| Fault::Cut(a, b)),
        3 => Just(Fault::Heal),
        1 => any::<bool>().prop_map(Fault::Lazy),
        1 => (0..40u8).prop_map(Fault::Delay),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_happens_to_the_connections(seed in 0u64..1000, faults in proptest::collection::vec((fault(), 1usize..1500), 0..20)) {
        let mut plan = faults.into_iter();
        let mut next = plan.next();
        let mut wait = 500;
        load_with(seed, 6_000, |net, step| {
            if step + 1 == 6_000 {
                net.nodes[1].lazy = false;
            }
            wait -= 1;
            if wait > 0 {
                return;
            }
            wait = usize::MAX;
            if let Some((fault, pause)) = next.take() {
                match fault {
                    Fault::Reset => net.reset_all(),
                    Fault::Cut(true, false) => net.cut.push((0, 1)),
                    Fault::Cut(false, true) => net.cut.push((1, 0)),
                    Fault::Cut(..) => net.cut_both(0, 1),
                    Fault::Heal => net.cut.clear(),
                    Fault::Lazy(lazy) => net.nodes[1].lazy = lazy,
                    Fault::Delay(ms) => net.delay_us = 500 + 1_000 * Micros::from(ms),
                }
                wait = pause;
                next = plan.next();
            }
        });
    }
}
