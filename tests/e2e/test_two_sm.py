"""Two sm for one domain on one machine: one sm for all of a user's sessions, nothing lost when he changes between them."""

import asyncio
import signal
import time

import pytest

from client import Client, settle
from frames import SESS
from native import Native

pytestmark = pytest.mark.only("jidmesh", "jidmesh-2-shards")
BACKLOG = 500


def run(coroutine, limit_s=80):
    return asyncio.run(asyncio.wait_for(coroutine, limit_s))


def sm_of(stack, user):
    """The sm that started the user's last session, from the sm logs."""
    last = None
    for name in stack.sms:
        lines = [line for line in stack.processes[name].log().splitlines() if "session started: jid=%s@" % user in line]
        if lines:
            # Lines of one log are in order; among logs the later time wins (1 s resolution is enough: see the callers).
            last = max(last or ("", ""), (lines[-1][:24], name))
    return last and last[1]


def sms_of(stack, user):
    """Every sm that ever started a session of the user."""
    return {name for name in stack.sms if "session started: jid=%s@" % user in stack.processes[name].log()}


@pytest.mark.only("stock", "jidmesh", "jidmesh-2-shards")
def test_all_sessions_of_a_user_are_on_one_sm_and_users_are_spread(machine):
    async def play(stack):
        users = ["u%d" % number for number in range(12)]
        stack.add_users(*users)
        for resource in ("one", "two", "three"):
            for user in users:
                await Client("%s@example.net/%s" % (user, resource), label=user + resource).login(presence=False)
        placed = [sms_of(stack, user) for user in users]
        assert all(len(place) == 1 for place in placed), placed
        counts = [placed.count({name}) for name in stack.sms]
        assert min(counts) >= 3, "spread over both sm: %s" % counts

    run(play(machine(sms=["sm1", "sm2"])))


@pytest.mark.parametrize("stop_s", [0.3, 0.0])
def test_a_backlog_survives_a_login_on_the_other_sm(machine, stop_s):
    """500 messages to an offline user are worked off by his duty sm; he logs in at once, where the other sm may be chosen. All arrive, once, in
    order, none stays in the offline store."""
    async def play(stack):
        users = ["r%d" % number for number in range(6)]
        stack.add_users("sender", *users)
        sender = await Client("sender@example.net/s", label="sender").login()
        moved = 0
        for user in users:
            for number in range(BACKLOG):
                sender.chat("%s@example.net" % user, "#%d#" % number)
            before = rows(stack)
            await asyncio.sleep(0.02)
            if stop_s:
                for name in stack.sms:
                    stack.processes[name].signal(signal.SIGSTOP)
                    asyncio.get_running_loop().call_later(stop_s, stack.processes[name].signal, signal.SIGCONT)
            receiver = await Client("%s@example.net/r" % user, label=user).login()
            await receiver.until(lambda: len(receiver.bodies()) >= BACKLOG, "%d messages: %d" % (BACKLOG, len(receiver.bodies())), 20)
            await settle([receiver, sender])
            assert receiver.bodies() == ["#%d#" % number for number in range(BACKLOG)], "all, once, in order"
            assert not stack.query("select count(*) from queue where \"collection-owner\" = ?", "%s@example.net" % user)[0][0]
            moved += before >= 0
            await receiver.logout()
        assert moved

    run(play(machine(sms=["sm1", "sm2"])), 100)


def rows(stack):
    return stack.query("select count(*) from queue")[0][0]


