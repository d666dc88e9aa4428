"""Attached mode on two machines, both of which keep their stock routers, and nobody else."""

import asyncio

import pytest

import bed

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(120)]


async def talk(*clients):
    """A message between each two, both ways."""
    for one in clients:
        for other in clients:
            if one is not other:
                one.chat(other.boundjid.full, "%s to %s" % (one.label, other.label))
    for one in clients:
        for other in clients:
            if one is not other:
                await other.gets("message", body="%s to %s" % (one.label, other.label))


def test_two_attached_machines_whose_sm_goes_and_comes_back(mesh):
    """The other machine's sm serves the clients of a c2s that has none: its id is bound at their stock router as long as it is there."""
    machines = mesh(names=("m1", "m2"), router="attached", grace_s=2)
    machines["m1"].add_users("alice", "bob", "carol")

    async def play():
        alice = await machines.client("alice/r", "m1").login()
        bob = await machines.client("bob/r", "m2").login()
        await talk(alice, bob)
        assert machines.serving("bob") == {"m2": 1}
        machines["m2"].processes["sm"].kill()
        await bob.until(lambda: bob.closed or None, "the end of his session", 15)
        bob = await machines.client("bob/r", "m2", label="bob again").login(limit_s=15)
        await talk(alice, bob)
        assert machines.serving("bob")["m1"] == 1
        machines["m2"].processes["sm"].start()
        bed.wait_for("sm is back", lambda: holders(machines["m2"]) == 2, 20)
        carol = await machines.client("carol/r", "m2").login(limit_s=15)
        await talk(alice, bob, carol)
        assert machines.serving("carol") == {"m2": 1}, "near"
        for name in machines.names:
            assert machines[name].status()["uplink"]["refused"] == [], "no name is contested at the stock router of " + name

    asyncio.run(asyncio.wait_for(play(), 100))


def holders(machine):
    """How many sm serve the domain, as this machine knows."""
    return sum(len(name["holders"]) for name in machine.status()["names"] if name["name"] == "example.net")
