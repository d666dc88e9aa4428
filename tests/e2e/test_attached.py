"""Attached mode: the machine keeps its stock router with c2s, s2s and services; jidmesh is a component of it, and sm connects to jidmesh.

That clients see the same as with the stock router alone is in `test_same_as_stock.py`, and on several machines in `test_mesh_p1.py`.
"""

import asyncio
import contextlib
import time

import pytest
from slixmpp.xmlstream.xmlstream import NotConnectedError

import bed
from client import Client, settle
from forwarder import Forwarder
from native import Foreign
from prosody import pem_file
from talk import Talk, in_order_once, not_disturbed, truth_of

UPLINK_PORT = 7003
STATUS_AGE_S = 0.25
pytestmark = [pytest.mark.jidmesh, pytest.mark.timeout(120)]


def run(coroutine, limit_s=80):
    return asyncio.run(asyncio.wait_for(coroutine, limit_s))


async def couple(stack, names=("alice", "bob")):
    """Clients who see each other's presence."""
    stack.add_users(*names)
    stack.add_contacts("%s@example.net" % names[1], ["%s@example.net" % names[0]])
    clients = [await Client("%s@example.net/r" % name, label=name).login() for name in names]
    for client, other in zip(clients, clients[::-1]):
        await client.gets("presence", from_=other.boundjid.full)
    await settle(clients)
    return clients


@contextlib.contextmanager
def forwarded(machine, **settings):
    """A machine whose lines to the stock router go through a forwarder."""
    stack = machine(start=False, router="attached", ports={"uplink": UPLINK_PORT}, **settings)
    with Forwarder(UPLINK_PORT) as lines:
        stack.start()
        try:
            yield stack, lines
        finally:
            stack.stop()


def next_from(service, sender):
    """The next stanza of this sender; sm asks every new name what it is."""
    while (frame := service.frame()).xml.get("from") != sender:
        pass
    return frame


def wait_lines(stack, count=2):
    # What status says may be so old.
    time.sleep(STATUS_AGE_S)
    bed.wait_for("%d lines are up" % count, lambda: stack.status()["uplink"]["lines_up"] == count, 10)


async def going_on(talks, count=10):
    """So many more messages arrive of each talk."""
    before = [len(talk.received()) for talk in talks]
    for talk, had in zip(talks, before):
        await talk.receiver.until(lambda: len(talk.received()) >= had + count or None, "messages again")


async def end(talks, *clients):
    """Stops the talks. What came did so once and in order, and no client was disconnected. The numbers that did not come, talk by talk."""
    for talk in talks:
        await talk.stop()
    await settle(clients)
    for talk in talks:
        in_order_once(talk.received())
    assert not any(client.closed for client in clients)
    return [set(range(talk.first, talk.first + talk.sent)) - set(talk.received()) for talk in talks]


def test_one_lost_line_is_seen_by_no_client(bare_machine):
    """Whichever it is. Lost is what was inside the broken connection, and what c2s sends before the other line has taken over."""
    async def play(stack, lines):
        alice, bob = await couple(stack)
        talks = Talk(alice, bob), Talk(bob, alice, first=1_000_000)
        for _ in range(4):
            wait_lines(stack)
            await going_on(talks)
            await asyncio.to_thread(lines.cut, "close", True)
        wait_lines(stack)
        await going_on(talks)
        for missing in await end(talks, alice, bob):
            assert len(missing - lines.lost_numbers()) <= 4 * 3, missing
        assert truth_of(alice, bob.boundjid.full) == truth_of(bob, alice.boundjid.full) == "available"
        carol = await Client("carol@example.net/r", label="carol").login()
        await settle([alice, bob, carol])

    with forwarded(bare_machine, s2s="s2s") as (stack, lines):
        stack.add_users("carol")
        run(play(stack, lines))


def test_both_lines_lost_at_once_close_the_clients_who_log_in_again(bare_machine):
    """The stock router itself withdraws the domain. It is back at once, and nothing is left of the sessions."""
    async def play(stack, lines):
        couple_of = await couple(stack)
        await asyncio.to_thread(wait_lines, stack)
        lines.cut()
        lines.restore()
        for client in couple_of:
            await client.until(lambda: client.closed or None, "its end")
        await asyncio.to_thread(stack.wait_login, limit_s=5)
        alice, bob = [await Client("%s@example.net/again" % client.label, label=client.label + " again").login() for client in couple_of]
        alice.chat("bob@example.net", "back")
        await bob.gets("message", body="back")
        await asyncio.to_thread(bed.wait_for, "no session is left over", lambda: stack.metric("jidmesh_sessions") == 2, 20)
        await settle([alice, bob])
        assert "available" not in (truth_of(alice, "bob@example.net/r"), truth_of(bob, "alice@example.net/r"))

    with forwarded(bare_machine, s2s="s2s") as (stack, lines):
        run(play(stack, lines))


