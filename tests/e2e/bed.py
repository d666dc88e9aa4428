"""A machine under test: a router (stock or jidmesh) with Debian's real sm, c2s and s2s, on a loopback address or in a place of its own.

Every wait has a limit, only processes started here are ended, and a test that fails keeps its logs in `tests/logs`.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import templates
from database import Sqlite
from place import HOME

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
JIDMESH = os.environ.get("JIDMESH_BINARY", os.path.join(ROOT, "target/release/jidmesh"))
STOCK = "/usr/sbin/jabberd2-router"
PORT = 5347
# Of jidmesh in attached mode, where the stock router has the other.
ATTACHED_PORT = 5346
METRICS_PORT = 9347
READY_LIMIT_S = 15.0
END_LIMIT_S = 5.0
# jidmesh's grace period in tests: longer than a component's retry sleep (1 s), short enough to wait for.
GRACE_S = 4


class BedError(AssertionError):
    """A machine did not do what the test needs before the test proper can begin."""


class Process:
    """A child with its log; `name` is the file's name."""

    def __init__(self, name, arguments, folder, env=None, user=None, place=HOME):
        self.name, self.arguments, self.folder, self.env, self.user, self.place = name, arguments, folder, env, user, place
        self.log_path = os.path.join(folder, name + ".log")
        self.child = None
        self.start()

    def start(self):
        with open(self.log_path, "ab") as log:
            self.child = subprocess.Popen(self.place.command(self.arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                                          env=self.env, user=self.user, start_new_session=True)

    @property
    def pid(self):
        return self.child.pid

    def alive(self):
        return self.child.poll() is None

    def signal(self, number):
        self.child.send_signal(number)

    def kill(self):
        """SIGKILL, and gone when this returns."""
        if self.alive():
            self.child.kill()
        self.child.wait(END_LIMIT_S)

    def stop(self):
        """SIGTERM, SIGKILL after a limit; returns the exit status."""
        if self.alive():
            self.child.send_signal(signal.SIGCONT)
            self.child.terminate()
            try:
                self.child.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return self.child.wait(END_LIMIT_S)

    def restart(self):
        self.kill()
        self.start()

    def cpu_s(self):
        """CPU seconds used so far by the threads that live, to the nanosecond."""
        total = 0
        for thread in os.listdir("/proc/%d/task" % self.pid):
            with open("/proc/%d/task/%s/schedstat" % (self.pid, thread), encoding="ascii") as file:
                total += int(file.read().split()[0])
        return total / 1e9

    def memory_bytes(self):
        with open("/proc/%d/statm" % self.pid, encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()


def wait_for(what, condition, limit_s=5.0, step_s=0.02):
    """Polls until `condition()` is true and returns its value; fails with `what` after the limit."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("not within %.1f s: %s" % (limit_s, what() if callable(what) else what))
        time.sleep(step_s)


class Stack:
    """One machine.

    router: 'stock', 'jidmesh', or 'attached' (the stock router with c2s and s2s, attached to it jidmesh with sm); shards: for jidmesh; sms, c2ss: ids; domains: served by every sm; ip: its loopback address.
    ports: router port that a component uses instead of the router's own, by component id (a forwarder in between).
    place: where all of it runs; outside_ip: where its s2s listens; database: the users' (its own SQLite file if not given).
    """

    def __init__(self, folder, router="stock", shards=1, sms=("sm",), c2ss=("c2s",), s2s=None, domains=("example.net",), ip="127.0.0.1",
                 ports=None, pemfile=None, tls="", aliases=(), filter_rules=None, users=(), acls="", extra="", grace_s=GRACE_S, io="", check="",
                 component_pemfile=None, wrap=None, place=HOME, outside_ip=None, s2s_pemfile=None, database=None,
                 stock_pemfile=None):
        self.folder, self.kind, self.shards = os.path.join(folder, ip), router, shards
        self.sms, self.c2ss, self.s2s, self.domains, self.ip = list(sms), list(c2ss), s2s, list(domains), ip
        self.ports, self.component_pemfile, self.grace_s = ports or {}, component_pemfile, grace_s
        self.processes = {}
        self.wrap, self.place, self.outside_ip, self.s2s_pemfile = wrap, place, outside_ip or ip, s2s_pemfile
        os.makedirs(self.folder)
        self.database = database or Sqlite(os.path.join(self.folder, "sqlite.db"))
        self.router_settings = dict(pemfile=pemfile, tls=tls, aliases=aliases, filtered=filter_rules is not None, acls=acls, io=io, check=check)
        self.extra, self.stock_pemfile, self.uplink_certificate = extra, stock_pemfile, stock_pemfile
        self._write("users.xml", templates.users(users))
        if filter_rules is not None:
            self.write_filter(filter_rules)
        self.write_router()

    # Life

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    def start_all(self):
        """Starts everything, and does not wait for logins."""
        self.start_router()
        for name in [*self.sms, *self.c2ss, *([self.s2s] if self.s2s else [])]:
            self.start_component(name)

    def start(self):
        self.start_all()
        if self.sms and self.c2ss:
            for index in range(len(self.c2ss)):
                self.wait_login(c2s=index)
        return self

    def stop(self):
        last = [name for name in ("router", "stock") if name in self.processes]
        order = [name for name in self.processes if name not in last] + last
        for name in order:
            if name in self.processes:
                self.processes[name].kill()

    def kill_all(self):
        """SIGKILL for all processes, then waits for their ends."""
        for process in self.processes.values():
            if process.alive():
                process.child.kill()
        for process in self.processes.values():
            process.kill()

    @property
    def attached(self):
        return self.kind == "attached"

    @property
    def port(self):
        """Where the router under test listens."""
        return ATTACHED_PORT if self.attached else PORT

    def start_stock(self):
        """The stock router of a machine in attached mode."""
        wait_for("the former router's port is free", lambda: not listens(self.ip, PORT, self.place))
        self.processes["stock"] = Process("stock", [STOCK, "-c", os.path.join(self.folder, "stock.xml")], self.folder, place=self.place)
        wait_for("the stock router listens", lambda: listens(self.ip, PORT, self.place), READY_LIMIT_S)
        return self.processes["stock"]

    def start_router(self):
        config = os.path.join(self.folder, "router.xml")
        if self.attached and not ("stock" in self.processes and self.processes["stock"].alive()):
            self.start_stock()
        if self.kind == "stock":
            arguments = [STOCK, "-c", config]
        else:
            if not os.access(JIDMESH, os.X_OK):
                raise BedError("there is no %s: build it first (cargo build --release)" % JIDMESH)
            arguments = [JIDMESH, "run", "-c", config]
        # A killed router's ring, and the listener in it, outlive the process by a moment: it must not pass for the new one.
        wait_for("the former router's port is free", lambda: not listens(self.ip, self.port, self.place))
        self.processes["router"] = Process("router", (self.wrap or []) + arguments, self.folder, place=self.place)
        wait_for("the router listens on %s:%d" % (self.ip, self.port), self._listens, READY_LIMIT_S)
        if self.kind != "stock":
            # It listens for components first.
            wait_for("the router answers its operator", self.answers, READY_LIMIT_S)
        return self.processes["router"]

    def take_over(self, limit_s=READY_LIMIT_S):
        """Another jidmesh takes over from the one that runs; returns when that one has ended."""
        old, config = self.router, os.path.join(self.folder, "router.xml")
        new = Process("router", [JIDMESH, "run", "--takeover", "-c", config], self.folder, place=self.place)
        wait_for(lambda: "the former router has ended:\n" + new.log(), lambda: not old.alive() or not new.alive(), limit_s)
        if not new.alive():
            raise BedError("the new router ended with status %s:\n%s" % (new.child.returncode, new.log()))
        assert old.child.returncode == 0, old.log()
        self.processes["router"] = new
        wait_for("the new router answers", self.answers, limit_s)
        return new

    def answers(self):
        try:
            return self.status() and self.metrics()
        except OSError:
            return None

    def _listens(self):
        if not self.router.alive():
            raise BedError("the router ended with status %s:\n%s" % (self.router.child.returncode, self.router.log()))
        # Looks at the kernel's table: a probing connection would show in logs and counters.
        return listens(self.ip, self.port, self.place)

    def start_component(self, name):
        port = self.port if name in self.sms else PORT
        link = templates.router_link(self.ip, self.ports.get(name, port), self.component_pemfile)
        if name in self.sms:
            binary, text = "sm", templates.sm(name, link, self.domains, self.database.storage())
        elif name in self.c2ss:
            binary, text = "c2s", templates.c2s(name, link, self.domains, self.database.authreg(), self.ip, self.c2s_port(name))
        else:
            binary, text = "s2s", templates.s2s(name, link, self.outside_ip, self.s2s_pemfile)
        path = self._write(name + ".xml", text)
        self.processes[name] = Process(name, ["/usr/sbin/jabberd2-" + binary, "-c", path], self.folder, place=self.place)
        return self.processes[name]

    @property
    def router(self):
        return self.processes["router"]

    def c2s_port(self, name=None):
        return 5222 + (self.c2ss.index(name) if name else 0)

    # Configuration

    def write_router(self, uplink_user=None, acls=None):
        """uplink_user: as whom jidmesh logs in at the stock router, who knows that user and gives it these rights."""
        extra = self.extra
        if self.kind != "stock":
            extra += "<tuning shards='%d'/><grace>%d</grace><admin>%s/admin.sock</admin><metrics><ip>%s</ip><port>%d</port></metrics>" % (
                self.shards, self.grace_s, self.folder, self.ip, METRICS_PORT)
        if self.attached:
            extra += templates.uplink(self.ip, self.ports.get("uplink", PORT), uplink_user or templates.USER, self.uplink_certificate)
            self._write("users.xml", templates.users([(uplink_user, templates.PASSWORD)] if uplink_user else ()))
            self._write("stock.xml", templates.router(self.ip, PORT, self.folder, acls=acls or "", pemfile=self.stock_pemfile))
        self._write("router.xml", templates.router(self.ip, self.port, self.folder, extra=extra, **self.router_settings))

    def write_filter(self, rules):
        self._write("filter.xml", "<filter>%s</filter>" % rules)

    def _write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    # Database

    def add_users(self, *names, password="secret", domain=None):
        self.database.add_users(*names, domain=domain or self.domains[0], password=password)

    def add_contacts(self, owner, contacts):
        self.database.add_contacts(owner, contacts)

    def query(self, sql, *values):
        return self.database.query(sql, *values)

    # Readiness and sight

    def wait_login(self, c2s=0, limit_s=READY_LIMIT_S):
        """Ready means: a throw-away user gets an answer to its resource bind."""
        name = "ready%d" % c2s
        if not self.query("select 1 from authreg where username = ?", name):
            self.add_users(name)
        end = time.monotonic() + limit_s
        while not raw_login(self.ip, 5222 + c2s, self.domains[0], name, "secret", place=self.place):
            for process in self.processes.values():
                if not process.alive():
                    raise BedError("%s ended with status %s:\n%s" % (process.name, process.child.returncode, process.log()))
            if time.monotonic() > end:
                raise BedError("no login within %.0f s\n%s" % (limit_s, self.logs()))
            time.sleep(0.03)

    def logs(self, lines=15):
        return "\n".join("--- %s\n%s" % (name, "\n".join(process.log().splitlines()[-lines:])) for name, process in self.processes.items())

    def keep_logs(self, target):
        os.makedirs(target, exist_ok=True)
        for name in os.listdir(self.folder):
            if name.endswith((".log", ".xml", ".txt")):
                shutil.copy(os.path.join(self.folder, name), os.path.join(target, name))

    def status(self):
        """What the admin socket answers. jidmesh only."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            link.connect(self.folder + "/admin.sock")
            link.sendall(b'{"cmd":"status"}\n')
            with link.makefile("r", encoding="utf-8") as answer:
                return json.loads(answer.readline())["status"]

    def metrics(self):
        """The metrics page: {'name{labels}': value}. jidmesh only."""
        with self.place.inside(), urllib.request.urlopen("http://%s:%d/metrics" % (self.ip, METRICS_PORT), timeout=5) as page:
            text = page.read().decode()
        return {key: float(value) for key, value in re.findall(r"^([a-z_]+(?:\{[^}]*\})?) ([0-9.eE+-]+)$", text, re.M)}

    def metric(self, name):
        return self.metrics().get(name, 0.0)


@contextlib.contextmanager
def users_load(started, limit_s, *arguments):
    """`jidmesh load users --whole` from when `started` is true; it must not have ended with the block, and ends well. It checks each frame:
    with one that is lost, doubled or overtaken it fails."""
    load = [JIDMESH, "load", "users", "--whole", "--active", "500", "--sm", "3", "--quiet", *arguments]
    with subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as generator:
        try:
            wait_for("traffic", started, limit_s)
            yield
            assert generator.poll() is None, "it had come to its end before: %s" % generator.stdout.read()
            output, _ = generator.communicate(timeout=40)
        finally:
            generator.kill()
    assert generator.returncode == 0, output


def listens(ip, port, place=HOME):
    packed = "%08X" % int.from_bytes(socket.inet_aton(ip), "little")
    with open(place.proc_net() + "/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file]
    return any(row[1] in ("%s:%04X" % (packed, port), "00000000:%04X" % port) and row[3] == "0A" for row in rows[1:])


STREAM_HEADER = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='%s' version='1.0'>"


class RawClient:
    """A client of sockets alone: blocking, each wait at most `limit_s`; OSError when the server says no or nothing."""

    def __init__(self, ip, port, domain, user, password="secret", resource=None, limit_s=1.0, place=HOME):
        with place.inside():
            self.socket = socket.create_connection((ip, port), timeout=limit_s)
        self.got = b""
        try:
            self._login(domain, user, password, "<resource>%s</resource>" % resource if resource else "")
        except BaseException:
            self.socket.close()
            raise

    def _login(self, domain, user, password, resource):
        header = STREAM_HEADER % domain
        token = base64.b64encode(("\0%s\0%s" % (user, password)).encode()).decode()
        self.ask(header, b"</stream:features>")
        self.ask("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>" % token, b"<success")
        self.ask(header, b"</stream:features>")
        self.ask("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>%s</bind></iq>" % resource, b"id='b'")

    def send(self, text):
        self.socket.sendall(text.encode())

    def ask(self, text, answer):
        """Sends, and reads until `answer` has come."""
        self.send(text)
        self.read_until(answer)

    def read_until(self, wanted):
        while wanted not in self.got:
            data = self.socket.recv(65536)
            self.got += data
            if not data or b"<stream:error" in self.got or b"<failure" in self.got:
                raise ConnectionError(self.got[-300:])
        self.got = self.got[self.got.index(wanted) + len(wanted):]

    def close(self):
        try:
            self.send("</stream:stream>")
        finally:
            self.socket.close()


def raw_login(ip, port, domain, user, password, limit_s=1.0, place=HOME):
    """True when the server answers a resource bind; any error or silence of `limit_s` is False."""
    try:
        RawClient(ip, port, domain, user, password, limit_s=limit_s, place=place).close()
        return True
    except OSError:
        return False
