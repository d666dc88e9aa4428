"""P2 and P3: once, and in order, while a user goes from machine to machine, logs in on two at once, and the nodes' connections break.

The first tests run on one stock node too: that shows that they ask for no more than jabberd2 itself does.
"""

import asyncio
import random
import signal
import time

import pytest

from client import settle
from mesh import NAMES
from place import reset_peers
from talk import Post, Talk, in_order_once, not_disturbed, run

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(180)]
BURST = 500
STOP_S = 0.3
# What was on its way to a client that vanished is lost with it: sm hears of it behind what waits in its own queue.
ON_ITS_WAY_S = 1.0
SEED = 20


SHAPES = [pytest.param(dict(router="stock", names=("m1",)), id="one-stock-node"),
          pytest.param(dict(router="jidmesh", names=("m1",)), id="one-node", marks=pytest.mark.full),
          pytest.param(dict(router="jidmesh"), id="three-nodes")]


def stop_now_and_then(machines, chance):
    """Stops one machine's sm for a moment, so that it has a backlog."""
    sm = machines[chance.choice(machines.names)].processes["sm"]
    sm.signal(signal.SIGSTOP)
    asyncio.get_running_loop().call_later(STOP_S, sm.signal, signal.SIGCONT)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_user_who_moves_gets_each_message_once_and_in_order(mesh, full, shape):
    moves = 200 if full else 24
    machines = mesh(**shape)
    machines["m1"].add_users("sender", "bob")
    run(move_around(machines, moves), 60 + moves * 3)


async def move_around(machines, moves):
    """bob moves: cleanly, without a word, or by a login that replaces the former one; messages come evenly and in bursts."""
    chance = random.Random(SEED)
    sender = await machines.client("sender/s", "m1").login()
    post = Post(sender, "bob@example.net", rate=100)
    vanished, device, where = [], None, None
    for move in range(moves):
        if device is not None and move % 3 == 0:
            # What sm hands on to a client whose c2s has closed him meanwhile is lost with jabberd2: first no longer available, then away.
            device.send_presence(ptype="unavailable")
            await device.ping()
            await device.logout()
        elif device is not None and move % 3 == 1:
            vanished.append((device, time.monotonic()))
            device.vanish()
        if move % 4 == 1:
            post.say(BURST)
        if move % 5 == 2:
            stop_now_and_then(machines, chance)
        where = chance.choice([name for name in machines.names if name != where] or machines.names)
        device = await arrive(machines, post, "bob/r", where, "bob%d" % move)
        await asyncio.sleep(chance.uniform(0.05, 0.4))
    await post.stop()
    last = post.sent - 1
    await device.until(lambda: last in post.received(), lambda: "message %d; %d of %d came" % (last, len(post.received()), post.sent), 30)
    await settle([sender, device])
    got = post.received()
    in_order_once(got)
    missing = set(range(post.sent)) - set(got) - lost_with(vanished, post)
    assert not missing, "lost: %s" % sorted(missing)[:20]
    not_disturbed(sender)
    assert machines["m1"].query("select count(*) from queue") == [(0,)], "nothing is left in offline storage"
    assert not machines.errors()


async def arrive(machines, post, jid, where, label, tries=5):
    """A login. c2s gives a newcomer the number of a client that has just left, and may close it on that one's late `ended`: then again."""
    for left in reversed(range(tries)):
        device = machines.client(jid, where, label=label)
        post.devices.append(device)
        try:
            return await device.login(limit_s=20)
        except ConnectionError:
            if not left:
                raise


def lost_with(vanished, post):
    """Numbers that may have been on their way to devices when these vanished: all behind the last that a device or one before it got."""
    lost = set()
    for device, at in vanished:
        before = [number for one in post.devices[:post.devices.index(device) + 1] for number in Talk.received(Seen(one, post.sender))]
        lost |= {number for number in range(max(before, default=-1) + 1, post.sent) if post.times[number] < at + ON_ITS_WAY_S}
    return lost


class Seen:
    def __init__(self, receiver, sender):
        self.receiver, self.sender = receiver, sender


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_two_logins_at_once_are_served_by_one_sm(mesh, full, shape):
    """Both `start`s are at their routers before any sm can answer."""
    rounds = 200 if full else 15
    machines = mesh(**shape)
    users = ["twin%d" % number for number in range(rounds)]
    machines["m1"].add_users(*users)
    run(log_in_twice(machines, users), 60 + rounds * 4)