def test_another_process_takes_over_and_nobody_notices(bare_machine):
    """It goes on with the same two lines: the stock router has nothing to withdraw, and no message is lost."""
    stack = bare_machine(router="attached", s2s="s2s")

    async def play():
        alice, bob = await couple(stack)
        talks = Talk(alice, bob), Talk(bob, alice, first=1_000_000)
        connects = stack.processes["stock"].log().count("connect")
        for _ in range(3):
            await asyncio.to_thread(stack.take_over)
            await going_on(talks)
        assert await end(talks, alice, bob) == [set(), set()], "no message is lost"
        not_disturbed(alice, bob)
        assert stack.status()["uplink"]["lines_up"] == 2
        assert stack.processes["stock"].log().count("connect") == connects, stack.processes["stock"].log()

    run(play())


def test_after_a_crash_the_closed_clients_log_in_again_and_nothing_is_left_of_them(bare_machine):
    stack = bare_machine(router="attached", s2s="s2s")

    async def play():
        couple_of = await couple(stack)
        stack.router.kill()
        for client in couple_of:
            await client.until(lambda: client.closed or None, "its end")
        await asyncio.to_thread(stack.start_router)
        await asyncio.to_thread(stack.wait_login)
        alice = await Client("alice@example.net/again", label="alice again").login()
        await settle([alice])
        assert truth_of(alice, "bob@example.net/r") != "available"
        alice.chat("bob@example.net", "for later")
        await alice.ping()
        bob = await Client("bob@example.net/again", label="bob again").login()
        await bob.gets("message", body="for later")
        await settle([alice, bob])
        assert bob.bodies() == ["for later"]
        assert stack.metric("jidmesh_sessions") == 2

    run(play())


def test_under_tls_the_lines_cannot_be_handed_over(bare_machine, tmp_path):
    stack = bare_machine(start=False, router="attached", stock_pemfile=pem_file(str(tmp_path)))
    stack.write_router()
    stack.start_router()
    with pytest.raises(bed.BedError, match="under TLS can't be handed over"):
        stack.take_over()
    assert stack.router.alive() and stack.answers()


def test_clients_outlive_a_stock_router_that_is_killed_and_restarted(bare_machine):
    """What they send until c2s has its router again is lost inside c2s; the sessions go on."""
    stack = bare_machine(router="attached", s2s="s2s")

    async def play():
        alice, bob = await couple(stack)
        talks = Talk(alice, bob, rate=20), Talk(bob, alice, first=1_000_000, rate=20)
        await going_on(talks)
        stack.processes["stock"].kill()
        await asyncio.to_thread(stack.start_stock)
        wait_lines(stack)
        await going_on(talks)
        await end(talks, alice, bob)

    run(play())


def test_a_stock_router_that_is_stopped_in_order_leaves_nobody_behind(bare_machine):
    """c2s may be told that the domain is gone, and close its clients. Whoever is closed logs in again; nothing is left of what he had."""
    stack = bare_machine(router="attached", s2s="s2s")

    async def still_there(client):
        try:
            await client.ping(limit_s=3)
        except (AssertionError, NotConnectedError):
            client.vanish()
        return not client.closed

    async def play():
        couple_of = await couple(stack)
        stack.processes["stock"].stop()
        await asyncio.to_thread(stack.start_stock)
        await asyncio.to_thread(wait_lines, stack)
        await asyncio.to_thread(stack.wait_login)
        stayed = await asyncio.gather(*(still_there(client) for client in couple_of))
        alice, bob = [client if here else await Client(str(client.boundjid), label=client.label + " again").login()
                      for client, here in zip(couple_of, stayed)]
        for client, other in ((alice, bob), (bob, alice)):
            client.chat(other.boundjid.full, "from " + client.boundjid.user)
        await bob.gets("message", body="from alice")
        await alice.gets("message", body="from bob")
        await settle([alice, bob])
        assert truth_of(alice, bob.boundjid.full) == truth_of(bob, alice.boundjid.full) == "available"
        await asyncio.to_thread(bed.wait_for, "no session is left over", lambda: stack.metric("jidmesh_sessions") == 2, 20)

    run(play())


