"""A machine under test: a router (stock or jidmesh) with Debian's real sm, c2s and s2s, on a loopback address of its own.

Every wait has a limit, only processes started here are ended, and a test that fails keeps its logs in `tests/logs`.
"""

import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request

import templates

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
JIDMESH = os.environ.get("JIDMESH_BINARY", os.path.join(ROOT, "target/release/jidmesh"))
STOCK = "/usr/sbin/jabberd2-router"
PORT = 5347
METRICS_PORT = 9347
READY_LIMIT_S = 15.0
END_LIMIT_S = 5.0
# jidmesh's grace period in tests: longer than a component's retry sleep (1 s), short enough to wait for.
GRACE_S = 4


class BedError(AssertionError):
    """A machine did not do what the test needs before the test proper can begin."""


class Process:
    """A child with its log; `name` is the file's name."""

    def __init__(self, name, arguments, folder, env=None, user=None):
        self.name, self.arguments, self.folder, self.env, self.user = name, arguments, folder, env, user
        self.log_path = os.path.join(folder, name + ".log")
        self.child = None
        self.start()

    def start(self):
        with open(self.log_path, "ab") as log:
            self.child = subprocess.Popen(self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
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

    router: 'stock' or 'jidmesh'; shards: for jidmesh; sms, c2ss: ids; domains: served by every sm; ip: its loopback address.
    ports: router port that a component uses instead of the router's own, by component id (a forwarder in between).
    """

    def __init__(self, folder, router="stock", shards=1, sms=("sm",), c2ss=("c2s",), s2s=None, domains=("example.net",), ip="127.0.0.1",
                 ports=None, pemfile=None, aliases=(), filter_rules=None, users=(), acls="", extra="", grace_s=GRACE_S, io="", check="",
                 component_pemfile=None, wrap=None):
        self.folder, self.kind, self.shards = os.path.join(folder, ip), router, shards
        self.sms, self.c2ss, self.s2s, self.domains, self.ip = list(sms), list(c2ss), s2s, list(domains), ip
        self.ports, self.component_pemfile, self.grace_s = ports or {}, component_pemfile, grace_s
        self.processes = {}
        self.database = os.path.join(self.folder, "sqlite.db")
        self.wrap = wrap
        os.makedirs(self.folder)
        self.router_settings = dict(pemfile=pemfile, aliases=aliases, filtered=filter_rules is not None, acls=acls, io=io, check=check)
        self.extra = extra
        self._write("users.xml", templates.users(users))
        if filter_rules is not None:
            self.write_filter(filter_rules)
        self.write_router()
        self._database()

    # Life

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.start_router()
        for name in [*self.sms, *self.c2ss, *([self.s2s] if self.s2s else [])]:
            self.start_component(name)
        if self.sms and self.c2ss:
            for index in range(len(self.c2ss)):
                self.wait_login(c2s=index)
        return self

    def stop(self):
        order = [name for name in self.processes if name != "router"] + ["router"]
        for name in order:
            if name in self.processes:
                self.processes[name].kill()

    def start_router(self):
        config = os.path.join(self.folder, "router.xml")
        if self.kind == "stock":
            arguments = [STOCK, "-c", config]
        else:
            if not os.access(JIDMESH, os.X_OK):
                raise BedError("there is no %s: build it first (cargo build --release)" % JIDMESH)
            arguments = [JIDMESH, "run", "-c", config]
        # A killed router's ring, and the listener in it, outlive the process by a moment: it must not pass for the new one.
        wait_for("the former router's port is free", lambda: not listens(self.ip, PORT))
        self.processes["router"] = Process("router", (self.wrap or []) + arguments, self.folder)
        wait_for("the router listens on %s:%d; its log:\n%s" % (self.ip, PORT, ""), self._listens, READY_LIMIT_S)
        return self.processes["router"]

    def _listens(self):
        if not self.router.alive():
            raise BedError("the router ended with status %s:\n%s" % (self.router.child.returncode, self.router.log()))
        # Looks at the kernel's table: a probing connection would show in logs and counters.
        return listens(self.ip, PORT)

    def start_component(self, name):
        link = templates.router_link(self.ip, self.ports.get(name, PORT), self.component_pemfile)
        if name in self.sms:
            binary, text = "sm", templates.sm(name, link, self.domains, self.database, 4000)
        elif name in self.c2ss:
            binary, text = "c2s", templates.c2s(name, link, self.domains, self.database, 4000, self.ip, self.c2s_port(name))
        else:
            binary, text = "s2s", templates.s2s(name, link, self.ip)
        path = self._write(name + ".xml", text)
        self.processes[name] = Process(name, ["/usr/sbin/jabberd2-" + binary, "-c", path], self.folder)
        return self.processes[name]

    @property
    def router(self):
        return self.processes["router"]

    def c2s_port(self, name=None):
        return 5222 + (self.c2ss.index(name) if name else 0)

    # Configuration

    def write_router(self):
        extra = self.extra
        if self.kind == "jidmesh":
            extra += "<tuning shards='%d'/><grace>%d</grace><admin>%s/admin.sock</admin><metrics><ip>%s</ip><port>%d</port></metrics>" % (
                self.shards, self.grace_s, self.folder, self.ip, METRICS_PORT)
        self._write("router.xml", templates.router(self.ip, PORT, self.folder, extra=extra, **self.router_settings))

    def write_filter(self, rules):
        self._write("filter.xml", "<filter>%s</filter>" % rules)

    def _write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    # Database

    def _database(self):
        shutil.copy(template_database(), self.database)

    def add_users(self, *names, password="secret", domain=None):
        domain = domain or self.domains[0]
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as database, database:
            for name in names:
                database.execute("insert into authreg(username, realm, password) values(?,?,?)", (name, domain, password))
                database.execute('insert into active("collection-owner", time) values(?, 1)', ("%s@%s" % (name, domain),))

    def add_contacts(self, owner, contacts):
        """Mutual subscriptions, both ways, straight into the database (before anybody logs in)."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as database, database:
            for contact in contacts:
                for one, other in ((owner, contact), (contact, owner)):
                    database.execute('insert into "roster-items"("collection-owner", jid, name, "to", "from", ask) values(?,?,?,1,1,0)',
                                     (one, other, ""))

    def query(self, sql, *values):
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as database:
            return database.execute(sql, values).fetchall()

    # Readiness and sight

    def wait_login(self, c2s=0, limit_s=READY_LIMIT_S):
        """Ready means: a throw-away user gets an answer to its resource bind."""
        name = "ready%d" % c2s
        if not self.query("select 1 from authreg where username = ?", name):
            self.add_users(name)
        end = time.monotonic() + limit_s
        while not raw_login(self.ip, 5222 + c2s, self.domains[0], name, "secret"):
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

    def metrics(self):
        """The metrics page: {'name{labels}': value}. jidmesh only."""
        with urllib.request.urlopen("http://%s:%d/metrics" % (self.ip, METRICS_PORT), timeout=5) as page:
            text = page.read().decode()
        return {key: float(value) for key, value in re.findall(r"^([a-z_]+(?:\{[^}]*\})?) ([0-9.eE+-]+)$", text, re.M)}

    def metric(self, name):
        return self.metrics().get(name, 0.0)


def listens(ip, port):
    packed = "%08X" % int.from_bytes(socket.inet_aton(ip), "little")
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file]
    return any(row[1] in ("%s:%04X" % (packed, port), "00000000:%04X" % port) and row[3] == "0A" for row in rows[1:])


