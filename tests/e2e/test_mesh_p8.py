"""P8: nobody gets in between the machines. Refused, logged, counted, and nobody else disturbed; on the wire there is no plaintext."""

import asyncio
import os
import re
import socket
import struct
import time

import pytest

from bed import wait_for
from capture import Capture
from client import settle
from mesh import NAMES, SECRET
from place import NETWORK, PEER_PORT, alter_byte, clear_faults, reset_peers
from talk import Talk, not_disturbed, run

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(180)]
# Longest that a stranger may stay without having proved anything.
STRANGER_LIMIT_S = 6.0
# What both sides of a connection between nodes say first, in the clear.
PREAMBLE = b"jidmesh\x01"
MEMORY_MARGIN_BYTES = 64 << 20


def refused(machine):
    """How many connections the node has refused on its peer port, all reasons together."""
    return machine.metrics()["jidmesh_peer_links_refused_total"]


def errors(machine):
    """How many connections of peers that had proved who they are ended with an error."""
    return sum(value for key, value in machine.metrics().items() if key.startswith("jidmesh_peer_errors_total{"))


async def pair(machines, names=("ann", "bob"), where=("m1", "m2")):
    machines["m1"].add_users(*names)
    machines["m1"].add_contacts(names[0] + "@example.net", [names[1] + "@example.net"])
    one, other = [await machines.client(name + "/r", place).login() for name, place in zip(names, where)]
    for client, contact in ((one, other), (other, one)):
        await client.gets("presence", from_=contact.boundjid.full)
    await settle([one, other])
    return one, other


async def undisturbed(machines, trouble):
    """Two users on two machines talk while `trouble` (blocking) happens; nothing of it reaches them."""
    ann, bob = await pair(machines)
    talks = [Talk(ann, bob, rate=50), Talk(bob, ann, rate=50)]
    await asyncio.sleep(0.3)
    result = await asyncio.to_thread(trouble)
    await asyncio.sleep(0.5)
    for talk in talks:
        await talk.stop()
    for talk in talks:
        await talk.check()
    not_disturbed(ann, bob)
    return result


def stranger(machines, data, then_wait=True):
    """Connects to m1's peer port from outside the cluster and says `data`; the bytes that come back until it is thrown out."""
    with machines.hub.inside():
        link = socket.create_connection((NETWORK + "11", PEER_PORT), timeout=2)
    got = b""
    with link:
        link.settimeout(STRANGER_LIMIT_S)
        try:
            link.sendall(data)
            while then_wait:
                part = link.recv(65536)
                if not part:
                    break
                got += part
        except TimeoutError:
            raise AssertionError("not thrown out within %.0f s" % STRANGER_LIMIT_S) from None
        except OSError:
            pass
    return got


INPUTS = {
    "garbage": os.urandom(65536),
    "plain-xml": b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>",
    "http": b"GET / HTTP/1.1\r\nHost: m1\r\n\r\n",
    "zeros": bytes(4096),
    "oversized-length-32": struct.pack("!I", 0x7FFFFFFF) + bytes(1000),
    "oversized-length-16": struct.pack("!H", 0xFFFF) + os.urandom(0xFFFF),
    "preamble-and-garbage": PREAMBLE + os.urandom(65536),
    "preamble-and-oversized-hello": PREAMBLE + b"\xff\xff" + os.urandom(0xFFFF),
    "preamble-and-empty-hello": PREAMBLE + b"\x00\x00",
    "preamble-and-silence": PREAMBLE,
    "preamble-of-tomorrow": b"jidmesh\x7f" + bytes(100),
    "one-byte-and-silence": b"\x00",
    "nothing": b"",
}


def test_strangers_are_thrown_out(mesh):
    machines = mesh()
    memory = machines["m1"].router.memory_bytes()

    def trouble():
        for name, data in INPUTS.items():
            before, log = refused(machines["m1"]), len(machines["m1"].router.log())
            stranger(machines, data)
            wait_for("%s is counted" % name, lambda before=before: refused(machines["m1"]) > before, 3)
            wait_for("%s is logged, with its address" % name, lambda log=log: NETWORK + "1" in machines["m1"].router.log()[log:], 3)

    run(undisturbed(machines, trouble))
    assert machines["m1"].router.memory_bytes() < memory + MEMORY_MARGIN_BYTES


def test_many_strangers_who_say_nothing_take_nobodys_place(mesh):
    machines = mesh()
    memory = machines["m1"].router.memory_bytes()

    def trouble():
        links = []
        with machines.hub.inside():
            for _ in range(300):
                link = socket.socket()
                link.settimeout(1)
                try:
                    link.connect((NETWORK + "11", PEER_PORT))
                except OSError:
                    pass
                links.append(link)
        # A peer whose connections break gets its place back all the same.
        reset_peers(machines.places["m2"])
        time.sleep(3)
        for link in links:
            link.close()

    run(undisturbed(machines, trouble))
    assert machines["m1"].router.memory_bytes() < memory + MEMORY_MARGIN_BYTES


