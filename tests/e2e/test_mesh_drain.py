"""A machine that goes out of service while its users are online, and comes back."""

import re
import urllib.error
import urllib.request

import pytest

import bed
from bed import wait_for
from mesh import DOMAIN
from test_mesh_operator import all_ready, command

# In attached mode a drain is refused.
pytestmark = [pytest.mark.mesh, pytest.mark.router_mode, pytest.mark.timeout(120)]
USERS = ["ann", "bob", "cid", "dan"]


class Device:
    """Logs in at `first`; whenever its connection ends, at `then`, as a client that asks the DNS for another machine."""

    def __init__(self, machines, user, first, then):
        self.machines, self.user, self.then = machines, user, then
        self.ends, self.read = 0, b""
        self.client = self._login(first)

    def _login(self, where):
        client = bed.RawClient("127.0.0.1", 5222, DOMAIN, self.user, resource="r", place=self.machines.places[where], limit_s=10)
        client.send("<presence/>")
        client.socket.setblocking(False)
        self.read += client.got
        return client

    def look(self):
        """Reads what is there, and logs in again when the connection has ended."""
        try:
            while data := self.client.socket.recv(65536):
                self.read += data
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        self.client.socket.close()
        self.ends += 1
        self.client = self._login(self.then)

    def numbers(self):
        return [int(number) for number in re.findall(rb"<body>number (\d+)</body>", self.read)]


def readyz(machine):
    """(status, text)"""
    try:
        with machine.place.inside(), urllib.request.urlopen("http://%s:%d/readyz" % (machine.ip, bed.METRICS_PORT), timeout=5) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None, "nobody answers"


def test_a_drained_machine_loses_its_users_to_the_other_and_no_message(mesh):
    machines = mesh(shards=2, names=("m1", "m2"))
    m1, m2 = machines["m1"], machines["m2"]
    wait_for("both are ready", lambda: all_ready(machines, ("m1", "m2")), 10)
    m1.add_users(*USERS, "eve")
    devices = {user: Device(machines, user, "m1", "m2") for user in USERS}
    sender = bed.RawClient("127.0.0.1", 5222, DOMAIN, "eve", resource="r", place=machines.places["m2"], limit_s=10)
    sent = 0
    assert readyz(m1) == (200, "ready\n")
    code, said = command(m1, "drain", "--rate", "2/s", "--to", "m2.example.net")
    assert code == 0 and said.startswith("draining"), said
    assert m1.status()["drain"]["rate_per_s"] == 2
    wait_for(lambda: "it is not ready: %s" % (readyz(m1),), lambda: readyz(m1) == (503, "draining\n"))

    def all_moved():
        nonlocal sent
        sender.send("<message type='chat' to='ann@%s'><body>number %d</body></message>" % (DOMAIN, sent))
        sent += 1
        for device in devices.values():
            device.look()
        return all(device.ends == 1 for device in devices.values())

    wait_for(lambda: "each was ended once: %s" % {user: device.ends for user, device in devices.items()}, all_moved, 30)
    wait_for(lambda: "all are served by the other: %s" % [machines.serving(user) for user in USERS],
             lambda: all(machines.serving(user) == {"m2": 1} for user in USERS), 10)
    sender.send("<message type='chat' to='ann@%s'><body>number %d</body></message>" % (DOMAIN, sent))

    def all_arrived():
        devices["ann"].look()
        return sent in devices["ann"].numbers()

    wait_for("the last message arrives", all_arrived)
    assert devices["ann"].numbers() == list(range(sent + 1)), "each message once, in order"

    code, said = command(m2, "drain")
    assert code == 1 and "last node in service" in said, said
    wait_for(lambda: "it is drained: %s" % m1.status()["drain"], lambda: m1.status()["drain"]["done"], 40)
    login = ("127.0.0.1", 5222, DOMAIN, "bob", "secret", 2.0, machines.places["m1"])
    assert not bed.raw_login(*login), "c2s takes nobody any more"
    # A restart does not bring it back; its operator does.
    m1.router.stop()
    m1.start_router()
    wait_for("it runs again", lambda: readyz(m1)[1].endswith("draining\n"), 10)
    code, said = command(m1, "drain", "--abort")
    assert code == 0 and said.startswith("in service again"), said
    wait_for("it lets users in", lambda: bed.raw_login(*login), 20)
    wait_for(lambda: "it is ready: %s" % (readyz(m1),), lambda: readyz(m1) == (200, "ready\n"), 10)
    assert [device.ends for device in devices.values()] == [1] * len(USERS), "nobody else was disturbed"