def test_a_start_elsewhere_waits_for_the_fence(machine):
    """With native sm: frames for an offline user go to his duty sm; before a `start` goes to the other one, the first has answered an iq."""
    stack = machine(sms=[], c2ss=[])
    with Native(name="smA") as one, Native(name="smB") as two, Native(name="c2s9") as c2s:
        for sm in (one, two):
            assert sm.bind("example.net", multi=True).get("error") is None
        for link in (one, two, c2s):
            link.drain()
        moved = 0
        for user in range(12):
            bare = "u%d@example.net" % user
            one.route("example.net", "<message xmlns='jabber:client' from='x@example.net' to='%s'><body>1</body></message>" % bare, frm="smA")
            got = {sm: [frame for frame in sm.frames(0.1) if frame.is_route()] for sm in (one, two)}
            duty = one if got[one] else two
            other = two if duty is one else one
            assert len(got[duty]) == 1 and not got[other]
            c2s.route("example.net", "<sc:session xmlns:sc='%s' id='i%d' target='%s/r' action='start' sc:c2s='%d'/>" % (SESS, user, bare, user + 9),
                      frm="c2s9")
            seen = {sm: [frame for frame in sm.frames(0.15) if frame.is_route()] for sm in (one, two)}
            if any(frame.payload.get("action") == "start" for frame in seen[duty]):
                continue
            # It goes elsewhere, so the duty sm is asked first.
            moved += 1
            assert not any(frame.payload.get("action") == "start" for frame in seen[other]), "the start did not wait for the fence"
            fence = [frame for frame in seen[duty] if frame.payload.tag == "{jabber:client}iq"]
            assert len(fence) == 1, seen
            iq = fence[0].payload
            one_frame = "<iq xmlns='jabber:client' type='result' id='%s' to='%s' from='%s'/>" % (iq.get("id"), iq.get("from"), iq.get("to"))
            duty.route(fence[0].get("from").split("/")[0], one_frame, frm="smA" if duty is one else "smB")
            start = other.next_of(lambda frame: frame.is_route() and frame.payload.get("action") == "start", limit_s=3)
            assert start.payload.get("target") == bare + "/r"
        assert stack.metric("jidmesh_fences_total") == moved
        assert moved, "no user was placed elsewhere than on his duty sm: least loaded placement should do that"


def test_frames_for_a_user_whose_start_is_in_flight_come_after_it(machine):
    machine(sms=[], c2ss=[])
    with Native(name="smA") as one, Native(name="smB") as two, Native(name="c2s9") as c2s:
        for sm in (one, two):
            assert sm.bind("example.net", multi=True).get("error") is None
        for link in (one, two, c2s):
            link.drain()
        bare = "v@example.net"
        c2s.route("example.net", "<sc:session xmlns:sc='%s' id='i' target='%s/r' action='start' sc:c2s='9'/>" % (SESS, bare), frm="c2s9")
        time.sleep(0.2)
        one.route("example.net", "<message xmlns='jabber:client' from='x@example.net' to='%s'><body>1</body></message>" % bare, frm="smA")
        chosen = [sm for sm in (one, two) if any(frame.is_route() and frame.payload.get("action") == "start" for frame in peek(sm))]
        assert len(chosen) == 1
        name = "smA" if chosen[0] is one else "smB"
        chosen[0].route("c2s9", "<sc:session xmlns:sc='%s' id='i' target='%s/r' action='started' sc:c2s='9' sc:sm='abc'/>" % (SESS, bare), frm=name)
        frames = [frame for frame in chosen[0].frames(0.5) if frame.is_route()]
        tags = [frame.payload.tag.rsplit("}", 1)[-1] for frame in frames]
        assert tags == ["session", "message"], tags
        assert not [frame for frame in (two if chosen[0] is one else one).frames(0.2) if frame.is_route() and frame.payload.tag.endswith("message")]


def peek(link, quiet_s=0.3):
    """The frames that have come; they stay where they are."""
    end = time.monotonic() + quiet_s
    while time.monotonic() < end:
        link._more(0.05)
    from frames import Frame
    return [Frame(data) for kind, data in link.queue if kind == "frame"]


def test_a_filter_chooses_the_sm_of_a_user_but_never_a_second_one(machine):
    """A rule that redirects session starts to an sm's id. On the stock router a user whose sessions were elsewhere was on two sm then."""
    stack = machine(sms=["sm1", "sm2"], filter_rules="")

    async def play():
        stack.add_users("alice", "bob", "carol")
        alice = await Client("alice@example.net/one", label="alice").login()
        (home,) = sms_of(stack, "alice")
        other = ({"sm1", "sm2"} - {home}).pop()
        stack.write_filter('<rule what="session?action=start" redirect="%s"/>' % other)
        stack.router.signal(signal.SIGHUP)
        for name in ("bob", "carol"):
            await Client(name + "@example.net/r", label=name).login()
        await Client("carol@example.net/s", label="carol2").login()
        assert sms_of(stack, "carol") == {other}
        second = await Client("alice@example.net/two", label="alice2").login()
        alice.send_presence(pstatus="here")
        await second.gets("presence", from_="alice@example.net/one")
        assert sms_of(stack, "alice") == {home}

    run(play())
