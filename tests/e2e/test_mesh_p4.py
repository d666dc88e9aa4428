"""P4: a machine's death, or a process's, is its own affair. Its contacts are told once and in time; who is back is never told away."""

import asyncio
import os
import re
import time

import pytest

from bed import GRACE_S
from client import Client, settle
from mesh import OUTSIDE, hosts
from place import NETWORK, Place
from prosody import Prosody
from talk import Post, Talk, in_order_once, not_disturbed, run, runs, told, truth_of

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(180)]
# P4: a silent machine is found within 5 s, a lost process at the end of its grace period; then 3 s for the first 1000 sessions.
SILENCE_S, TELL_S = 5.0, 3.0
# What a busy two-core machine adds: four stacks share it.
SLACK_S = 2.0
# What was on its way to a contact when the login was answered may reach him so much later.
IN_FLIGHT_S = 0.3
# What was inside the dead process is lost with it.
INSIDE_S = (0.5, 0.2)
DEATHS = {
    "machine-silently": (lambda machines: machines.kill("m2", silently=True), SILENCE_S),
    "machine": (lambda machines: machines.kill("m2"), GRACE_S),
    "jidmesh": (lambda machines: machines["m2"].router.kill(), GRACE_S),
    "sm": (lambda machines: machines["m2"].processes["sm"].kill(), GRACE_S),
    "c2s": (lambda machines: machines["m2"].processes["c2s"].kill(), GRACE_S),
}
FAR = "pu@chat.example.org"
FAR_IP = NETWORK + str(OUTSIDE["chat.example.org"])


@pytest.fixture
def world(mesh):
    """Three machines, and a foreign server on the same bridge, whose own connection leads to one of those that stay."""
    yield from with_far(mesh(s2s=True), ("m1", "m3"))


@pytest.fixture
def world_by_way_of_m2(mesh):
    """The same, and the foreign server's own connection leads to m2."""
    yield from with_far(mesh(s2s=True), ("m2",))


def with_far(machines, domain_at):
    far = Place("far", machines.folder, hosts(domain_at))
    machines.hub.attach(far, OUTSIDE["chat.example.org"])
    prosody = Prosody(os.path.join(machines.folder, "far"), "chat.example.org", FAR_IP, far, resolver="")
    far.server = prosody
    yield machines, far
    prosody.kill()
    far.close()


class Cast:
    """ann on m1 and cid on m3 watch, and talk with one another; bea, dora and eve are on m2, where it happens; pu is a contact far away.

    bea stays away. dora comes back on m1 at once, with the same resource. eve comes back on m3 when ann has been told.
    """

    def __init__(self, machines, far):
        self.machines = machines
        names = ("ann", "cid", "bea", "dora", "eve")
        machines["m1"].add_users(*names)
        for name in ("bea", "dora", "eve"):
            machines["m1"].add_contacts(name + "@example.net", ["ann@example.net", "cid@example.net"])
        self.ann, self.cid = machines.client("ann/r", "m1"), machines.client("cid/r", "m3")
        self.bea, self.dora, self.eve = (machines.client(name + "/r", "m2") for name in names[2:])
        self.pu = Client(FAR + "/r", host=FAR_IP, place=far, label="pu")
        self.watchers, self.victims = (self.ann, self.cid), (self.bea, self.dora, self.eve)

    async def enter(self):
        for client in (self.pu, *self.watchers, *self.victims):
            await client.login()
        bea, pu = self.bea, self.pu
        pu.send_presence_subscription(bea.boundjid.bare, ptype="subscribe")
        await bea.gets("presence", type="subscribe", from_=FAR, limit_s=20)
        bea.send_presence_subscription(FAR, ptype="subscribed")
        await pu.gets("presence", from_="bea@example.net/r", type=None)
        for watcher in self.watchers:
            for victim in self.victims:
                await watcher.gets("presence", from_=victim.boundjid.full, type=None)
        await settle([*self.watchers, *self.victims])
        self.talks = [Talk(self.ann, self.cid, rate=50), Talk(self.cid, self.ann, rate=50)]
        self.posts = {name: Post(self.ann, name + "@example.net", rate=20) for name in ("dora", "eve")}
        self.posts["dora"].devices.append(self.dora)
        self.posts["eve"].devices.append(self.eve)
        await asyncio.sleep(1)

    async def told_away(self, client, jid, since, limit_s):
        """The moment at which the client was told."""
        await client.until(lambda: truth_of(client, jid) == "unavailable", "that %s is away" % jid, limit_s)
        return told(client, jid)[-1][0] - since

    async def leave(self):
        """Nobody else was disturbed; the survivors' talk lost nothing."""
        for talk in [*self.talks, *self.posts.values()]:
            await talk.stop()
        for talk in self.talks:
            await talk.check()
        not_disturbed(*self.watchers, self.pu)

    async def check_post(self, name, at, dead_at):
        """All that ann sent to the user arrived, once and in order, but what was inside when it happened: between these two times."""
        post = self.posts[name]
        last = post.sent - 1
        await post.devices[-1].until(lambda: last in post.received(), lambda: "message %d to %s; %d of %d came" % (
            last, name, len(post.received()), post.sent), 15)
        await settle([post.devices[-1], self.ann])
        got = post.received()
        in_order_once(got, name)
        inside = {number for number, sent in enumerate(post.times) if at - INSIDE_S[0] < sent < dead_at + INSIDE_S[1]}
        missing = set(range(post.sent)) - set(got) - inside
        assert not missing, "lost on the way to %s: %s, sent %s s after the death, which took %.2f s; in offline storage: %s" % (
            name, runs(sorted(missing)), ["%.2f" % (post.times[number] - at) for number in sorted(missing)[:5]], dead_at - at,
            self.machines["m1"].query("select count(*) from queue"))


