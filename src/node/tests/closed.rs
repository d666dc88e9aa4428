//! What is known of links that are no more.

use super::world::World;
use crate::node::CLOSED_MAX;
use crate::node::cluster::{Answer, Question};
use crate::node::counters::Counter;

/// (link, reason) of each, oldest first, and those of shard 0 before the others'.
fn closed(world: &mut World) -> Vec<(String, String)> {
    world.answers.clear();
    for shard in &mut world.shards {
        shard.inquire(world.now, 1, Question::Closed);
    }
    world.rest();
    let told = world.answers.iter().flat_map(|(_, answer)| match answer {
        Answer::Closed(links) => links.clone(),
        other => panic!("{other:?}"),
    });
    told.map(|link| (link.link.to_string(), link.reason.to_string()))
        .collect()
}

#[test]
fn each_ended_link_is_remembered_with_its_name_and_its_reason() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let lost = world.component(&["lost"]);
        let leaving = world.component(&["leaving"]);
        let wrong = world.component(&["wrong"]);
        world.accept("192.0.2.1:9");
        world.cut(lost);
        world.send(leaving, "</stream:stream>");
        world.send(wrong, "<a></b>");
        world.pass(60_000_000);
        let mut told = closed(&mut world);
        told.sort();
        let expected = [
            (
                "",
                "closed with stream error connection-timeout: no authentication, or no bind, in time",
            ),
            ("leaving", "the component closed its stream"),
            ("lost", "reset by the component"),
            ("wrong", "closed with stream error xml-not-well-formed: mismatched tag"),
        ];
        assert_eq!(
            told,
            expected.map(|(link, reason)| (link.to_owned(), reason.to_owned()))
        );
    }
}

#[test]
fn so_many_are_remembered_and_no_more() {
    let mut world = World::new(1);
    for port in 0..=CLOSED_MAX {
        let end = world.accept(&format!("192.0.2.1:{port}"));
        world.cut(end);
    }
    world.answers.clear();
    world.shards[0].inquire(world.now, 1, Question::Closed);
    world.rest();
    let Some((_, Answer::Closed(links))) = world.answers.pop() else {
        panic!("no answer")
    };
    assert_eq!(links.len(), CLOSED_MAX);
    assert_eq!(links[0].remote.port(), 1, "the oldest went");
    assert_eq!(world.count(Counter::LinksClosed), 1 + CLOSED_MAX as u64);
}
