//! What samples of all frames tell, and when they end.

use super::cluster::{Site, inquire};
use super::trace::{TOKEN, USER, place};
use super::world::{SESS, World, message, route};
use crate::node::cluster::{Answer, Question};
use crate::node::trace::{LEASE_US, SamplePath, Sampled, Window};
use std::collections::HashMap;

fn delivery() -> String {
    route(
        "example.net",
        "c2s",
        &format!(
            "<message xmlns='jabber:client' xmlns:sm='{SESS}' sm:sm='{TOKEN}' sm:c2s='1' from='x@peer.test/a' to='{USER}/r'/>"
        ),
    )
}

/// All windows of all shards as one.
#[derive(Debug, Default)]
struct Whole {
    frames: u64,
    samples: u64,
    /// Frames by path, and the longest time of any, microseconds.
    handed: [u64; SamplePath::ALL.len()],
    max_us: u64,
    lists: [HashMap<String, u64>; 4],
}

fn whole(answers: Vec<Answer>) -> Whole {
    let mut whole = Whole::default();
    for answer in answers {
        let Answer::Sample(sampled) = answer else {
            panic!("{answer:?}")
        };
        let Sampled { windows, .. } = *sampled;
        for Window {
            frames,
            samples,
            times_us,
            jids: [from, to],
            names: [by, at],
            ..
        } in windows
        {
            whole.frames += frames;
            whole.samples += samples;
            for (path, times) in times_us.iter().enumerate() {
                whole.handed[path] += times.len();
                whole.max_us = whole.max_us.max(times.max());
            }
            for (list, sketch) in whole.lists.iter_mut().zip([from, to, by, at]) {
                sketch
                    .certain()
                    .for_each(|(key, has)| *list.entry(key.to_owned()).or_default() += has);
            }
        }
    }
    whole
}

fn sample(world: &mut World) -> Whole {
    for (ticket, shard) in world.shards.iter_mut().enumerate() {
        shard.inquire(world.now, ticket as u64, Question::Sample);
    }
    world.rest();
    whole(world.answers.drain(..).map(|(_, answer)| answer).collect())
}

#[test]
fn samples_stand_for_all_frames_and_tell_whose_they_are() {
    for shards in [1, 3] {
        let (mut world, [sm, c2s, peer]) = place(shards);
        assert_eq!(sample(&mut world).frames, 0);
        for _ in 0..50 {
            // The short way, but for the first; and the long one.
            world.send(sm, &delivery().repeat(90));
            world.send(
                peer,
                &route("peer.test", "example.net", &message("x@peer.test", USER, "b")).repeat(10),
            );
            world.pass(50_000);
        }
        let deliveries = world.take(c2s).matches("<message").count();
        assert_eq!((deliveries, world.take(sm).matches("<message").count()), (4_500, 500));
        let told = sample(&mut world);
        let about = |count: u64, of: u64| (of * 8 / 10..=of * 12 / 10).contains(&count);
        assert!(told.frames <= 5_000 && about(told.frames, 5_000), "{told:?}");
        assert!(told.samples >= 50, "{told:?}");
        // Nothing waits: every sample was handed over, all of them to components of this node.
        assert_eq!(told.handed, [told.frames, 0, 0, 0, 0], "{shards} shards");
        let [from, to, by, at] = &told.lists;
        assert!(about(from["x@peer.test"], 5_000) && about(to[USER], 5_000), "{told:?}");
        assert!(about(by["example.net"], 4_500) && about(at["c2s"], 4_500), "{told:?}");
    }
}

#[test]
fn a_frame_is_on_its_way_until_it_is_written() {
    for shards in [1, 3] {
        let (mut world, [_, c2s, peer]) = place(shards);
        sample(&mut world);
        world.stuck = Some(c2s);
        // Every frame is a sample once the traffic is known to be thin.
        world.pass(2_000_000);
        for to in ["c2s", "sm"] {
            world.send(
                peer,
                &route("peer.test", to, &message("x@peer.test", "y@other.test", "b")),
            );
        }
        world.pass(70_000);
        let told = sample(&mut world);
        assert_eq!(
            (told.frames, told.handed[0], told.max_us),
            (2, 1, 0),
            "one is still there: {told:?}"
        );
        world.unstick();
        let told = sample(&mut world);
        assert_eq!(told.handed[0], 2);
        assert!((70_000..72_000).contains(&told.max_us), "{shards} shards: {told:?}");
    }
}

#[test]
fn samples_end_soon_after_nobody_looks_and_the_short_way_was_never_closed() {
    let (mut world, [_, _, peer]) = place(1);
    sample(&mut world);
    world.pass(LEASE_US - 200_000);
    sample(&mut world);
    world.pass(LEASE_US - 200_000);
    assert!(world.shards[0].tracing.is_some() && !world.shards[0].is_tracing());
    world.pass(400_000);
    assert!(world.shards[0].tracing.is_none());
    world.send(
        peer,
        &route("peer.test", "example.net", &message("x@peer.test", USER, "b")),
    );
    assert_eq!(sample(&mut world).frames, 0, "they begin anew");
}

#[test]
fn only_the_last_windows_are_told() {
    let (mut world, [_, _, peer]) = place(1);
    sample(&mut world);
    for second in 0..60 {
        world.pass(1_000_000);
        world.send(
            peer,
            &route("peer.test", "example.net", &message("x@peer.test", USER, "b")),
        );
        let told = sample(&mut world);
        assert!(
            told.frames <= 21 && (second < 11 || told.frames >= 9),
            "after {second} s: {told:?}"
        );
    }
}

#[test]
fn what_comes_from_another_node_is_told_apart() {
    for shards in [1, 2] {
        let mut site = Site::new(2, shards);
        assert_eq!(site.login(1, 7, &format!("{USER}/r"), 10), 1);
        inquire(&mut site, 1, &Question::Sample);
        for _ in 0..20 {
            site.pass(200_000);
            inquire(&mut site, 1, &Question::Sample);
        }
        site.say(0, USER, "hello");
        let told = whole(inquire(&mut site, 1, &Question::Sample));
        assert_eq!(
            told.handed[SamplePath::FromNode as usize],
            1,
            "{shards} shards: {told:?}"
        );
        assert_eq!(told.lists[1].get(USER), Some(&1), "{told:?}");
    }
}
