"""Links of components that break and return, under traffic; components that are restarted, stopped or gone for good.

Messages are numbered. What a cut by close had inside is known to the forwarder: everything else must arrive, once, in order. What was
inside a cut by reset is known in part only, so there the losses must be one short run of numbers around the moment of the cut.
"""

import asyncio
import contextlib
import signal
import time

import pytest

import bed
from client import Client, settle
from forwarder import Forwarder
from frames import COMP, SESS
from native import HEADER, Native
from talk import Talk, not_disturbed, truth_of

C2S_PORT, SM_PORT = 7001, 7002
pytestmark = pytest.mark.only("jidmesh", "jidmesh-2-shards")
# What the stock router does as well: it shows that the tests themselves are right.
EVERYWHERE = pytest.mark.only("stock", "jidmesh", "jidmesh-2-shards")


def run(coroutine, limit_s=80):
    return asyncio.run(asyncio.wait_for(coroutine, limit_s))


@contextlib.contextmanager
def forwarded(machine, **settings):
    """A machine whose c2s and sm reach the router through forwarders: (stack, {'c2s': Forwarder, 'sm': Forwarder})."""
    stack = machine(start=False, ports={"c2s": C2S_PORT, "sm": SM_PORT}, **settings)
    with Forwarder(C2S_PORT) as c2s, Forwarder(SM_PORT) as sm:
        stack.start()
        try:
            yield stack, {"c2s": c2s, "sm": sm}
        finally:
            stack.stop()


async def couple(stack, names=("alice", "bob"), port=5222):
    """Clients who see each other's presence."""
    stack.add_users(*names)
    for index, name in enumerate(names):
        stack.add_contacts("%s@example.net" % name, ["%s@example.net" % other for other in names[:index]])
    clients = [Client("%s@example.net/r" % name, port=port, label=name) for name in names]
    for client in clients:
        await client.login()
    for client in clients:
        for other in names:
            if other + "@example.net/r" != client.boundjid.full:
                await client.gets("presence", from_="%s@example.net/r" % other)
    await settle(clients)
    return clients


async def both_ways(alice, bob):
    talks = Talk(alice, bob), Talk(bob, alice, first=1_000_000)
    await asyncio.sleep(0.5)
    return talks


@pytest.mark.parametrize("which", [("c2s",), ("sm",), ("c2s", "sm")], ids="+".join)
def test_a_link_closed_and_back_within_grace_loses_only_what_was_inside(machine, which):
    async def play(stack, forwarders):
        alice, bob = await couple(stack)
        talks = await both_ways(alice, bob)
        for _ in range(2):
            for name in which:
                await asyncio.to_thread(forwarders[name].cut, "close")
            await asyncio.sleep(0.7)
            for name in which:
                forwarders[name].restore()
            await asyncio.sleep(2.5)
        lost = set().union(*(forwarders[name].lost_numbers() for name in which))
        for talk in talks:
            await talk.stop()
        for talk in talks:
            await talk.check(lost, forwarders["c2s"])
        not_disturbed(alice, bob)
        assert not alice.find("presence", type="unavailable") and not bob.find("presence", type="unavailable")

    with forwarded(machine) as (stack, forwarders):
        run(play(stack, forwarders))
        assert stack.metric("jidmesh_links_returned_total") >= len(which)
        assert stack.metric("jidmesh_links_lost_total") == 0


@pytest.mark.parametrize("which", [("c2s",), ("sm",), ("c2s", "sm")], ids="+".join)
def test_a_link_reset_and_back_within_grace_loses_only_what_was_inside(machine, which):
    async def play(stack, forwarders):
        alice, bob = await couple(stack)
        talks = await both_ways(alice, bob)
        moments = []
        for name in which:
            await asyncio.to_thread(forwarders[name].cut, "reset")
            moments.append(time.monotonic())
        await asyncio.sleep(0.7)
        for name in which:
            forwarders[name].restore()
        await asyncio.sleep(2.5)
        for talk in talks:
            await talk.stop()
        for talk in talks:
            inside = {talk.first + number for number, sent in enumerate(talk.times) if any(-0.5 < sent - moment < 0.1 for moment in moments)}
            await talk.check(inside | set().union(*(forwarders[name].lost_numbers() for name in which)), forwarders["c2s"])
        not_disturbed(alice, bob)

    with forwarded(machine) as (stack, forwarders):
        run(play(stack, forwarders))


