"""Another process takes the router's place while everything runs: nobody notices, and nothing is lost, doubled or overtaken."""

import asyncio
import json
import socket
import subprocess

import pytest

import bed
from client import settle
from frames import COMP
from native import Foreign, Native
from prosody import pem_file
from talk import Talk, nobody_noticed, not_disturbed, run
from test_grace import couple

pytestmark = pytest.mark.only("jidmesh", "jidmesh-2-shards")


def message(number, size=0):
    return "<message xmlns='jabber:client' from='x@a.test' to='y@b.test'><body>#%d#%s</body></message>" % (number, "." * size)


def number_of(frame):
    return int(frame.raw.split(b"#")[1])


def test_clients_notice_nothing(machine):
    stack = machine()

    async def play():
        alice, bob = await couple(stack)
        talks = Talk(alice, bob), Talk(bob, alice, first=1_000_000)
        for shards in (3 - stack.shards, 1, 2):
            await asyncio.sleep(0.3)
            stack.shards = shards
            stack.write_router()
            await asyncio.to_thread(stack.take_over)
        await asyncio.sleep(0.3)
        await nobody_noticed(alice, bob, talks)

    run(play())
    stack.wait_login()
    assert stack.status()["shards"] == 2
    assert stack.metric("jidmesh_links_lost_total") == 0 and stack.metric("jidmesh_links_returned_total") == 0
    assert "took over" in stack.router.log()


def test_under_full_load_every_frame_arrives_once_and_in_order(machine):
    stack = machine(sms=(), c2ss=())
    flows = lambda: stack.metric("jidmesh_frames_sent_total") > 30_000
    with bed.users_load(flows, 20, "--sessions", "3000", "--c2s", "2", "--seconds", "4"):
        for shards in (3 - stack.shards, stack.shards):
            stack.shards = shards
            stack.write_router()
            stack.take_over()


def test_half_a_frame_and_a_full_queue_go_along(machine):
    stack = machine(sms=(), c2ss=())
    with Native(name="a.test") as a, Native(name="b.test") as b, Foreign("c.test") as c:
        a.drain(), b.drain(), c.frames(0.2)
        count = 4_000
        for number in range(count):
            a.route("b.test", message(number, 2_000), frm="a.test")
        whole = "<route xmlns='%s' from='a.test' to='b.test'>%s</route>" % (COMP, message(count))
        a.send(whole[:70])
        c.send("<message from='x@c.test' to='y@b.")
        stack.take_over()
        a.send(whole[70:])
        c.send("test'><body>#%d#</body></message>" % (count + 1))
        got = [number_of(b.next_route()) for _ in range(count + 2)]
        got.remove(count + 1)
        assert got == list(range(count + 1))
        b.route("c.test", message(7), frm="b.test")
        assert b"#7#" in c.frame().raw


@pytest.mark.only("jidmesh")
def test_components_under_tls_come_back_within_their_grace(machine, tmp_path):
    pem = pem_file(str(tmp_path))
    stack = machine(pemfile=pem, component_pemfile=pem)

    async def play():
        alice, bob = await couple(stack)
        await settle([alice, bob])
        # Their keys can't be handed over: to the components it is a connection that breaks.
        await asyncio.to_thread(stack.take_over)
        talk = Talk(alice, bob, rate=20)
        await asyncio.to_thread(bed.wait_for, "both are back", lambda: stack.metric("jidmesh_links_returned_total") == 2, 15)
        await talk.stop()
        # What c2s wrote into the broken connection before it noticed is lost.
        talk.say(50)
        await bob.until(lambda: talk.sent - 1 in talk.received(), "the last message", 10)
        not_disturbed(alice, bob)
        assert not alice.find("presence", type="unavailable") and not bob.find("presence", type="unavailable")

    run(play())


@pytest.mark.only("jidmesh-2-shards")
def test_who_cannot_take_over_is_told_so_and_the_old_one_goes_on(machine):
    stack = machine(sms=(), c2ss=())
    Native(name="gone.test").close()
    with Native(name="a.test") as a, Native(name="b.test") as b:
        a.drain(), b.drain()
        for ask, why in ((dict(version=0), "restart instead"), (dict(own="another"), "is <id> another one?")):
            with asking(stack, **ask) as taker:
                answer = json.loads(taker.makefile("rb").readline())
                assert not answer["ok"] and why in answer["error"], answer
        with asking(stack) as taker:
            assert taker.recv(12) == b'{"ok":true}\n'
            a.route("b.test", message(1), frm="a.test")
            # The first has everything by now, or soon, and says nothing; the second comes too late.
            with asking(stack) as second:
                answer = json.loads(second.makefile("rb").readline())
            assert not answer["ok"] and "another take-over is under way" in answer["error"], answer
        # The first has ended without a word, too: the old one goes on with what came meanwhile.
        assert number_of(b.next_route()) == 1
        b.route("a.test", message(2), frm="b.test")
        assert number_of(a.next_route()) == 2
        stack.take_over()
        a.route("b.test", message(3), frm="a.test")
        assert number_of(b.next_route()) == 3
    assert "could not take over" in stack.router.log()
    # What the old one knew of the links that ended, the new one knows.
    done = subprocess.run([bed.JIDMESH, "status", "--closed", "--admin", stack.folder + "/admin.sock"], stdout=subprocess.PIPE, text=True, check=True, timeout=10)
    assert "gone.test" in done.stdout, done.stdout


def asking(stack, **changed):
    ask = dict(cmd="takeover", version=4, own="router", pid=1)
    taker = socket.socket(socket.AF_UNIX)
    taker.settimeout(5)
    taker.connect(stack.folder + "/admin.sock")
    taker.sendall((json.dumps({**ask, **changed}) + "\n").encode())
    return taker