_template_lock = threading.Lock()


def template_database():
    """An empty jabberd2 database in WAL mode, made once a run."""
    path = os.path.join(os.environ["JIDMESH_CAGE"], "template.db")
    with _template_lock:
        if not os.path.exists(path):
            schema = subprocess.run(["zcat", "/usr/share/doc/jabberd2/db-setup.sqlite.gz"], check=True, capture_output=True, text=True).stdout
            with contextlib.closing(sqlite3.connect(path + ".new")) as database:
                database.execute("pragma journal_mode=wal")
                database.executescript("pragma synchronous=off;" + schema)
            os.rename(path + ".new", path)
    return path


STREAM_HEADER = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='%s' version='1.0'>"


def raw_login(ip, port, domain, user, password, limit_s=1.0):
    """True when the server answers a resource bind; any error or silence of `limit_s` is False."""
    try:
        with socket.create_connection((ip, port), timeout=limit_s) as link:
            link.settimeout(limit_s)
            token = base64.b64encode(("\0%s\0%s" % (user, password)).encode()).decode()
            header = STREAM_HEADER % domain
            for text, answer in ((header, b"</stream:features>"),
                                 ("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>" % token, b"<success"),
                                 (header, b"</stream:features>"),
                                 ("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>", b"id='b'")):
                link.sendall(text.encode())
                got = b""
                while answer not in got:
                    data = link.recv(65536)
                    if not data or b"<stream:error" in got + data or b"<failure" in got + data:
                        return False
                    got += data
            link.sendall(b"</stream:stream>")
            return True
    except OSError:
        return False
