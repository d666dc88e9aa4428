"""The processes of a mesh give way to others, one after another: to the other nodes each stays the same node, and nobody notices."""

import asyncio

import pytest

import bed
import templates
from mesh import NAMES, SECRET
from talk import Phone, Talk, not_disturbed, run, wrong_pictures

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(120)]
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


def node(bare_machine, ip):
    """A router without jabberd2, in a mesh on this machine's loopback."""
    name = "n%s.example.net" % ip[-1]
    section = templates.mesh(name, [SECRET], [other for other in ADDRESSES if other != ip]).replace("0.0.0.0", ip)
    stack = bare_machine(router="jidmesh", sms=(), c2ss=(), ip=ip, extra=section)
    bed.wait_for("the router answers", stack.answers)
    return stack


def knows_all(stack):
    states = [member["state"] for member in stack.status()["mesh"]["members"]]
    return states == ["ready"] * (len(ADDRESSES) - 1)


def gone(stacks):
    """What nodes say of the death of others."""
    return [line for stack in stacks for line in stack.router.log().splitlines() if line.endswith(" is gone")]


def test_a_rolling_upgrade_under_full_load_loses_doubles_and_reorders_no_frame(bare_machine):
    stacks = [node(bare_machine, ip) for ip in ADDRESSES]
    bed.wait_for("all nodes know each other", lambda: all(map(knows_all, stacks)), 20)
    routers = [argument for ip in ADDRESSES for argument in ("--router", "%s:%d" % (ip, bed.PORT))]
    flows = lambda: stacks[0].metric("jidmesh_frames_sent_total") > 10_000
    with bed.users_load(flows, 30, "--sessions", "1500", "--c2s", "3", "--seconds", "5", *routers):
        for stack in stacks:
            stack.shards = 3 - stack.shards
            stack.write_router()
            stack.take_over()
    bed.wait_for("all nodes know each other again", lambda: all(map(knows_all, stacks)), 10)
    assert not gone(stacks)


def test_a_rolling_upgrade_is_noticed_by_no_client(mesh):
    machines = mesh()
    users = ["a1", "a2", "a3"]
    machines["m1"].add_users(*users)
    for number, user in enumerate(users):
        machines["m1"].add_contacts(user + "@example.net", ["%s@example.net" % other for other in users[:number]])

    async def play():
        phones = [await Phone(machines, "a%d/r" % number, "m%d" % number).on() for number in (1, 2, 3)]
        clients = [phone.client for phone in phones]
        talks = [Talk(one, other, first=1_000_000 * number, rate=50) for number, one in enumerate(clients) for other in clients if one is not other]
        for name in NAMES:
            machines[name].shards = 2
            machines[name].write_router()
            await asyncio.to_thread(machines[name].take_over)
        await asyncio.sleep(0.3)
        for talk in talks:
            await talk.stop()
        for talk in talks:
            await talk.check()
        not_disturbed(*clients)
        assert all(len(phone.streams) == 1 for phone in phones) and not wrong_pictures(phones)
        # He can still go, and come back.
        for phone in phones:
            phone.off()
        await clients[2].disconnect()
        await clients[0].gets("presence", type="unavailable", from_="a3@example.net/r")
        phones[2] = await Phone(machines, "a3/r", "m1").on()
        await clients[1].gets("presence", from_="a3@example.net/r")
        phones[2].off()

    run(play())
    assert not gone(machines.machines.values())
    for machine in machines.machines.values():
        assert machine.metric("jidmesh_links_lost_total") == 0 and "took over" in machine.router.log()
