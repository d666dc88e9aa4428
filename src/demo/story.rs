//! The story: what is done, in order, and what is said about it.

use super::machine::GRACE_S;
use super::talk::{self, Talk};
use super::world::{DeviceId, Stop, World};
use std::time::Instant;

/// The machines, as numbers.
const EAST: usize = 0;
const WEST: usize = 1;
/// One message of a talk each so long, milliseconds.
const PACE_MS: u64 = 20;
/// Messages of the last half second before a death may be inside.
const RECENT: u32 = 25;
/// How often the phone moves.
const MOVES: usize = 6;

/// Who plays.
struct Cast {
    alice: DeviceId,
    dave: DeviceId,
    bob: DeviceId,
    carol: DeviceId,
}

/// What was measured, seconds.
struct Times {
    detect: f64,
    back: f64,
    heal: f64,
}

/// Tells all of it. True if everything came out as promised.
pub(super) fn tell(world: &mut World) -> Result<bool, Stop> {
    let cast = enter(world)?;
    chat(world, &cast)?;
    move_about(world, &cast)?;
    let (detect, back) = death(world, &cast)?;
    let heal = healing(world, &cast)?;
    Ok(sum_up(world, &Times { detect, back, heal }))
}

fn enter(world: &mut World) -> Result<Cast, Stop> {
    println!("\nThe two machines start.");
    for machine in [EAST, WEST] {
        world.machines[machine].start()?;
        let this = &world.machines[machine];
        world.tell(&format!("{} starts: processes {}", this.name, this.pids()));
    }
    world.until("east and west find one another", 15, has_healed)?;
    world.tell("east and west have found one another");
    let cast = Cast {
        alice: world.device("alice", "desk"),
        dave: world.device("dave", "desk"),
        bob: world.device("bob", "desk"),
        carol: world.device("carol", "phone"),
    };
    for (device, machine) in [
        (cast.alice, EAST),
        (cast.dave, EAST),
        (cast.bob, WEST),
        (cast.carol, WEST),
    ] {
        world.go(device, machine);
    }
    let all = [cast.alice, cast.dave, cast.bob, cast.carol];
    world.until("four users can log in", 15, move |world| {
        all.iter().all(|device| world.is_online(*device))
    })?;
    world.tell("alice and dave are logged in on east, bob and carol (on her phone) on west");
    let Cast { alice, bob, carol, .. } = cast;
    world.until("users see one another across the machines", 15, move |world| {
        world.sees(alice, bob) && world.sees(bob, alice) && world.sees(alice, carol)
    })?;
    world.tell("each sees the others online: the two machines are one");
    Ok(cast)
}

fn chat(world: &mut World, cast: &Cast) -> Result<(), Stop> {
    println!("\nalice and bob chat, each on a machine of their own.");
    let (to_bob, to_alice) = ("alice to bob, on two machines", "bob to alice, on two machines");
    world.flow(Talk::new(to_bob, "chat-ab"), cast.alice, "bob", PACE_MS);
    world.flow(Talk::new(to_alice, "chat-ba"), cast.bob, "alice", PACE_MS);
    world.wait_ms(3_000)?;
    world.end_flows()?;
    world.tell(&format!("{} numbered messages went each way", world.talks[0].sent));
    Ok(())
}

fn move_about(world: &mut World, cast: &Cast) -> Result<(), Stop> {
    println!("\nalice writes to carol all the time, while carol's phone moves between the machines.");
    let talk = Talk::new("alice to carol, who moves between machines", "move-ac");
    let talk = world.flow(talk, cast.alice, "carol", PACE_MS);
    world.wait_ms(300)?;
    let carol = cast.carol;
    for step in 0..MOVES {
        let target = [EAST, WEST][step % 2];
        world.leave(carol)?;
        world.wait_ms(100)?;
        world.go(carol, target);
        world.until("carol's phone can log in", 10, move |world| world.is_online(carol))?;
        world.tell(&format!("carol's phone is on {}", world.machines[target].name));
        world.wait_ms(300)?;
    }
    world.end_flows()?;
    let sent = world.talks[talk].sent;
    world.tell(&format!(
        "{sent} messages; those that came while the phone was off were kept for it"
    ));
    Ok(())
}

