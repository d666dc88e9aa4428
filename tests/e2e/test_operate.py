"""The operator's side: Debian's configuration files untouched, command line, status, signals, logs, and what is refused and why."""

import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import time
import urllib.request

import pytest

import bed
import templates
from native import Foreign, Native

DEBIAN = "/etc/jabberd2"
DEBIAN_DOMAIN = "localhost.localdomain"
LOG = "/var/log/jabberd2/router.log"
PID_FILE = "/run/jabberd2/router.pid"
SOCKET = "/run/jidmesh/admin.sock"
# An address of this machine that is not a loopback address, in both families.
AWAY, AWAY_6 = "10.9.8.7", "fd00::7"
NOBODY = 65534
# Most CPU of a router whose components have nothing to say.
IDLE_SHARE_MAX = 0.005
IDLE_S = float(os.environ.get("IDLE_S", "10"))
pytestmark = pytest.mark.jidmesh


@pytest.fixture
def debian():
    """The folders of a fresh Debian installation with a database, as an administrator makes it. Gone after the test."""
    owner = "mode=750,uid=%s,gid=%s" % jabber()
    mounts = [("/run", "mode=755"), ("/var/lib/jabberd2", owner), ("/var/log/jabberd2", owner)]
    done = []
    try:
        for folder, options in mounts:
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
            done.append(folder)
        # What RuntimeDirectory= and the package's init script make.
        for folder in (os.path.dirname(SOCKET), os.path.dirname(PID_FILE)):
            os.mkdir(folder)
            os.chown(folder, *jabber())
        as_jabber = ["setpriv", "--reuid=jabber", "--regid=jabber", "--clear-groups"]
        subprocess.run([*as_jabber, "sh", "-c", "zcat /usr/share/doc/jabberd2/db-setup.sqlite.gz | sqlite3 /var/lib/jabberd2/sqlite.db"],
                       check=True, stdout=subprocess.DEVNULL)
        with Processes() as processes:
            yield processes
    finally:
        for folder in reversed(done):
            subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def folder():
    """An empty folder that everybody may read."""
    path = os.path.join(os.environ["JIDMESH_CAGE"], "operate")
    os.mkdir(path)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def processes():
    with Processes() as processes:
        yield processes