@pytest.mark.parametrize("what", DEATHS)
def test_a_death_is_told_once_in_time_and_to_nobody_who_is_back(world, what):
    machines, far = world
    kill, detect_s = DEATHS[what]
    limit_s = detect_s + TELL_S + SLACK_S
    survivors = {name: {key: process.pid for key, process in machines[name].processes.items()} for name in ("m1", "m3")}

    async def play():
        cast = Cast(machines, far)
        await cast.enter()
        at = time.monotonic()
        await asyncio.to_thread(kill, machines)
        dead_at = time.monotonic()
        back = machines.client("dora/r", "m1", label="dora-back")
        cast.posts["dora"].devices.append(back)
        await back.login(limit_s=limit_s + 10)
        back_at = time.monotonic()
        for contact in (*cast.watchers, cast.pu):
            took = await cast.told_away(contact, "bea@example.net/r", at, limit_s)
            assert took < limit_s, "%s was told after %.1f s" % (contact.label, took)
        await cast.told_away(cast.ann, "eve@example.net/r", at, limit_s)
        eve = machines.client("eve/elsewhere", "m3", label="eve-back")
        cast.posts["eve"].devices.append(eve)
        await eve.login()
        await asyncio.sleep(TELL_S)
        await cast.leave()
        for name in ("dora", "eve"):
            await cast.check_post(name, at, dead_at)
        for watcher in cast.watchers:
            for jid in ("bea@example.net/r", "eve@example.net/r"):
                assert [state for when, state in told(watcher, jid) if when > at] == ["unavailable"], "once"
            dora = [(when, state) for when, state in told(watcher, "dora@example.net/r") if when > at]
            assert dora and dora[-1][1] == "available", dora
            states = [state for _, state in dora]
            assert "unavailable" not in states[states.index("available"):], "told away after her return was told: %s" % states
            late = ["%.2f s" % (when - back_at) for when, state in dora if state == "unavailable" and when > back_at + IN_FLIGHT_S]
            assert not late, "told away though she is back: %s" % late
            assert truth_of(watcher, "eve@example.net/elsewhere") == "available"
        assert [state for when, state in told(cast.pu, "bea@example.net/r") if when > at] == ["unavailable"], "once, far away too"
        not_disturbed(back, eve)
        assert all(machines[name].processes[key].pid == pid and machines[name].processes[key].alive()
                   for name, pids in survivors.items() for key, pid in pids.items()), "nobody restarted anything"
        for name in ("dora", "eve"):
            assert len([where for where in machines.serving(name) if where != "m2"]) <= 1, machines.serving(name)
        # It comes back, as a machine that has just been switched on, and is one of them again.
        await asyncio.to_thread(machines.kill, "m2")
        await asyncio.to_thread(machines.revive, "m2")
        await asyncio.to_thread(machines.wait_ready)
        not_disturbed(*cast.watchers, back, eve)

    run(play())