def test_the_lines_are_encrypted_when_a_certificate_is_named(bare_machine, tmp_path):
    """By the certificate that the stock router has, and by no other."""
    own, other = (tmp_path / name for name in ("own", "other"))
    own.mkdir(), other.mkdir()
    stack = bare_machine(start=False, router="attached", stock_pemfile=pem_file(str(own)))
    right, stack.uplink_certificate = stack.uplink_certificate, pem_file(str(other))
    stack.write_router()
    stack.start_router()
    bed.wait_for("the log says why", lambda: "invalid peer certificate" in stack.router.log())
    assert stack.status()["uplink"]["lines_up"] == 0
    stack.uplink_certificate = right
    stack.write_router()
    stack.router.restart()
    for component in ("sm", "c2s"):
        stack.start_component(component)
    stack.wait_login()

    async def play():
        alice, bob = await couple(stack)
        alice.chat(bob.boundjid.full, "sealed")
        await bob.gets("message", body="sealed")

    run(play())


def test_an_sm_that_restarts_ends_its_clients_who_log_in_again(bare_machine):
    stack = bare_machine(router="attached", s2s="s2s")

    async def play():
        alice, bob = await couple(stack)
        stack.processes["sm"].restart()
        for client in (alice, bob):
            await client.until(lambda: client.closed or None, "its end")
        alice, bob = await couple_again(stack)
        alice.chat("bob@example.net", "back")
        await bob.gets("message", body="back")

    async def couple_again(stack):
        bed.wait_for("sm is back", lambda: bed.raw_login(stack.ip, 5222, "example.net", "ready0", "secret"), 10)
        return [await Client("%s@example.net/r" % name, label=name).login() for name in ("alice", "bob")]

    run(play())


def test_a_c2s_that_is_gone_for_good_ends_its_sessions(bare_machine):
    stack = bare_machine(router="attached", c2ss=["c2s1", "c2s2"], grace_s=2)

    async def play():
        stack.add_users("alice", "bob")
        stack.add_contacts("bob@example.net", ["alice@example.net"])
        alice = await Client("alice@example.net/r", label="alice").login()
        bob = await Client("bob@example.net/r", port=5223, label="bob").login()
        await alice.gets("presence", from_="bob@example.net/r")
        stack.processes["c2s2"].kill()
        await alice.gets("presence", type="unavailable", from_="bob@example.net/r")
        alice.chat("bob@example.net", "for later")
        await alice.ping()
        bob = await Client("bob@example.net/r", label="bob").login()
        await bob.gets("message", body="for later")

    run(play())


def test_services_and_s2s_of_the_stock_router(bare_machine):
    """Both ways: a service and a foreign domain are reached through the stock router, and reach users."""
    stack = bare_machine(router="attached", s2s="s2s")
    there = bare_machine(router="stock", ip="127.0.0.2", domains=["other.example"], s2s="s2s")
    stack.add_users("alice")
    there.add_users("olga")

    async def play():
        alice = await Client("alice@example.net/r", label="alice").login()
        olga = await Client("olga@other.example/r", host=there.ip, label="olga").login()
        for number in range(50):
            alice.chat(olga.boundjid.full, "out %d" % number)
            olga.chat(alice.boundjid.full, "in %d" % number)
        await alice.gets("message", body="in 49", limit_s=20)
        await olga.gets("message", body="out 49")
        assert alice.bodies() == ["in %d" % number for number in range(50)]
        assert olga.bodies() == ["out %d" % number for number in range(50)]
        with Foreign("conference.example.net") as service:
            bed.wait_for("its name is known", lambda: "[conference.example.net] online" in stack.router.log())
            alice.chat("room@conference.example.net", "to the room")
            asked = await asyncio.to_thread(next_from, service, "alice@example.net/r")
            assert b"to the room" in asked.raw
            service.send("<message from='room@conference.example.net/n' to='alice@example.net/r'><body>from the room</body></message>")
            await alice.gets("message", body="from the room")
            # Nobody is there: the error finds the service.
            service.send("<iq type='get' id='q' from='room@conference.example.net' to='nobody@example.net/x'><query xmlns='u:q'/></iq>")
            error = await asyncio.to_thread(next_from, service, "nobody@example.net/x")
            assert error.xml.get("type") == "error" and error.xml.get("id") == "q"
        identity = alice.chat("x@nosuch.invalid", "anybody?")
        await alice.gets("message", type="error", id=identity, limit_s=30)

    run(play())


def test_a_refused_bind_says_which_line_is_missing(bare_machine):
    stack = bare_machine(start=False, router="attached")
    stack.write_router(uplink_user="mesh", acls="")
    stack.start_router()
    bed.wait_for("the log says so", lambda: "<acl type='bind'><user>mesh</user></acl>" in stack.router.log())
