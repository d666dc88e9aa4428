"""Several machines that serve one domain: each a complete stock jabberd2 in a place of its own, on one bridge, with one database."""

import os
import time

import bed
import templates
from client import Client
from database import Postgres
from place import NETWORK, Hub, Place

DOMAIN = "example.net"
SECRET = "a secret for all nodes of these tests"
NAMES = ("m1", "m2", "m3")
# What the outside world's servers are called, and their addresses.
OUTSIDE = {"chat.example.org": 51, "secure.example.org": 52}
READY_LIMIT_S = 20.0


def number_of(name):
    return 10 + int(name[1:])


def hosts(domain_at=NAMES):
    """Every machine knows every name; the domain's own are at all of its machines, as an operator would have it in DNS, or only at some."""
    lines = ["%s%d %s.example.net %s" % (NETWORK, number_of(name), name, DOMAIN if name in domain_at else "") for name in NAMES]
    return "\n".join(lines + ["%s%d %s" % (NETWORK, number, name) for name, number in OUTSIDE.items()]) + "\n"


class Mesh:
    """The machines `m1`, `m2`, `m3`.

    router: 'jidmesh' or 'stock' (which knows no other machine); s2s: whether they have one each; database: PostgreSQL if not given;
    own: what one machine has that others have not, {name: settings of Stack, `secrets`, `more`}; more: further elements of <mesh>.
    """

    def __init__(self, folder, router="jidmesh", shards=1, s2s=False, database=None, own=None, more="", names=NAMES, **settings):
        self.folder, self.names = folder, names
        self.hub = Hub(folder)
        self.places = {}
        self.database = database or Postgres()
        self.machines = {}
        for name in names:
            mine = {"router": router, **(own or {}).get(name, {})}
            secrets, own_more = mine.pop("secrets", [SECRET]), mine.pop("more", more)
            place = self._place(name)
            extra = ""
            if mine["router"] != "stock":
                extra = templates.mesh(name + ".example.net", secrets, [other + ".example.net" for other in names if other != name], own_more)
            self.machines[name] = bed.Stack(os.path.join(folder, name), shards=shards, s2s="s2s" if s2s else None, place=place,
                                            outside_ip=NETWORK + str(number_of(name)), database=self.database, extra=extra, **{**settings, **mine})

    def _place(self, name):
        place = self.places[name] = Place(name, self.folder, hosts())
        self.hub.attach(place, number_of(name))
        return place

    def __getitem__(self, name):
        return self.machines[name]

    # Life

    def start(self, ready=True):
        for machine in self.machines.values():
            machine.start_all()
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, names=None, limit_s=READY_LIMIT_S):
        """Each machine lets a client in, and a message passes between each two of them, both ways."""
        names = names or self.names
        for name in names:
            self.machines[name].wait_login(limit_s=limit_s)
        end = time.monotonic() + limit_s
        while missing := self._unheard(names):
            if time.monotonic() > end:
                raise bed.BedError("no message within %.0f s: %s\n%s" % (limit_s, missing, self.logs()))
            time.sleep(0.1)

    def _unheard(self, names):
        """Pairs between which no message passes."""
        users = ["probe-%s" % name for name in names]
        known = {user for user, in self.database.query("select username from authreg where username like 'probe-%'")}
        self.database.add_users(*[user for user in users if user not in known], domain=DOMAIN)
        clients, missing = {}, []
        try:
            for name in names:
                clients[name] = bed.RawClient("127.0.0.1", 5222, DOMAIN, "probe-" + name, resource="r", place=self.places[name])
                clients[name].ask("<presence/><iq type='get' id='p'><query xmlns='jabber:iq:roster'/></iq>", b"id='p'")
            for one in names:
                for other in names:
                    if one != other:
                        clients[one].send("<message type='chat' to='probe-%s@%s/r'><body>from %s</body></message>" % (other, DOMAIN, one))
            for other in names:
                for one in names:
                    if one != other and not heard(clients[other], "from %s<" % one):
                        missing.append("%s to %s" % (one, other))
        except OSError as error:
            missing.append(str(error))
        finally:
            for client in clients.values():
                client.close()
        return missing

    def stop(self):
        for machine in self.machines.values():
            machine.stop()
        for place in [*self.places.values(), self.hub]:
            place.close()

    # What befalls machines

    def kill(self, name, silently=False):
        """SIGKILL for all of a machine at once. `silently`: no FIN and no RST reaches anybody else, as when the power fails."""
        if silently:
            self.hub.cut(self.places[name])
        self.machines[name].kill_all()
        if silently:
            self.hub.detach(self.places[name])
            self.hub.heal()

    def revive(self, name):
        """Starts a killed machine again, with a fresh network if its own is gone."""
        if not self.hub.has(self.places[name]):
            self.places[name].close()
            self.machines[name].place = self._place(name)
        self.machines[name].start_all()

    # Clients and sight

    def client(self, jid, where, label=None, **settings):
        """A client `user/resource` on machine `where`, through its loopback: a cut does not separate it from its own machine."""
        user, _, resource = jid.partition("/")
        full = "%s@%s%s" % (user, DOMAIN, "/" + resource if resource else "")
        return Client(full, host="127.0.0.1", place=self.places[where], label=label or user, **settings)

    def serving(self, user):
        """{machine: sessions of the user that its sm has started and not ended}, from the sm logs."""
        counts = {}
        for name, machine in self.machines.items():
            log = machine.processes["sm"].log()
            open_now = log.count("session started: jid=%s@" % user) - log.count("session ended: jid=%s@" % user)
            if open_now:
                counts[name] = open_now
        return counts

    def errors(self):
        """Lines in which a component complains."""
        return ["%s: %s" % (name, line) for name, machine in self.machines.items() for key, process in machine.processes.items() if key != "router"
                for line in process.log().splitlines() if "[error]" in line]

    def logs(self, lines=8):
        return "\n".join("===== %s\n%s" % (name, machine.logs(lines)) for name, machine in self.machines.items())

    def keep_logs(self, target):
        for name, machine in self.machines.items():
            machine.keep_logs(os.path.join(target, name))


def heard(client, text):
    """Whether the text comes; what comes in another order stays to be read."""
    wanted = text.encode()
    try:
        while wanted not in client.got:
            data = client.socket.recv(65536)
            if not data:
                return False
            client.got += data
    except OSError:
        return False
    return True