@pytest.mark.full
def test_a_foreign_server_waits_for_the_dead_machine_as_long_as_it_likes(world_by_way_of_m2):
    """It verifies a caller over the connection that it has to our domain. If that leads to the machine that died without a word, nobody here
    can help: a survivor's s2s calls it in time, and it does not come to ask another machine."""
    machines, far = world_by_way_of_m2
    limit_s = SILENCE_S + TELL_S + SLACK_S
    s2s_of = {name: machines[name].processes["s2s"] for name in ("m1", "m3")}
    asked = "sending dialback auth request for route 'example.net/chat.example.org'"

    async def play():
        cast = Cast(machines, far)
        await cast.enter()
        assert "[%s, port=" % FAR_IP in machines["m2"].processes["s2s"].log(), "its connection leads to m2"
        at = time.monotonic()
        await asyncio.to_thread(machines.kill, "m2", silently=True)
        for watcher in cast.watchers:
            await cast.told_away(watcher, "bea@example.net/r", at, limit_s)
        await cast.ann.until(lambda: any(asked in s2s.log() for s2s in s2s_of.values()), "a call from a survivor", at + limit_s - time.monotonic())
        await asyncio.sleep(limit_s)
        assert truth_of(cast.pu, "bea@example.net/r") == "available"
        asked_over = re.findall(r"(s2sout\S*)\tdebug\tSending\S* <db:verify ", far.server.own_log())
        assert len(asked_over) == 2 and asked_over[0] == asked_over[1], "it asks over the connection that it had: %s" % asked_over
        assert not any("incoming connection" in s2s.log() for s2s in s2s_of.values()), "it has asked no other machine"
        for talk in [*cast.talks, *cast.posts.values()]:
            await talk.stop()
        not_disturbed(*cast.watchers, cast.pu)

    run(play())


RESTARTS = {
    "jidmesh": lambda machine: machine.start_router(),
    "sm": lambda machine: machine.start_component("sm"),
    "c2s": lambda machine: machine.start_component("c2s"),
}


@pytest.mark.parametrize("what", list(RESTARTS))
def test_what_returns_within_its_grace_leaves_every_picture_right(world, what):
    """jidmesh, sm or c2s is killed and is there again before its grace ends. Its own clients may have to log in again; no other."""
    machines, far = world

    async def play():
        cast = Cast(machines, far)
        await cast.enter()
        at = time.monotonic()
        await asyncio.to_thread(DEATHS[what][0], machines)
        dead_at = time.monotonic()
        await asyncio.sleep(1)
        await asyncio.to_thread(RESTARTS[what], machines["m2"])
        await asyncio.to_thread(machines["m2"].wait_login)
        await asyncio.sleep(GRACE_S + TELL_S)
        await cast.leave()
        lives = {victim: await lives_on(victim) for victim in cast.victims}
        for watcher in (*cast.watchers, cast.pu):
            for victim in cast.victims if watcher is not cast.pu else [cast.bea]:
                jid = victim.boundjid.full
                states = [state for when, state in told(watcher, jid) if when > at]
                assert truth_of(watcher, jid) == ("available" if lives[victim] else "unavailable"), (watcher.label, jid, lives[victim])
                assert states.count("unavailable") <= 1, (watcher.label, jid, states)
        # They come back, and get what was sent meanwhile.
        for victim in (cast.dora, cast.eve):
            if not lives[victim]:
                victim = machines.client(victim.boundjid.user + "/r", "m2", label=victim.label + "-back")
                cast.posts[victim.boundjid.user].devices.append(victim)
                await victim.login()
        for name in ("dora", "eve"):
            await cast.check_post(name, at, dead_at)
            assert truth_of(cast.ann, name + "@example.net/r") == "available"

    run(play())
    assert all(len(machines.serving(name)) == 1 for name in ("dora", "eve"))


async def lives_on(client):
    """Whether the client has a session that works."""
    if client.closed:
        return False
    try:
        await client.ping(limit_s=5)
        return True
    except AssertionError:
        assert client.closed, "%s hangs: connected, and unanswered" % client.label
        return False