@pytest.fixture
def away():
    """Addresses of this machine's own that are not loopback addresses."""
    subprocess.run(["ip", "addr", "add", AWAY + "/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "-6", "addr", "add", AWAY_6 + "/128", "dev", "lo", "nodad"], check=True)
    yield
    subprocess.run(["ip", "addr", "del", AWAY + "/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "-6", "addr", "del", AWAY_6 + "/128", "dev", "lo"], check=True)


class Processes:
    """What a test started: all of it is gone afterwards."""

    def __init__(self):
        self.all = []
        self.outputs = os.path.join(os.environ["JIDMESH_CAGE"], "outputs")

    def __enter__(self):
        os.mkdir(self.outputs)
        return self

    def __exit__(self, *_):
        for process in self.all:
            process.kill()
        shutil.rmtree(self.outputs)

    def start(self, name, *arguments, user=None):
        """`user`: a name, or a number; without one, root."""
        if user is not None:
            group = user if isinstance(user, str) else str(user)
            arguments = ("setpriv", "--reuid=%s" % user, "--regid=%s" % group, "--clear-groups", *arguments)
        process = bed.Process("%s-%d" % (name, len(self.all)), list(arguments), self.outputs)
        self.all.append(process)
        return process

    def jidmesh(self, *arguments, user=None, port=bed.PORT):
        """A router that listens."""
        bed.wait_for("the port is free", lambda: not bed.listens("127.0.0.1", port))
        process = self.start("jidmesh", bed.JIDMESH, *arguments, user=user)
        bed.wait_for(lambda: "the router listens; it says:\n" + process.log(), lambda: listening(process, port))
        return process


def listening(process, port):
    assert process.alive(), "the router ended with status %s:\n%s" % (process.child.returncode, process.log())
    if bed.listens("127.0.0.1", port):
        return True
    with open("/proc/net/tcp6", encoding="ascii") as file:
        return any(row.split()[1].endswith(":%04X" % port) and row.split()[3] == "0A" for row in file.read().splitlines()[1:])


def jabber():
    entry = pwd.getpwnam("jabber")
    return entry.pw_uid, entry.pw_gid


def command(*arguments, user=None):
    """Runs jidmesh to its end: (status, standard output, standard error)."""
    done = subprocess.run([bed.JIDMESH, *arguments], capture_output=True, text=True, timeout=20, user=user)
    return done.returncode, done.stdout, done.stderr


def status(*arguments):
    """Of a router that may just have begun to listen: the admin socket comes after the components' port."""
    code, out, err = bed.wait_for("an admin socket", lambda: answered(command("status", "--json", *arguments)))
    assert code == 0, err
    return json.loads(out)


def answered(done):
    return done if "there is no admin socket" not in done[2] else None


def seats(*arguments):
    return {seat["id"]: seat["state"] for seat in status(*arguments)["seats"]}


def text_of(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def logged(path, *words):
    """The first line of the log that holds all of these."""
    def text():
        return text_of(path) if os.path.exists(path) else ""

    def found():
        return next((line for line in text().splitlines() if all(word in line for word in words)), None)

    return bed.wait_for(lambda: "a line with %s in %s:\n%s" % (words, path, text()), found)


def write_router(folder, more="", log="<log type='file'><file>%s/router.log</file></log>", ip="127.0.0.1", secret="secret"):
    """A configuration of one's own in `folder`; returns its path."""
    text = """<router>%s<local><ip>%s</ip><users>%s/users.xml</users><secret>%s</secret></local>
<aci><acl type='all'><user>jabberd</user></acl></aci>
<admin>%s/admin.sock</admin>%s
</router>""" % (log % folder if "%s" in log else log, ip, folder, secret, folder, more)
    path = os.path.join(folder, "router.xml")
    for name, content in (("router.xml", text), ("users.xml", templates.users())):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(content)
    return path


def add_debian_user(name):
    connection = sqlite3.connect("/var/lib/jabberd2/sqlite.db", timeout=10)
    with connection:
        connection.execute("insert into authreg(username, realm, password) values(?,?,'secret')", (name, DEBIAN_DOMAIN))
        connection.execute('insert into active("collection-owner", time) values(?, 1)', ("%s@%s" % (name, DEBIAN_DOMAIN),))
    connection.close()


def login(name):
    return bed.raw_login("127.0.0.1", 5222, DEBIAN_DOMAIN, name, "secret")


def start_debian(debian):
    """Router and components on Debian's files, as its units start them; returns the router and the components."""
    router = debian.jidmesh("run", "-c", DEBIAN + "/router.xml", user="jabber")
    components = [debian.start(name, "/usr/sbin/jabberd2-" + name, "-c", "%s/%s.xml" % (DEBIAN, name), user="jabber")
                  for name in ("sm", "c2s", "s2s")]
    add_debian_user("bob")
    bed.wait_for(lambda: "a login; status: %s" % status(), lambda: login("bob"), 15)
    return router, components


# Debian's files, untouched


def test_debians_files_as_they_are_with_debians_components(debian):
    code, out, err = command("check", "-c", DEBIAN + "/router.xml")
    assert code == 0 and out.startswith(DEBIAN + "/router.xml: good, 2 warnings\n"), (out, err)
    assert err.count("well-known secret") == 2 and "router-users.xml:6: warning: " in err and "router.xml:33)" in err, err
    router, components = start_debian(debian)
    assert text_of(PID_FILE).strip() == str(router.pid)
    assert logged(LOG, "listening on 0.0.0.0:5347")
    assert logged(LOG, "[warning] %s/router-users.xml:6: 'secret' is" % DEBIAN), "what was said at the start is in the log as well"

    assert seats() == {"sm": "connected", "c2s": "connected", "s2s": "connected"}
    code, out, err = command("status")
    assert code == 0 and err == "", err
    lines = [line.split() for line in out.splitlines()]
    assert ["health", "ok"] in lines and [DEBIAN_DOMAIN, "sm", "users", "placed"] in lines and ["s2s", "s2s", "default", "route"] in lines, out
    assert command("status", "-c", DEBIAN + "/router.xml")[0] == 0
    code, _, err = command("status", user=NOBODY)
    assert code == 1 and "you may not open" in err, "the socket is for its owner and group alone"

    # A restart of the router: what Debian's components ride out by themselves (three tries, two seconds apart).
    assert router.stop() == 0
    assert logged(LOG, "shutting down") and not os.path.exists(PID_FILE) and not os.path.exists(SOCKET)
    debian.jidmesh("-c", DEBIAN + "/router.xml", "-D", user="jabber")
    bed.wait_for("a login after the restart", lambda: login("bob"), 10)
    assert all(component.alive() for component in components)


def test_an_idle_router_uses_no_cpu(debian):
    router, _ = start_debian(debian)
    bed.wait_for("the last session has ended", lambda: status()["sessions"] == 0)
    time.sleep(1)
    before, since = router.cpu_s(), time.monotonic()
    time.sleep(IDLE_S)
    share = (router.cpu_s() - before) / (time.monotonic() - since)
    print("\nidle with sm, c2s, s2s over %.0f s: %.4f %% of one CPU" % (IDLE_S, share * 100))
    assert share < IDLE_SHARE_MAX


def test_without_any_folder_of_its_own_it_still_routes(debian):
    """As user jabber, without RuntimeDirectory= and without the init script's folder."""
    for folder in (os.path.dirname(SOCKET), os.path.dirname(PID_FILE)):
        os.rmdir(folder)
    router = debian.jidmesh("run", "-c", DEBIAN + "/router.xml", user="jabber")
    assert logged(LOG, "[error] cannot write the pid file /var/run/jabberd2/router.pid: No such file")
    assert logged(LOG, "[warning] no admin socket " + SOCKET, "cannot make its folder", "RuntimeDirectory=", "<admin>")
    with Native(name="x.test"):
        pass
    code, _, err = command("status")
    assert code == 1 and "its log says so" in err, err
    assert router.stop() == 0


# Without a file


def test_without_a_file_it_says_how_to_connect_and_so_it_is(processes, folder):
    socket = folder + "/admin.sock"
    router = processes.jidmesh("run", "--admin", socket)
    said = router.log()
    assert "<router><ip>127.0.0.1</ip><port>5347</port><user>jabberd</user><pass>secret</pass></router>" in said and "-c FILE" not in said, said
    with Native(user="jabberd", password="secret", name="x.test"), Foreign("f.test", secret="secret"):
        assert seats("--admin", socket) == {"x.test": "connected", "f.test": "connected"}
    router.signal(1)
    bed.wait_for(lambda: "SIGHUP is answered:\n" + router.log(), lambda: "there is no configuration file" in router.log())
    code, _, err = command("run", "--admin", folder + "/second.sock")
    assert code == 1 and "cannot listen on 127.0.0.1:5347: the port is in use" in err and "ss -ltnp" in err, err
    assert status("--admin", socket)["pid"] == router.pid, "the first one goes on"
    assert router.stop() == 0


def test_a_killed_router_is_followed_at_once_by_the_next(processes, folder):
    """The kernel takes a moment to let the port of a killed process go; the admin socket's file stays behind."""
    for number in range(5):
        router = processes.start("jidmesh", bed.JIDMESH, "run", "--admin", folder + "/admin.sock")
        bed.wait_for(lambda: "router %d runs:\n%s" % (number, router.log()), lambda: "] listening on" in router.log())
        assert status("--admin", folder + "/admin.sock")["pid"] == router.pid
        router.kill()


# Rights


def test_a_plain_user_without_rights_is_told_of_each(processes, folder):
    more = "<pidfile>%s/router.pid</pidfile>" % folder
    path = write_router(folder, more)
    os.chmod(folder, 0o755)
    router = processes.jidmesh("run", "-c", path, user=NOBODY)
    bed.wait_for(lambda: "the log is missed on standard error:\n" + router.log(), lambda: "cannot write to %s/router.log: Permission denied" % folder in router.log())
    code, _, err = command("status", "-c", path)
    assert code == 1 and "there is no admin socket" in err, err
    with Native(name="x.test"):
        pass
    # Once it may write, nothing of what was to be said is missing.
    os.chmod(folder, 0o777)
    assert logged(folder + "/router.log", "cannot write the pid file %s/router.pid: Permission denied" % folder)
    assert logged(folder + "/router.log", "no admin socket", "Permission denied", "<admin>")
    assert logged(folder + "/router.log", "[x.test] online")
    assert router.stop() == 0


def test_a_configuration_that_cannot_be_read_says_so(folder):
    path = write_router(folder)
    os.chmod(path, 0o600)
    for what in ("run", "check", "status"):
        code, _, err = command(what, "-c", path, user=NOBODY)
        assert code == 1 and path + ": error: can't be read: Permission denied" in err, (what, err)
    os.remove(folder + "/users.xml")
    code, _, err = command("check", "-c", path)
    assert code == 1 and "router.xml:1: error: <users>: %s/users.xml: can't be read" % folder in err, err


# SIGHUP


def test_sighup_with_a_good_file_with_a_bad_one_and_what_waits_for_the_next_start(processes, folder):
    path, log = write_router(folder), folder + "/router.log"
    router = processes.jidmesh("run", "-c", path)
    digest = status("-c", path)["config_digest"]
    with Native(name="x.test") as component:
        good = text_of(path)
        with open(path, "w", encoding="utf-8") as file:
            file.write(good.replace("</router>", "<grace>soon</grace></router>"))
        router.signal(1)
        assert logged(log, "[error] reload: %s:" % path, "<grace>", "soon")
        assert logged(log, "[error] reload: nothing was changed")
        assert "error: " not in text_of(log), "the level says it once"
        assert status("--admin", folder + "/admin.sock")["config_digest"] == digest
        write_router(folder, "<grace>5</grace><metrics><ip>127.0.0.1</ip><port>9347</port></metrics>")
        router.signal(1)
        assert logged(log, "[notice] reloaded " + path)
        assert logged(log, "[notice] reload: <grace> (ms): 5000, was 9000")
        assert logged(log, "[warning] reload: what changed in <metrics> takes effect at the next start")
        after = command("check", "-c", path)[1].splitlines()[-1].split()[-1]
        assert after != digest
        bed.wait_for("status shows the digest in force", lambda: status("-c", path)["config_digest"] == after)
        component.route("x.test", frm="x.test")
        assert component.next_route().get("to") == "x.test", "its link was not touched"
        now = text_of(path)
        with open(path, "w", encoding="utf-8") as file:
            file.write(now.replace("</log>", "<level>warning</level></log>"))
        router.signal(1)
        bed.wait_for("it was read", lambda: "next start" in text_of(log).splitlines()[-1])
        with Native(name="quiet.test"):
            pass
        with pytest.raises(AssertionError):
            Native(password="wrong", name="loud.test")
        assert logged(log, "[warning]", "authentication failed") and "quiet.test" not in text_of(log)
        with open(path, "w", encoding="utf-8") as file:
            file.write(now)
        router.signal(1)
        assert logged(log, "[notice] reload: <log><level>: Info, was Warning")
    assert router.stop() == 0
    router = processes.jidmesh("run", "-c", path)
    bed.wait_for("metrics are served", lambda: bed.listens("127.0.0.1", 9347))
    with urllib.request.urlopen("http://127.0.0.1:9347/metrics", timeout=5) as page:
        assert "\njidmesh_names 0\n" in page.read().decode()
    with urllib.request.urlopen("http://127.0.0.1:9347/readyz", timeout=5) as page:
        assert page.read() == b"ready\n"
    assert router.stop() == 0


def test_a_setting_without_effect_and_an_uplink_to_itself_are_named(folder):
    code, out, err = command("check", "-c", write_router(folder, "<colour>red</colour>"))
    assert code == 0 and "unknown setting <colour> in <router>: it has no effect" in err, (out, err)
    uplink = "<uplink><ip>127.0.0.1</ip><port>5347</port><user>jabberd</user><pass>%s</pass></uplink>" % ("s" * 32)
    code, out, err = command("check", "-c", write_router(folder, uplink))
    assert code == 1 and "<uplink>: there jidmesh itself listens" in err, (out, err)


def test_a_log_that_is_moved_or_truncated_goes_on(processes, folder):
    path, log = write_router(folder), folder + "/router.log"
    router = processes.jidmesh("run", "-c", path)
    assert logged(log, "listening on")
    os.rename(log, log + ".1")
    with Native(name="before.test"):
        assert logged(log + ".1", "[before.test] online")
    router.signal(1)
    bed.wait_for("a new log", lambda: os.path.exists(log))
    with Native(name="after.test"):
        assert logged(log, "[after.test] online")
    assert "after.test" not in text_of(log + ".1")
    # logrotate's copytruncate, as Debian has it: no signal at all.
    os.truncate(log, 0)
    with Native(name="truncated.test"):
        assert logged(log, "[truncated.test] online")
    with open(log, "rb") as file:
        assert b"\0" not in file.read(), "no hole where the old text was"
    assert router.stop() == 0


# Who may come


@pytest.mark.parametrize("ip, here", [("0.0.0.0", AWAY), ("::", AWAY_6), ("::", AWAY)])
def test_the_default_secret_is_refused_away_from_loopback_and_the_log_says_why(processes, folder, away, ip, here):
    path, log = write_router(folder, ip=ip), folder + "/router.log"
    router = processes.jidmesh("run", "-c", path)
    for near in ["127.0.0.1", *(["::1"] if ip == "::" else [])]:
        with Native(ip=near, name="near.test"), Foreign("f.test", ip=near, secret="secret"):
            pass
    with pytest.raises(AssertionError, match="not-authorized"):
        Native(ip=here, name="far.test")
    assert logged(log, "[warning] [%s, port=" % here, "authentication failed", "loopback addresses only", "users file")
    with pytest.raises(AssertionError, match="stream:error"):
        Foreign("f.test", ip=here, secret="secret")
    assert logged(log, "[warning] [%s, port=" % here, "<local><secret>", "loopback addresses only")
    # A wrong password is another matter.
    with pytest.raises(AssertionError, match="not-authorized"):
        Native(ip="127.0.0.1", password="wrong", name="near.test")
    assert "loopback" not in logged(log, "[127.0.0.1, port=", "authentication failed")
    write_router(folder, "<default-secret allow='yes'/>", ip=ip)
    router.signal(1)
    assert logged(log, "reloaded")
    with Native(ip=here, name="far.test"), Foreign("g.test", ip=here, secret="secret"):
        assert seats("-c", path)["far.test"] == "connected"
    assert router.stop() == 0


def test_another_secret_is_good_from_everywhere(processes, folder, away):
    path = write_router(folder, ip="::", secret="another one")
    with open(folder + "/users.xml", "w", encoding="utf-8") as file:
        file.write(templates.users().replace(">secret<", ">changed<"))
    assert command("check", "-c", path)[2] == ""
    processes.jidmesh("run", "-c", path)
    with Native(ip=AWAY_6, password="changed", name="far.test"), Foreign("f.test", ip=AWAY, secret="another one"):
        assert seats("-c", path) == {"far.test": "connected", "f.test": "connected"}