@EVERYWHERE
@pytest.mark.parametrize("which", ["c2s", "sm"])
def test_a_link_that_stalls_loses_nothing(machine, which):
    async def play(stack, forwarders):
        alice, bob = await couple(stack)
        talks = await both_ways(alice, bob)
        forwarders[which].stall()
        await asyncio.sleep(2)
        forwarders[which].resume()
        await asyncio.sleep(0.5)
        for talk in talks:
            await talk.stop()
        for talk in talks:
            await talk.check(set())
        not_disturbed(alice, bob)

    with forwarded(machine) as (stack, forwarders):
        run(play(stack, forwarders))


@EVERYWHERE
@pytest.mark.parametrize("which", ["c2s", "sm"])
def test_a_stopped_component_loses_nothing(machine, which):
    async def play(stack):
        alice, bob = await couple(stack)
        talks = await both_ways(alice, bob)
        stack.processes[which].signal(signal.SIGSTOP)
        await asyncio.sleep(2)
        stack.processes[which].signal(signal.SIGCONT)
        await asyncio.sleep(0.5)
        for talk in talks:
            await talk.stop()
        for talk in talks:
            await talk.check(set())
        not_disturbed(alice, bob)

    run(play(machine()))


def test_a_message_to_a_component_that_is_away_is_kept_until_it_returns(machine):
    """With native components: exact, and through the old connection's end."""
    machine(sms=[], c2ss=[])
    with Native(name="a.test") as one:
        two = Native(name="b.test")
        two.drain(), one.drain()
        two.close()
        time.sleep(0.2)
        for number in range(100):
            one.route("b.test", "<n xmlns='u:t' i='%d'/>" % number, frm="a.test")
        time.sleep(0.5)
        assert not [frame for frame in one.frames() if frame.is_presence("b.test", "unavailable") or frame.is_route()]
        with Native(name="b.test") as again:
            assert [again.next_route().payload.get("i") for _ in range(100)] == [str(number) for number in range(100)]
        assert not [frame for frame in one.frames() if frame.is_presence("b.test", "unavailable") or frame.is_route()]


def test_after_the_grace_period_the_name_is_gone_and_its_queue_comes_back(machine):
    stack = machine(sms=[], c2ss=[])
    with Native(name="a.test") as one:
        two = Native(name="b.test")
        one.drain()
        start = time.monotonic()
        two.close()
        for number in range(10):
            one.route("b.test", "<n xmlns='u:t' i='%d'/>" % number, frm="a.test")
        gone = one.next_of(lambda frame: frame.is_presence("b.test", "unavailable"), limit_s=stack.grace_s + 5)
        assert gone and stack.grace_s - 0.5 < time.monotonic() - start < stack.grace_s + 2
        bounces = [one.next_of(lambda frame: frame.is_route()) for _ in range(10)]
        assert [bounce.get("error") for bounce in bounces] == ["404"] * 10
        assert [bounce.payload.get("i") for bounce in bounces] == [str(number) for number in range(10)]
        assert stack.metric("jidmesh_links_lost_total") == 1


def test_what_a_component_sent_before_its_link_broke_is_read_to_its_end(machine):
    """The old link is drained before the new bind is answered."""
    machine(sms=[], c2ss=[])
    count = 5000
    with Native(name="a.test") as one:
        two = Native(name="b.test")
        two.send("".join("<route xmlns='%s' from='b.test' to='a.test'><n xmlns='u:t' i='%d'/></route>" % (COMP, number) for number in range(count)))
        two.drain()  # else the kernel resets the connection, and what it still held is lost inside it
        two.flush()
        two.close()
        with Native(name="b.test") as again:
            again.route("a.test", "<n xmlns='u:t' i='%d'/>" % count, frm="b.test")
            assert [int(one.next_route().payload.get("i")) for _ in range(count + 1)] == list(range(count + 1))


@EVERYWHERE
def test_a_second_component_of_a_living_name_is_refused(machine):
    """409 makes sm and c2s exit: it is right only when the old link is alive."""
    machine(sms=[], c2ss=[])
    with Native(name="a.test"), Native() as link:
        link.login()
        assert link.bind("a.test").get("error") == "409"