/// Gives the seconds until it was noticed, and until bob was back.
fn death(world: &mut World, cast: &Cast) -> Result<(f64, f64), Stop> {
    let Cast {
        alice,
        dave,
        bob,
        carol,
    } = *cast;
    println!("\nwest dies: its three processes are killed (SIGKILL), in the middle of it all.");
    let near = Talk::new("alice to dave, both on east, as west dies", "death-ad");
    let to_bob = Talk::new("alice to bob, whose machine dies", "death-ab");
    let to_carol = Talk::new("alice to carol, who stays away for a while", "death-ac");
    world.flow(near, alice, "dave", PACE_MS);
    let to_bob = world.flow(to_bob, alice, "bob", PACE_MS);
    let to_carol = world.flow(to_carol, alice, "carol", PACE_MS);
    world.wait_ms(1_000)?;
    world.stay_away(carol);
    let killed = Instant::now();
    world.machines[WEST].kill();
    for talk in [to_bob, to_carol] {
        world.talks[talk].machine_dies(RECENT);
    }
    world.tell("west is dead. bob's program notices and turns to east; carol's phone stays off");
    world.until("bob's connection ends", 5, move |world| !world.is_connected(bob))?;
    world.go(bob, EAST);
    let (mut detect, mut back) = (None, None);
    while detect.is_none() || back.is_none() {
        let (seen, home) = (detect.is_some(), back.is_some());
        world.until(
            "bob logs in on east, and alice is told that carol is gone",
            20,
            move |world| (!seen && !world.sees(alice, carol)) || (!home && world.is_online(bob)),
        )?;
        let passed = killed.elapsed().as_secs_f64();
        if back.is_none() && world.is_online(bob) {
            back = Some(passed);
            world.tell(&format!("bob is logged in on east, {passed:.1} s after the death"));
        }
        if detect.is_none() && !world.sees(alice, carol) {
            detect = Some(passed);
            world.tell(&format!(
                "alice is told that carol is offline, {passed:.1} s after the death"
            ));
            println!("           (jidmesh waits {GRACE_S} s for processes that may just be restarting)");
        }
    }
    world.go(carol, EAST);
    world.until("carol logs in on east", 10, move |world| world.is_online(carol))?;
    world.tell("carol's phone is on again, on east, and gets what was kept for her");
    world.wait_ms(500)?;
    world.end_flows()?;
    world.until("everybody sees who is there", 10, move |world| {
        world.sees(alice, bob) && world.sees(alice, carol) && world.is_online(dave)
    })?;
    world.tell("alice and dave, on east, noticed nothing but that");
    Ok((detect.unwrap_or_default(), back.unwrap_or_default()))
}

/// Gives the seconds until the two machines were one again.
fn healing(world: &mut World, cast: &Cast) -> Result<f64, Stop> {
    let Cast { alice, bob, carol, .. } = *cast;
    println!("\nwest comes back.");
    let started = Instant::now();
    world.machines[WEST].start()?;
    world.tell(&format!("west starts: processes {}", world.machines[WEST].pids()));
    world.until("east and west find one another", 15, has_healed)?;
    world.tell("east and west have found one another; bob moves back to west");
    world.leave(bob)?;
    world.go(bob, WEST);
    let talk = world.flow(
        Talk::new("alice to bob, on two machines again", "heal-ab"),
        alice,
        "bob",
        PACE_MS,
    );
    world.flow(
        Talk::new("bob to alice, on two machines again", "heal-ba"),
        bob,
        "alice",
        PACE_MS,
    );
    world.until("bob is on west again, and hears from alice on east", 20, move |world| {
        world.is_online(bob) && world.talks[talk].any_came()
    })?;
    let heal = started.elapsed().as_secs_f64();
    world.tell(&format!(
        "bob is on west again and hears from alice on east, {heal:.1} s after its start"
    ));
    world.wait_ms(2_000)?;
    world.end_flows()?;
    world.until("everybody sees who is there", 10, move |world| {
        world.sees(alice, bob) && world.sees(bob, alice) && world.sees(bob, carol)
    })?;
    Ok(heal)
}

/// Both know everything of each other; east alone would not do, it may remember a former life of west.
fn has_healed(world: &World) -> bool {
    let [east, west] = &world.machines;
    east.has_met(west.name) && west.has_met(east.name)
}

fn sum_up(world: &World, times: &Times) -> bool {
    println!("\n{}", talk::table(&world.talks));
    println!("time to detect the death of a machine   {:>5.1} s", times.detect);
    println!("time until its user was back elsewhere  {:>5.1} s", times.back);
    println!("time to heal when it came back          {:>5.1} s", times.heal);
    let good = world.talks.iter().all(Talk::is_good);
    println!(
        "\n{}",
        match (good, world.talks.iter().any(Talk::is_flawed)) {
            (true, false) => "Every message came once, and in order.",
            (true, true) =>
                "Every message came once, and in order, but for those on their way into west at the moment of its death:\n\
                 they may be lost with it, or come twice where it had no time to confirm them.",
            (false, _) => "This is not what jidmesh promises: every message once, and in order.",
        }
    );
    for talk in world.talks.iter().filter(|talk| !talk.is_good()) {
        println!("  {}", talk.complaint());
    }
    good
}