async def log_in_twice(machines, users):
    chance = random.Random(SEED)
    for user in users:
        places = chance.sample(NAMES, 2) if len(machines.names) > 1 else ["m1", "m1"]
        clients = [machines.client("%s/%d" % (user, number), place, label="%s-%d" % (user, number)) for number, place in enumerate(places)]
        sms = [machine.processes["sm"] for machine in machines.machines.values()]
        before = {place: places.count(place) + frames_from_c2s(machines[place]) for place in places}
        for sm in sms:
            sm.signal(signal.SIGSTOP)
        try:
            logins = [asyncio.ensure_future(client.login(presence=False, limit_s=20)) for client in clients]
            end = time.monotonic() + 5
            while any(frames_from_c2s(machines[place]) < count for place, count in before.items()):
                assert time.monotonic() < end, "no start came"
                await asyncio.sleep(0.02)
        finally:
            for sm in sms:
                sm.signal(signal.SIGCONT)
        await asyncio.gather(*logins)
        for client in clients:
            await client.get_roster(timeout=10)
            client.send_presence()
        assert list(machines.serving(user).values()) == [2], "two sessions, one sm: %s" % machines.serving(user)
        # What one changes, the other is told.
        await clients[0].update_roster("friend@far.example", name="Friend")
        await clients[1].until(lambda: "friend@far.example" in clients[1].client_roster, "the roster push")
        for client in clients:
            await client.logout()
        # Else c2s may give the next client a number that it is about to close.
        await asyncio.sleep(0.1)


def frames_from_c2s(machine):
    return sum(seat["frames_in"] for seat in machine.status()["seats"] if seat["id"] == "c2s")


def test_peer_connections_that_are_reset_lose_and_double_nothing(mesh, full):
    machines = mesh()
    names = ["u%d" % number for number in range(6)]
    machines["m1"].add_users(*names)

    async def play():
        clients = [await machines.client(name + "/r", NAMES[number % 3]).login() for number, name in enumerate(names)]
        # Each to one of each other machine, both ways.
        pairs = [(0, 1), (1, 2), (2, 0), (3, 5), (4, 3), (5, 4)]
        talks = [Talk(clients[one], clients[other], rate=60) for one, other in pairs]
        end = time.monotonic() + (60 if full else 8)
        resets = 0
        while time.monotonic() < end:
            start = time.monotonic()
            await asyncio.to_thread(reset_peers, machines.places[NAMES[resets % 3]])
            resets += 1
            await asyncio.sleep(max(0.0, start + 0.2 - time.monotonic()))
        assert resets > 20
        for talk in talks:
            await talk.stop()
        for talk in talks:
            await talk.check(limit_s=30)
        not_disturbed(*clients)
        return resets

    opened = links_opened(machines)
    resets = run(play())
    # Each reset breaks a machine's connections to both others; of two that follow closely one may find nothing to break.
    assert links_opened(machines) - opened > resets
    assert machines["m1"].query("select count(*) from queue") == [(0,)]


def links_opened(machines):
    return sum(machine.metric("jidmesh_peer_links_opened_total") for machine in machines.machines.values())


@pytest.mark.parametrize("shape", SHAPES)
def test_roster_changes_from_two_machines_agree_everywhere(mesh, shape):
    machines = mesh(**shape)
    machines["m1"].add_users("rosa")
    first, second, third = (machines.names * 3)[:3]

    async def play():
        one = await machines.client("rosa/one", first, label="one").login()
        two = await machines.client("rosa/two", second, label="two").login()
        for number in range(60):
            for device in (one, two):
                device.send_raw("<iq type='set' id='%s'><query xmlns='jabber:iq:roster'><item jid='c%d@far.example' name='%s %d'>"
                                "<group>%s</group></item></query></iq>" % (device.new_id(), number % 12, device.label, number, device.label))
            if number % 10 == 9:
                await asyncio.sleep(0.05)
        await settle([one, two])
        views = [view_of(device) for device in (one, two)]
        late = await machines.client("rosa/late", third, label="late").login()
        await settle([late])
        views.append(view_of(late))
        assert views[0] == views[1] == views[2]
        assert len(views[0]) == 12
        return views[0]

    view = run(play())
    rows = machines["m1"].query("""select i.jid, i.name, g."group" from "roster-items" i left join "roster-groups" g
        on g."collection-owner" = i."collection-owner" and g.jid = i.jid where i."collection-owner" = ?""", "rosa@example.net")
    assert sorted(rows) == sorted((jid, name, group) for jid, (name, group) in view.items())
    assert not machines.errors()


def view_of(device):
    """{jid: (name, group)}: what the device knows of the roster, from answers and pushes."""
    view = {}
    for _, xml in device.seen:
        query = xml.find("{jabber:iq:roster}query")
        for item in query if query is not None else ():
            view[item.get("jid")] = (item.get("name"), item.findtext("{jabber:iq:roster}group"))
    return view
