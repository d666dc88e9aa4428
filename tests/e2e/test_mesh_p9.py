"""P9: to an external domain one machine's s2s carries all stanzas; names of one machine are there for all.

Dialback itself may make another machine's s2s open a connection to check a key: so what counts is who is handed stanzas by its router.
"""

import asyncio
import os
import signal
import subprocess
import time

import pytest

import bed
import templates
from client import Client, settle
from mesh import NAMES, OUTSIDE, hosts
from place import NETWORK, Place
from prosody import Prosody, pem_file
from talk import Talk, in_order_once, not_disturbed, run

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(180)]
MUC = "conference.example.net"


@pytest.fixture
def outside(mesh, tmp_path):
    """Factory: three machines with s2s, and a foreign server of this domain: (machines, function that makes a client there)."""
    made = []

    def factory(domain, tls=False, **settings):
        machines = mesh(s2s=True, s2s_pemfile=pem_file(str(tmp_path), "example.net") if tls else None, **settings)
        far = Place("far", machines.folder, hosts())
        machines.hub.attach(far, OUTSIDE[domain])
        ip = NETWORK + str(OUTSIDE[domain])
        folder = os.path.join(machines.folder, "far")
        pem = None
        if tls:
            os.makedirs(str(tmp_path / "far"))
            pem = pem_file(str(tmp_path / "far"), domain)
        prosody = Prosody(folder, domain, ip, far, pem, resolver="")
        made.extend((prosody.kill, far.close))
        return machines, prosody, lambda: Client("pu@%s/r" % domain, host=ip, place=far, label="pu")

    yield factory
    for undo in made:
        undo()


def handed_to_s2s(machines, names=NAMES):
    return {name: sum(seat["frames_out"] for seat in machines[name].status()["seats"] if seat["kind"] == "s2s") for name in names}


def carriers(machines, before, names=NAMES):
    """The machines whose s2s was handed something since."""
    return [name for name, count in handed_to_s2s(machines, names).items() if count > before[name]]


async def talk_with(pu, users, base, count=20):
    """Everybody to pu and pu to everybody, numbered, all at once; once and in order."""
    for number in range(count):
        for user in users:
            user.chat(pu.boundjid.full, "#%d#" % (base + number))
            pu.chat(user.boundjid.full, "#%d#" % (base + number))
        await asyncio.sleep(0.01)
    for user in users:
        await user.gets("message", body="#%d#" % (base + count - 1), from_=pu.boundjid.full, limit_s=20)
        await pu.gets("message", body="#%d#" % (base + count - 1), from_=user.boundjid.full, limit_s=20)
        for one, other in ((user, pu), (pu, user)):
            got = [body for body in one.bodies(other.boundjid.bare) if body in {"#%d#" % (base + number) for number in range(count)}]
            assert got == ["#%d#" % (base + number) for number in range(count)], (one.label, other.label, got)


@pytest.mark.parametrize("domain, tls", [("chat.example.org", False), ("secure.example.org", True)], ids=["plain", "tls"])
def test_one_s2s_carries_all_to_a_domain_and_another_takes_over(outside, full, domain, tls):
    machines, prosody, far_client = outside(domain, tls)
    names = ["u" + name for name in NAMES]
    machines["m1"].add_users(*names)

    async def play():
        users = {where: await machines.client(name + "/r", where).login() for name, where in zip(names, NAMES)}
        pu = await far_client().login()
        before = handed_to_s2s(machines)
        await talk_with(pu, users.values(), 0)
        assert await users["m2"].plugin["xep_0199"].send_ping(pu.boundjid.full, timeout=10)
        first = carriers(machines, before)
        assert len(first) == 1, "one machine carries all: %s" % first
        if tls:
            assert "TLSv1" in prosody.own_log(), "TLS was used"
            if not full:
                return
        # Its machine dies: another takes over.
        carrier = first[0]
        others = [name for name in NAMES if name != carrier]
        talks = [Talk(users[name], pu, first=1_000_000, rate=10) for name in others]
        at = time.monotonic()
        before = handed_to_s2s(machines, others)
        await asyncio.to_thread(machines.kill, carrier)
        await asyncio.sleep(bed.GRACE_S + 8)
        for talk in talks:
            await talk.stop()
        for talk in talks:
            last = talk.first + talk.sent - 1
            await pu.until(lambda talk=talk, last=last: last in talk.received(), lambda talk=talk: "the last of %d; %d came" % (talk.sent, len(talk.received())), 20)
            in_order_once(talk.received())
            # What the dead s2s had in hand is lost with it; what was not given to it is not.
            missing = set(range(talk.first, talk.first + talk.sent)) - set(talk.received())
            late = [number for number in missing if talk.times[number - talk.first] > at + 0.5]
            assert not late, "lost after the death: %s" % late[:20]
        assert len(carriers(machines, before, others)) == 1
        await talk_with(pu, [users[name] for name in others], 2_000_000)
        assert len(carriers(machines, before, others)) == 1
        not_disturbed(*[users[name] for name in others])

    run(play())


