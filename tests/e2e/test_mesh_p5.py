"""P5: a partition heals by itself. Each side serves its users meanwhile; afterwards one truth, everywhere, without a restart."""

import asyncio
import time

import pytest

from bed import wait_for
from client import settle
from mesh import NAMES
from test_mesh_operator import ask
from talk import Phone, Talk, in_order_once, not_disturbed, run, told, unreached, wrong_pictures

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(240)]
# P5: 5 s, and the kernel's connect time.
HEAL_S, CONNECT_S = 5.0, 1.5
# What a busy two-core machine adds, and the answer to the question.
SLACK_S = 3.0
USERS = ("ann", "bob", "cid", "sam", "tim", "eve")


def both_ways(machines):
    machines.hub.cut(machines.places["m1"])


def outward(machines):
    """Nobody hears m1; m1 hears everybody."""
    for other in ("m2", "m3"):
        machines.hub.cut_one_way(machines.places["m1"], machines.places[other])


def inward(machines):
    """m1 hears nobody; everybody hears m1."""
    for other in ("m2", "m3"):
        machines.hub.cut_one_way(machines.places[other], machines.places["m1"])


@pytest.mark.parametrize("cut, length_s", [
    pytest.param(both_ways, 1, id="both-ways-1s"),
    pytest.param(both_ways, 10, id="both-ways-10s"),
    pytest.param(outward, 10, id="outward-10s"),
    pytest.param(inward, 1, id="inward-1s", marks=pytest.mark.full),
    pytest.param(inward, 10, id="inward-10s", marks=pytest.mark.full),
    pytest.param(both_ways, 60, id="both-ways-60s", marks=pytest.mark.full),
    pytest.param(outward, 60, id="outward-60s", marks=pytest.mark.full),
])
def test_after_a_partition_there_is_one_truth(mesh, cut, length_s):
    """ann is on m1, which is cut off; bob on m2, cid on m3. Meanwhile sam logs in on both sides, tim too with one and the same resource, and
    eve, who was on m1, gets a second device on m3."""
    machines = mesh()
    machines["m1"].add_users(*USERS)
    for number, user in enumerate(USERS):
        machines["m1"].add_contacts(user + "@example.net", ["%s@example.net" % other for other in USERS[:number]])
    pids = {(name, key): process.pid for name, machine in machines.machines.items() for key, process in machine.processes.items()}

    async def play():
        phones = [await Phone(machines, user + "/r", where).on() for user, where in (("ann", "m1"), ("bob", "m2"), ("cid", "m3"), ("eve", "m1"))]
        ann, bob, cid, _ = phones
        await settle([phone.client for phone in phones])
        inner = [Talk(bob.client, cid.client, rate=50), Talk(cid.client, bob.client, rate=50)]
        across = [Talk(ann.client, bob.client, rate=20), Talk(bob.client, ann.client, rate=20)]
        await asyncio.sleep(0.5)
        cut(machines)
        start = time.monotonic()
        # tim's loser does not come back: his two devices would push each other out for ever.
        late = [Phone(machines, "sam/one", "m1"), Phone(machines, "sam/two", "m3"), Phone(machines, "eve/two", "m3"),
                Phone(machines, "tim/r", "m1", again=False), Phone(machines, "tim/r", "m3", again=False)]
        logins = [asyncio.ensure_future(phone.on()) for phone in late]
        # By a thread of its own: the clients keep this one busy, and a partition of a second must not become one of three.
        await asyncio.to_thread(lambda: (time.sleep(max(0.0, start + length_s - time.monotonic())), machines.hub.heal()))
        healed = time.monotonic()
        if length_s >= 10:
            assert all(login.done() for login in logins), "both sides let users in: %s" % [
                phone.jid + "@" + phone.where for phone, login in zip(late, logins) if not login.done()]
        await asyncio.gather(*logins)
        everybody = phones + late
        problems = ["not looked yet"]
        while problems:
            problems = await what_is_wrong(machines, everybody)
            assert not problems or time.monotonic() < healed + HEAL_S + CONNECT_S + SLACK_S, "%.1f s after healing: %s" % (
                time.monotonic() - healed, problems)
        # It stays so.
        await asyncio.sleep(2)
        for talk in inner + across:
            await talk.stop()
        problems = await what_is_wrong(machines, everybody)
        assert not problems, problems
        for talk in inner:
            await talk.check()
        for talk in across:
            if length_s < 5:
                # Shorter than anybody's patience: the connections are replaced, nothing is lost.
                await talk.check()
            else:
                in_order_once(talk.received(), "%s to %s" % (talk.sender.label, talk.receiver.label))
        not_disturbed(ann.client, bob.client, cid.client)
        assert len(ann.streams) == len(bob.streams) == len(cid.streams) == 1
        for phone in everybody:
            phone.off()

    run(play())
    assert pids == {(name, key): process.pid for name, machine in machines.machines.items() for key, process in machine.processes.items()}
    assert all(process.alive() for machine in machines.machines.values() for process in machine.processes.values())


