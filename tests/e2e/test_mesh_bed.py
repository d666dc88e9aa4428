"""The bed of many machines itself: it comes up, its faults do what they say, and it is red where there is no mesh."""

import asyncio
import os
import signal
import socket
import threading
import time

import pytest

import bed
from capture import Capture
from client import settle
from database import Sqlite
from mesh import DOMAIN, NAMES, number_of
from place import NETWORK, alter_byte, clear_faults, reset_peers
from talk import run

pytestmark = pytest.mark.mesh


def login_everywhere(machines):
    for machine in machines.machines.values():
        machine.wait_login()


@pytest.mark.parametrize("kind", ["stock", "jidmesh"])
def test_three_machines_come_up_side_by_side_on_one_database(mesh, kind):
    """The same ids and ports on each. A chat passes on each machine; sm and database see all users."""
    machines = mesh(start=False, router=kind, s2s=True)
    machines.start(ready=False)
    login_everywhere(machines)
    machines["m1"].add_users("alice", "bob")

    async def play():
        for name in NAMES:
            alice = await machines.client("alice/" + name, name).login()
            bob = await machines.client("bob/" + name, name).login()
            alice.chat(bob.boundjid.full, "hello on " + name)
            await bob.gets("message", body="hello on " + name)
            await settle([alice, bob])
            await alice.logout()
            await bob.logout()

    run(play())
    bed.wait_for("alice's sessions have ended", lambda: machines.serving("alice") == {})
    assert machines["m1"].query("select count(*) from authreg where realm = ?", DOMAIN) == [(3,)]
    assert not machines.errors()


def test_sqlite_serves_three_machines_too(mesh, tmp_path):
    machines = mesh(start=False, router="stock", database=Sqlite(os.path.join(str(tmp_path), "users.db")))
    machines.start(ready=False)
    login_everywhere(machines)
    assert not machines.errors()


def test_machines_that_do_not_know_each_other_are_not_ready(mesh):
    machines = mesh(start=False, router="stock")
    machines.start(ready=False)
    with pytest.raises(bed.BedError, match="m1 to m2"):
        machines.wait_ready(limit_s=4)


class Echo:
    """A UDP and a TCP service on a machine's peer port, for the faults."""

    def __init__(self, place):
        with place.inside():
            self.tcp = socket.create_server(("0.0.0.0", 5348))
        self.got = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                link, _ = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._read, args=[link], daemon=True).start()

    def _read(self, link):
        try:
            while data := link.recv(65536):
                self.got.append(data)
                link.sendall(data)
        except OSError:
            pass


def connect(place, name, limit_s=1.0):
    with place.inside():
        link = socket.socket()
    link.settimeout(limit_s)
    link.connect((NETWORK + str(number_of(name)), 5348))
    return link


def echoes(link, data=b"x"):
    try:
        link.sendall(data)
        return link.recv(65536)
    except OSError as error:
        return type(error)


@pytest.fixture
def wires(mesh):
    machines = mesh(start=False, router="stock")
    services = {name: Echo(machines.places[name]) for name in NAMES}
    yield machines, services
    for service in services.values():
        service.tcp.close()


def test_a_cut_machine_is_silent_and_the_others_talk_on(wires):
    machines, _ = wires
    hub, places = machines.hub, machines.places
    far, near = connect(places["m2"], "m1"), connect(places["m2"], "m3")
    assert echoes(far) == b"x"
    hub.cut(places["m1"])
    assert echoes(far) is TimeoutError and echoes(near) == b"x"
    hub.heal()
    # What the kernel held comes at its next retransmission.
    far.settimeout(5)
    assert far.recv(10) == b"x"


def test_a_one_way_cut_cuts_one_way(wires):
    machines, services = wires
    link = connect(machines.places["m1"], "m2")
    machines.hub.cut_one_way(machines.places["m2"], machines.places["m1"])
    assert echoes(link, b"one way") is TimeoutError
    assert services["m2"].got == [b"one way"]


def test_resets_reset_and_altered_bytes_are_altered(wires):
    machines, services = wires
    link = connect(machines.places["m2"], "m1")
    assert echoes(link) == b"x"
    alter_byte(machines.places["m1"])
    sent = bytes(400)
    assert echoes(link, sent) == sent[:60] + b"\x5a" + sent[61:] and services["m1"].got[-1] != sent
    clear_faults(machines.places["m1"])
    assert echoes(link, sent) == sent
    fault = threading.Thread(target=reset_peers, args=[machines.places["m1"], 0.5])
    fault.start()
    bed.wait_for("the reset", lambda: echoes(link) in (ConnectionResetError, BrokenPipeError), 0.5)
    fault.join()
    assert echoes(connect(machines.places["m2"], "m1")) == b"x", "new connections work again"


def test_the_capture_sees_every_byte_and_what_the_dialling_side_said(wires):
    machines, _ = wires
    sent = os.urandom(50_000)
    with Capture(machines.hub, machines.places["m1"]) as capture:
        link = connect(machines.places["m2"], "m1", limit_s=5)
        link.sendall(sent)
        got = b""
        while len(got) < len(sent):
            got += link.recv(65536)
        link.close()
        bed.wait_for("the last byte is seen", lambda: capture.dialled(5348) == [(NETWORK + "12", NETWORK + "11", sent)])
    assert sent[:100] in capture.bytes()


def test_a_machine_that_dies_silently_says_nothing_and_comes_back(mesh):
    machines = mesh(start=False, router="stock")
    machines.start(ready=False)
    login_everywhere(machines)
    with machines.places["m1"].inside():
        listener = socket.create_server(("0.0.0.0", 7000))
    with machines.places["m2"].inside():
        link = socket.create_connection((NETWORK + "11", 7000), timeout=1)
    end, _ = listener.accept()
    link.settimeout(1)
    machines.hub.cut(machines.places["m1"])
    end.close()
    listener.close()
    machines.kill("m1", silently=True)
    assert echoes(link) is TimeoutError
    machines.revive("m1")
    login_everywhere(machines)
    # The machine that came back knows nothing of the connection.
    assert echoes(link) in (TimeoutError, ConnectionResetError)
    assert echoes(link) in (ConnectionResetError, BrokenPipeError, TimeoutError)


def test_a_stopped_component_stands_still(mesh):
    machines = mesh(start=False, router="stock")
    machines.start(ready=False)
    login_everywhere(machines)
    sm = machines["m2"].processes["sm"]
    sm.signal(signal.SIGSTOP)
    assert not bed.raw_login("127.0.0.1", 5222, DOMAIN, "ready0", "secret", limit_s=0.5, place=machines.places["m2"])
    sm.signal(signal.SIGCONT)
    machines["m2"].wait_login()
    before = time.monotonic()
    machines["m2"].processes["sm"].restart()
    machines["m2"].wait_login()
    assert time.monotonic() - before < 10