@pytest.mark.parametrize("where", ["before authentication", "before the bind"])
def test_frames_that_a_returning_component_sends_too_early_are_kept(machine, where):
    """A c2s that reconnects puts the stanzas which its clients sent meanwhile right behind its stream header, before SASL (seen on the
    wire), and those that come during the handshake behind its second header, before its bind. The stock router ignores them. They were never inside the broken connection, so they must arrive, in order."""
    machine(sms=[], c2ss=[])
    count = 500
    early = "".join("<route xmlns='%s' from='b.test' to='a.test'><n xmlns='u:t' i='%d'>%s</n></route>" % (COMP, number, "x" * 300)
                    for number in range(count))
    with Native(name="a.test") as one:
        Native(name="b.test").close()
        time.sleep(0.2)
        with Native() as again:
            again.send(HEADER + (early.encode() if where == "before authentication" else b""))
            again.header()
            assert again.frame().name == "features"
            assert again.authenticate().name == "success"
            again.cutter.restart()
            again.send(HEADER + (early.encode() if where == "before the bind" else b""))
            again.header()
            assert again.frame().name == "features"
            assert again.bind("b.test").get("error") is None
            again.route("a.test", "<n xmlns='u:t' i='%d'/>" % count, frm="b.test")
            assert [int(one.next_route().payload.get("i")) for _ in range(count + 1)] == list(range(count + 1))


def test_a_frame_between_the_response_and_the_restart_does_no_harm(machine):
    """The same, a round trip later: the frame belongs to the old document, and arrives after the router has begun the new one."""
    machine(sms=[], c2ss=[])
    route = "<route xmlns='%s' from='b.test' to='a.test'><n xmlns='u:t'/></route>" % COMP
    with Native(name="a.test") as one, Native() as link:
        link.open()
        assert link.authenticate().name == "success"
        link.cutter.restart()
        link.send(route)
        time.sleep(0.1)
        link.send(HEADER)
        link.header()
        assert link.frame().name == "features"
        assert link.bind("b.test").get("error") is None
        link.route("a.test", frm="b.test")
        one.next_route()


def test_sm_restarted_within_grace_leaves_no_idle_client_behind(machine):
    """A restarted sm comes back in time and knows nothing: its clients are ended, log in again, and all see the truth."""
    async def play(stack):
        alice, bob = await couple(stack)
        await asyncio.to_thread(stack.processes["sm"].restart)
        for client in (alice, bob):
            await client.gets("event", what="closed", limit_s=stack.grace_s + 8)
        await asyncio.to_thread(stack.wait_login)
        again = [Client("%s@example.net/r" % name, label=name) for name in ("alice", "bob")]
        for client in again:
            await client.login()
        await again[1].gets("presence", from_="alice@example.net/r")
        await settle(again)
        assert truth_of(again[0], "bob@example.net/r") == "available" and truth_of(again[1], "alice@example.net/r") == "available"
        again[0].chat("bob@example.net/r", "still here?")
        await again[1].gets("message", body="still here?")
        assert not again[0].find("event") and not again[1].find("event")

    run(play(machine()))


@EVERYWHERE
def test_c2s_restarted_within_grace_ends_its_sessions_and_contacts_see_the_truth(machine):
    async def play(stack):
        # alice is on c2s1, which is restarted; bob on c2s2 watches.
        stack.add_users("alice", "bob")
        stack.add_contacts("alice@example.net", ["bob@example.net"])
        alice = await Client("alice@example.net/r", port=5222, label="alice").login()
        bob = await Client("bob@example.net/r", port=5223, label="bob").login()
        await bob.gets("presence", from_="alice@example.net/r")
        await settle([alice, bob])
        await asyncio.to_thread(stack.processes["c2s1"].restart)
        await alice.gets("event", what="closed")
        await bob.gets("presence", type="unavailable", from_="alice@example.net/r", limit_s=stack.grace_s + 8)
        bob.chat("alice@example.net", "for later")
        await settle([bob])
        await asyncio.to_thread(stack.wait_login)
        again = await Client("alice@example.net/r", port=5222, label="alice2").login()
        await again.gets("message", body="for later")
        await bob.until(lambda: truth_of(bob, "alice@example.net/r") == "available", "alice is back")
        await settle([again, bob])
        assert truth_of(bob, "alice@example.net/r") == "available", "never told away after she was back"
        not_disturbed(bob, again)

    run(play(machine(c2ss=["c2s1", "c2s2"])))


def test_sm_lost_for_good_its_clients_log_in_on_the_other(machine):
    async def play(stack):
        names = ["u%d" % number for number in range(8)]
        clients = await couple(stack, names)
        await asyncio.to_thread(stack.processes["sm1"].kill)
        survivors = []
        limit = time.monotonic() + stack.grace_s + 8
        while time.monotonic() < limit and not [client for client in clients if client.closed]:
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        lost = [client for client in clients if client.closed]
        survivors = [client for client in clients if not client.closed]
        assert lost and survivors, "both sm had users: %d lost, %d stayed" % (len(lost), len(survivors))
        for survivor in survivors:
            for client in lost:
                await survivor.gets("presence", type="unavailable", from_=client.boundjid.full, limit_s=8)
        again = [await Client(client.boundjid.full, label=client.label + "x").login() for client in lost]
        for client in again:
            for survivor in survivors:
                await survivor.until(lambda: truth_of(survivor, client.boundjid.full) == "available", "%s is back" % client.label)
        await settle(again + survivors)
        for survivor in survivors:
            assert len([1 for _, xml in survivor.seen if xml.get("type") == "unavailable"]) == len(lost), "each was told away once"
            assert all(truth_of(survivor, client.boundjid.full) == "available" for client in again)
            survivor.chat(again[0].boundjid.full, "hello from %s" % survivor.label)
            await again[0].gets("message", body="hello from %s" % survivor.label)

    run(play(machine(sms=["sm1", "sm2"])))