def test_a_pinned_exit_is_used(outside):
    domain = "chat.example.org"
    machines, _, far_client = outside(domain, more="<exit domain='%s' node='m3.example.net'/>" % domain)
    machines["m1"].add_users("ann", "bob")

    async def play():
        users = [await machines.client(name + "/r", where).login() for name, where in (("ann", "m1"), ("bob", "m2"))]
        pu = await far_client().login()
        before = handed_to_s2s(machines)
        await talk_with(pu, users, 0)
        assert carriers(machines, before) == ["m3"]

    run(play())


def test_an_unknown_domain_is_told_to_its_sender(mesh):
    machines = mesh(s2s=True)
    machines["m1"].add_users("ann", "bob", "cid")

    async def play():
        for user, where in zip(("ann", "bob", "cid"), NAMES):
            client = await machines.client(user + "/r", where).login()
            identity = client.chat("x@nosuch.invalid", "anybody?")
            await client.gets("message", type="error", id=identity, limit_s=30)

    run(play())


# A conference service on one machine


@pytest.fixture
def room_service(mesh):
    """Three machines; jabber-muc on m1, started again when it dies: it often does while it reconnects."""
    # It reconnects after 3 s.
    machines = mesh(grace_s=9)
    folder = os.path.join(machines.folder, "muc")
    os.makedirs(folder + "/rooms")
    config = os.path.join(folder, "muc.xml")
    with open(config, "w", encoding="utf-8") as file:
        file.write("""<jcr><name>{0}</name><host>{0}</host><ip>127.0.0.1</ip><port>{1}</port><secret>{2}</secret>
<spool>{3}/rooms/</spool><logdir>{3}/</logdir><pidfile>{3}/muc.pid</pidfile><loglevel>124</loglevel>
<conference xmlns="jabber:config:conference"><public/><history>10</history></conference></jcr>""".format(MUC, bed.PORT, templates.COMPONENT_SECRET, folder))
    subprocess.run(["chown", "-R", "jabber:", folder], check=True)
    loop = "while :; do setpriv --reuid=jabber --regid=jabber --clear-groups mu-conference -s -c %s; sleep 0.5; done" % config
    service = bed.Process("muc", ["sh", "-c", loop], folder, place=machines.places["m1"])
    yield machines, service
    os.killpg(service.pid, signal.SIGKILL)
    service.child.wait(5)


JOIN = "<presence to='%s/%s'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
ROOM = "room1@" + MUC


async def join(client, nick, limit_s=20):
    end = time.monotonic() + limit_s
    while True:
        since = len(client.seen)
        client.send_raw(JOIN % (ROOM, nick))
        try:
            await client.gets("presence", since=since, from_="%s/%s" % (ROOM, nick), type=None, limit_s=1)
            return
        except AssertionError:
            if time.monotonic() > end:
                raise


async def open_room(owner):
    identity = owner.new_id()
    owner.send_raw("<iq type='set' to='%s' id='%s'><query xmlns='http://jabber.org/protocol/muc#owner'>"
                   "<x xmlns='jabber:x:data' type='submit'/></query></iq>" % (ROOM, identity))
    await owner.gets("iq", id=identity, type="result")


async def say_to_all(clients, text):
    """Each says something to the room; all hear all, in the same order."""
    since = [len(client.seen) for client in clients]
    for nick, client in enumerate(clients):
        for number in range(5):
            client.chat(ROOM, "%s %d %d" % (text, nick, number), kind="groupchat")
    heard = []
    for client, start in zip(clients, since):
        for nick in range(len(clients)):
            await client.gets("message", since=start, body="%s %d 4" % (text, nick))
        heard.append([body for body in client.bodies(ROOM) if body.startswith(text + " ")])
    assert len(heard[0]) == 5 * len(clients) and all(one == heard[0] for one in heard), heard


def test_a_room_on_one_machine_is_a_room_for_all(room_service):
    machines, service = room_service
    names = ("ann", "bob", "cid")
    machines["m1"].add_users(*names)

    async def play():
        clients = [await machines.client(name + "/r", where).login() for name, where in zip(names, NAMES)]
        await join(clients[0], "0")
        await open_room(clients[0])
        for nick in (1, 2):
            await join(clients[nick], str(nick))
        await say_to_all(clients, "before")
        items = str(await clients[1].plugin["xep_0030"].get_items(jid="example.net", timeout=10))
        assert MUC in items, "the sm of another machine heard of the service"
        # The service's router is killed and comes back.
        starts = len(service.log())
        await asyncio.to_thread(machines["m1"].router.restart)
        await asyncio.to_thread(machines["m1"].wait_login)
        await asyncio.sleep(5)
        not_disturbed(*clients[1:])
        if clients[0].closed:
            clients[0] = await machines.client("ann/r", "m1", label="ann2").login()
            await join(clients[0], "0")
            # If the service did not outlive it, the room is a new one, and locked until its owner says what it shall be.
            await open_room(clients[0])
        if len(service.log()) - starts > 200_000:
            raise AssertionError("the service restarts all the time")
        for nick in (1, 2):
            await join(clients[nick], str(nick))
        await say_to_all(clients, "after")
        # Who leaves is seen by all, wherever.
        await clients[2].logout()
        await clients[1].gets("presence", from_=ROOM + "/2", type="unavailable")
        await settle(clients[:2])

    run(play())