@pytest.mark.parametrize("own, words", [(dict(secrets=["not the secret of the other nodes"]), "secret"),
                                        (dict(more="<cluster>another</cluster>"), "cluster")], ids=["secret", "cluster"])
def test_a_node_with_a_wrong_secret_or_of_another_cluster_stays_outside(mesh, own, words):
    machines = mesh(start=False, own={"m3": own})
    machines.start(ready=False)
    machines.wait_ready(["m1", "m2"])
    machines["m3"].wait_login()
    wait_for("m3 is refused, by a node that it dialled or that dialled it", lambda: any(refused(machines[name]) for name in NAMES), 10)

    async def play():
        ann, bob = await pair(machines)
        machines["m1"].add_users("eve")
        # It serves its own users, and is told of nothing.
        eve = await machines.client("eve/r", "m3").login()
        await settle([ann, bob, eve])
        eve.chat("ann@example.net/r", "let me in", kind="headline")
        # (Headlines: what waits in the database both can have.)
        ann.chat("eve@example.net/r", "are you there?", kind="headline")
        await settle([ann, bob, eve])
        await asyncio.sleep(1)
        assert not ann.find("message", body="let me in") and not eve.find("message", body="are you there?")
        talk = Talk(ann, bob)
        await asyncio.sleep(1)
        await talk.stop()
        await talk.check()
        not_disturbed(ann, bob)

    run(play())
    said = {name: re.findall(r"\[(%s\d+), port=\d+\] mesh: (refused: .*%s.*)" % (re.escape(NETWORK), words), machines[name].router.log()) for name in NAMES}
    assert any(said.values()), "logged, with the address"
    for lines in said.values():
        assert len(set(lines)) == len(lines), "and the same not again and again"


def test_a_rotated_secret_keeps_the_nodes_together(mesh):
    """m1 and m2 seal with the new secret and take the old one too; m3 knows the old one first."""
    new = "the next secret of all these nodes"
    machines = mesh(own={"m1": dict(secrets=[new, SECRET]), "m2": dict(secrets=[new, SECRET]), "m3": dict(secrets=[SECRET, new])})
    run(undisturbed(machines, lambda: time.sleep(0.5)))


def test_a_replayed_hello_opens_nothing(mesh):
    machines = mesh()
    with Capture(machines.hub, machines.places["m1"]) as capture:
        # Long enough that something is said on each connection, and met.
        reset_peers(machines.places["m1"], pause_s=2)
        machines.wait_ready()
    hellos = [data for _, target, data in capture.dialled(PEER_PORT) if target == NETWORK + "11" and data]
    if not hellos:
        # m1 dialled: then its own words are said to it.
        hellos = [data for _, _, data in capture.dialled(PEER_PORT) if data]
    assert hellos, "no connection between nodes was made"
    before = refused(machines["m1"])

    def trouble():
        for hello in hellos[:3]:
            for part in (hello, hello[:64], hello + hello):
                stranger(machines, part)
        return refused(machines["m1"])

    assert run(undisturbed(machines, trouble)) >= before + 3 * len(hellos[:3])
    machines.wait_ready()


def test_an_altered_byte_is_noticed_and_costs_nothing(mesh):
    """The connection on which it came is given up and replaced: what was on it comes again."""
    machines = mesh()
    before = sum(errors(machines[name]) for name in NAMES)

    def trouble():
        for _ in range(3):
            alter_byte(machines.places["m2"])
            time.sleep(0.3)
            clear_faults(machines.places["m2"])
            time.sleep(1)

    run(undisturbed(machines, trouble))
    assert sum(errors(machines[name]) for name in NAMES) > before
    assert any("altered" in machines[name].router.log() for name in NAMES)
    machines.wait_ready()


MARK = "a body for bob alone"
PLAIN = "<plain allow='yes'/>"


@pytest.mark.parametrize("own, sealed", [({}, True), ({"m1": dict(more=PLAIN)}, True), ({"m1": dict(more=PLAIN), "m2": dict(more=PLAIN)}, False)],
                         ids=["default", "one-allows-plain", "both-allow-plain"])
def test_there_is_no_plaintext_on_the_wire_unless_both_ends_agree(mesh, own, sealed):
    """A stanza of which it is proved that it crossed. The last case, where both allow it, shows that the capture would see it."""
    machines = mesh(own=own)

    async def play():
        ann, bob = await pair(machines)
        ann.chat(bob.boundjid.full, MARK)
        await bob.gets("message", body=MARK)

    with Capture(machines.hub, machines.places["m1"]) as capture:
        run(play())
        time.sleep(0.3)
    crossed = [payload for _, source, _, target, _, _, payload in capture.segments() if PEER_PORT in (source, target)]
    assert sum(map(len, crossed)) > 500, "the stanza crossed here"
    for text in (MARK, "<message", "jabber:client", "ann@example.net"):
        assert (text.encode() in capture.bytes()) != sealed, text
    assert SECRET.encode() not in capture.bytes()