@EVERYWHERE
def test_c2s_lost_for_good_ends_its_sessions(machine):
    async def play(stack):
        stack.add_users("alice", "bob")
        stack.add_contacts("alice@example.net", ["bob@example.net"])
        alice = await Client("alice@example.net/r", port=5222, label="alice").login()
        bob = await Client("bob@example.net/r", port=5223, label="bob").login()
        await bob.gets("presence", from_="alice@example.net/r")
        await settle([alice, bob])
        await asyncio.to_thread(stack.processes["c2s1"].kill)
        await bob.gets("presence", type="unavailable", from_="alice@example.net/r", limit_s=stack.grace_s + 8)
        bob.chat("alice@example.net/r", "kept for later")
        await settle([bob])
        again = await Client("alice@example.net/r", port=5223, label="alice2").login()
        await again.gets("message", body="kept for later")
        await settle([again, bob])
        assert len([1 for _, xml in bob.seen if xml.get("type") == "unavailable"]) == 1
        assert truth_of(bob, "alice@example.net/r") == "available"

    run(play(machine(c2ss=["c2s1", "c2s2"])))


def test_a_message_to_a_session_of_a_lost_c2s_is_not_lost(machine):
    """Sent while the c2s is away: it comes back to its sender, or waits in the offline store; it does not vanish."""
    async def play(stack):
        stack.add_users("alice", "bob")
        await Client("alice@example.net/r", port=5222, label="alice").login()
        bob = await Client("bob@example.net/r", port=5223, label="bob").login()
        await settle([bob])
        await asyncio.to_thread(stack.processes["c2s1"].kill)
        identity = bob.chat("alice@example.net/r", "into the gap")
        await asyncio.sleep(stack.grace_s + 2)
        again = await Client("alice@example.net/r", port=5223, label="alice2").login()
        await settle([again, bob])
        told = bob.find("message", type="error", id=identity) is not None
        assert told + len(again.bodies()) == 1, "told: %s, delivered: %s; %s" % (
            told, again.bodies(), {name: value for name, value in stack.metrics().items() if value and "bytes" not in name})

    run(play(machine(c2ss=["c2s1", "c2s2"])))


def test_a_restart_of_the_router_is_a_clean_cut(machine):
    """After an end in order nothing is known of the sessions any more: clients are closed and log in again, no contact keeps a ghost,
    nobody is a zombie."""
    async def play(stack):
        alice, bob = await couple(stack)
        await asyncio.to_thread(stack.processes["router"].stop)
        await asyncio.to_thread(stack.processes["router"].start)
        for client in (alice, bob):
            await client.until(lambda client=client: client.closed or None, "the close", 15)
        await asyncio.to_thread(stack.wait_login)
        again = [await Client("%s@example.net/r" % name, port=5222, label=name + "2").login() for name in ("alice", "bob")]
        await settle(again)
        again[0].chat("bob@example.net/r", "after the restart")
        await again[1].until(lambda: again[1].bodies() == ["after the restart"], "the message")
        for one, other in (again, again[::-1]):
            assert one.find("presence", from_=other.boundjid.full) is not None

    run(play(machine()))


def test_a_start_is_always_answered(machine):
    """c2s waits for ever otherwise: sm is there and silent, then gone."""
    machine(sms=[], c2ss=[])
    with Native(name="c2s9") as c2s:
        sm = Native(name="sm9")
        assert sm.bind("example.net", multi=True).get("error") is None
        start = "<sc:session xmlns:sc='%s' id='abc' target='u@example.net/r' action='start' sc:c2s='9'/>" % SESS
        c2s.drain()
        c2s.route("example.net", start, frm="c2s9")
        assert sm.next_route().payload.get("action") == "start"
        sm.close()
        answer = c2s.next_of(lambda frame: frame.is_route(), limit_s=bed.GRACE_S + 8)
        assert answer.get("error") is not None or answer.payload.get("{%s}failed" % SESS) is not None, answer