async def what_is_wrong(machines, phones):
    """Empty when all is well: nobody split over two sm, one of tim's devices left, every message arrives, every picture is right."""
    problems = ["%s is served by %s" % (user, machines.serving(user)) for user in USERS if len(machines.serving(user)) > 1]
    tims = [phone for phone in phones if phone.jid == "tim/r"]
    if sum(phone.lives() for phone in tims) != 1:
        problems.append("tim/r lives %d times" % sum(phone.lives() for phone in tims))
    problems += ["%s@%s is out" % (phone.jid, phone.where) for phone in phones if phone.again and not phone.lives()]
    one_each = [phone for phone in phones if phone not in tims] + [phone for phone in tims if phone.lives()][:1]
    problems += await unreached(one_each)
    return problems + wrong_pictures(one_each)


def test_two_machines_that_cannot_reach_each_other_use_the_third(mesh, full):
    """A loose mesh: m1 and m2 are cut from one another, m3 reaches both. Nobody is told away, and what they say arrives by way of m3."""
    machines = mesh()
    machines["m1"].add_users("ann", "bob", "cid")
    machines["m1"].add_contacts("ann@example.net", ["bob@example.net", "cid@example.net"])
    machines["m1"].add_contacts("bob@example.net", ["cid@example.net"])

    async def play():
        ann, bob, cid = [await machines.client(user + "/r", where).login() for user, where in zip(("ann", "bob", "cid"), NAMES)]
        await settle([ann, bob, cid])
        talks = [Talk(one, other, rate=30) for one, other in ((ann, bob), (bob, ann), (ann, cid), (cid, bob))]
        await asyncio.sleep(0.5)
        for one, other in (("m1", "m2"), ("m2", "m1")):
            machines.hub.cut_one_way(machines.places[one], machines.places[other])
        start = time.monotonic()
        await asyncio.sleep(60 if full else 10)
        for one, other in (("m1", "m2"), ("m2", "m1")):
            health = (await asyncio.to_thread(machines[one].status))["health"]
            assert "%s.example.net is reached through m3.example.net only" % other in health, health
        found = await asyncio.to_thread(ask, machines["m1"], "where", "bob@example.net")
        assert found[1]["node"] == "m2.example.net" and found[1]["complete"], found
        status, test = await asyncio.to_thread(ask, machines["m3"], "selftest")
        relays = {(probe["from"], probe["to"]): probe["relay"] for probe in test["probes"]}
        assert status == 0 and relays[("m1.example.net", "m2.example.net")] == "m3.example.net", relays
        assert relays[("m1.example.net", "m3.example.net")] is None
        assert machines["m3"].metric("jidmesh_relayed_bytes_total") > 0
        for talk in talks:
            await talk.stop()
        for talk in talks:
            await talk.check()
        machines.hub.heal()
        again = [Talk(ann, bob, first=1_000_000, rate=30)]
        await asyncio.sleep(3)
        await again[0].stop()
        await again[0].receiver.until(lambda: 1_000_000 + again[0].sent - 1 in again[0].received(), "the last message", 15)
        in_order_once(again[0].received())
        not_disturbed(ann, bob, cid)
        for client in (ann, bob, cid):
            for other in (ann, bob, cid):
                if client is not other:
                    states = [state for when, state in told(client, other.boundjid.full) if when > start]
                    assert "unavailable" not in states, "%s was told that %s is away" % (client.label, other.label)

    run(play())


def test_a_node_that_reaches_no_peer_serves_its_users_and_says_so(mesh):
    machines = mesh(start=False)
    machines["m1"].start_all()
    machines["m1"].wait_login()
    machines["m1"].add_users("ann", "bob")

    async def play():
        start = time.monotonic()
        ann, bob = [await machines.client(user + "/r", "m1").login() for user in ("ann", "bob")]
        assert time.monotonic() - start < 2, "nobody waits for a node that is not there"
        talk = Talk(ann, bob)
        await asyncio.sleep(1)
        await talk.stop()
        await talk.check()
        not_disturbed(ann, bob)

    run(play())
    assert "m2.example.net" in machines["m1"].status()["health"], machines["m1"].status()["health"]
    # A short time alone is no news.
    wait_for("its log says so", lambda: "serves its own users only" in machines["m1"].router.log(), 8)
    said = next(line for line in machines["m1"].router.log().splitlines() if "serves its own users only" in line)
    assert "m2.example.net" in said and "m3.example.net" in said, said
    for name in ("m2", "m3"):
        machines[name].start_all()
    machines.wait_ready()
    assert machines["m1"].status()["health"] == "ok"
