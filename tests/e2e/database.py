"""The users' database of one domain: SQLite in a file, or a database of a PostgreSQL server that runs in the cage."""

import contextlib
import glob
import os
import sqlite3
import subprocess
import threading

BUSY_TIMEOUT_MS = 4000
PORT = 5499
LIMIT_S = 30.0
_lock = threading.Lock()
_server = []


class Database:
    """What tests do with it, in terms of `execute` and `query`."""

    def add_users(self, *names, domain, password="secret"):
        self.execute(*(statement for name in names for statement in (
            ("insert into authreg(username, realm, password) values(?,?,?)", name, domain, password),
            ('insert into active("collection-owner", time) values(?, 1)', "%s@%s" % (name, domain)))))

    def add_contacts(self, owner, contacts):
        """Mutual subscriptions, both ways, straight into the database (before anybody logs in)."""
        self.execute(*(('insert into "roster-items"("collection-owner", jid, name, "to", "from", ask) values(?,?,?,{0},{0},0)'.format(self.TRUE), *pair, "")
                       for contact in contacts for pair in ((owner, contact), (contact, owner))))


class Sqlite(Database):
    TRUE = "1"

    def __init__(self, path):
        self.path = path
        with open(template(), "rb") as source, open(path, "wb") as target:
            target.write(source.read())

    def storage(self):
        return """<driver>sqlite</driver><sqlite><dbname>%s</dbname><busy-timeout>%d</busy-timeout></sqlite>""" % (self.path, BUSY_TIMEOUT_MS)

    def authreg(self):
        return """<module>sqlite</module><sqlite><dbname>%s</dbname><busy-timeout>%d</busy-timeout><password_type><plaintext/></password_type></sqlite>""" % (
            self.path, BUSY_TIMEOUT_MS)

    def execute(self, *statements):
        with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as database, database:
            for sql, *values in statements:
                database.execute(sql, values)

    def query(self, sql, *values):
        with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as database:
            return database.execute(sql, values).fetchall()


def template():
    """An empty jabberd2 database in WAL mode, made once a run."""
    path = os.path.join(os.environ["JIDMESH_CAGE"], "template.db")
    with _lock:
        if not os.path.exists(path):
            with contextlib.closing(sqlite3.connect(path + ".new")) as database:
                database.execute("pragma journal_mode=wal")
                database.executescript("pragma synchronous=off;" + schema("sqlite"))
            os.rename(path + ".new", path)
    return path


def schema(kind):
    return subprocess.run(["zcat", "/usr/share/doc/jabberd2/db-setup.%s.gz" % kind], check=True, capture_output=True, text=True).stdout


class Postgres(Database):
    """One database on the cage's server, reached through a Unix socket: no fault of the network separates a machine from it."""

    TRUE = "true"
    count = 0

    def __init__(self):
        self.folder = server()
        Postgres.count += 1
        self.name = "jabberd2_%d" % Postgres.count
        psql(self.folder, "postgres", "create database %s template jabberd2" % self.name)

    def _connection(self):
        return "host=%s port=%d dbname=%s user=jabberd2" % (self.folder, PORT, self.name)

    # Without <transactions/>: with it, two sm make the server refuse each other's rows, and sm does not try again.
    def storage(self):
        return "<driver>pgsql</driver><pgsql><conninfo>%s</conninfo><schema>public</schema></pgsql>" % self._connection()

    def authreg(self):
        return "<module>pgsql</module><pgsql><conninfo>%s</conninfo><password_type><plaintext/></password_type></pgsql>" % self._connection()

    def execute(self, *statements):
        psql(self.folder, self.name, "begin;" + "".join(bound(*statement) + ";" for statement in statements) + "commit", "jabberd2")

    def query(self, sql, *values):
        rows = psql(self.folder, self.name, bound(sql, *values), "jabberd2")
        return [tuple(int(value) if value.isdigit() else value for value in row.split("\x1f")) for row in rows.split("\x1e")[:-1]]


def bound(sql, *values):
    """The statement with its values in place of the question marks."""
    parts = sql.split("?")
    assert len(parts) == len(values) + 1, sql
    quoted = ["'%s'" % str(value).replace("'", "''") for value in values] + [""]
    return "".join(part + value for part, value in zip(parts, quoted))


def psql(folder, database, sql, user="postgres"):
    done = subprocess.run(["psql", "-q", "-X", "-A", "-t", "-F", "\x1f", "-R", "\x1e", "-v", "ON_ERROR_STOP=1", "-h", folder, "-p", str(PORT), "-U", user, database],
                          input=sql + ";\n", capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    # The last row ends with a line feed instead of a separator.
    return done.stdout[:-1] + "\x1e" if done.stdout else ""


def server():
    """The folder of the server's socket; starts it at the first call. It ends with the cage."""
    folder = os.path.join(os.environ["JIDMESH_CAGE"], "pg")
    with _lock:
        if _server:
            return folder
        binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "env", "-i", "PATH=%s:/usr/bin:/bin" % binaries, "LC_ALL=C.UTF-8"]

        def run(*arguments):
            subprocess.run([*as_postgres, *arguments], cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=LIMIT_S)

        subprocess.run(["install", "-d", "-o", "postgres", "-g", "postgres", folder], check=True)
        run("initdb", "-D", folder + "/data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-D", folder + "/data", "-l", folder + "/log", "-w", "-t", "20", "-o",
            "-c listen_addresses='' -c unix_socket_directories=%s -c port=%d -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
            " -c max_connections=100" % (folder, PORT), "start")
        psql(folder, "postgres", "create role jabberd2 login; create database jabberd2 owner jabberd2")
        psql(folder, "jabberd2", schema("pgsql"), "jabberd2")
        _server.append(True)
    return folder
