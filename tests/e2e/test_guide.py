"""The operator's guide, followed line by line, on a Debian of its own: an overlay over this one, in which the package is installed."""

import os
import re
import shutil
import socket
import subprocess

import pytest

import bed
from bed import wait_for

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGES = ["first-machine", "second-machine", "watch", "change", "drain", "upgrade", "recover", "leave"]
DOMAIN = "localhost.localdomain"
# On a machine whose peer does not exist these say so.
REFUSED = {"jidmesh selftest": "was never reached", "jidmesh drain --rate 20/s": "last node in service", "jidmesh drain --abort": "does not drain",
           # The test has none.
           "jidmesh top": "it needs a terminal"}
pytestmark = [pytest.mark.jidmesh, pytest.mark.timeout(180)]

# What systemd does for the units that the guide names, as far as the guide relies on it.
SYSTEMCTL = r"""#!/bin/bash
set -e
as() { exec setpriv --reuid=jabber --regid=jabber --clear-groups "$@"; }
begin() { name=$1; shift; "$@" >>/units/$name.log 2>&1 </dev/null & echo $! >/units/$name.pid; }
end() { [ -f /units/$1.pid ] || return 0; pid=$(cat /units/$1.pid); rm /units/$1.pid; kill $pid || return 0; while kill -0 $pid 2>/dev/null; do sleep 0.02; done; }
start_jidmesh() {
	. /etc/default/jidmesh
	install -d -o jabber -g jabber /run/jidmesh; install -d -o jabber -g jabber -m 750 /var/log/jidmesh
	NOTIFY_SOCKET=/units/notify begin jidmesh as /usr/sbin/jidmesh run -c $CONFIG
	for try in $(seq 400); do jidmesh status >/dev/null 2>&1 && return; sleep 0.05; done
	cat /units/jidmesh.log; exit 1
}
reload_jidmesh() {
	. /etc/default/jidmesh
	(NOTIFY_SOCKET=/units/notify as /usr/sbin/jidmesh upgrade -c $CONFIG) >/units/reload.log 2>&1 || { cat /units/reload.log; exit 1; }
	sed -n 's/^process \([0-9]*\) has taken over .*/\1/p' /units/reload.log >/units/jidmesh.pid
}
start_one() { begin $1 as /usr/sbin/jabberd2-$1 -c /etc/jabberd2/$1.xml; }
start_jabberd() {
	[ -f /etc/systemd/system/jabberd-router.service.d/jidmesh.conf ] || start_one router
	for name in sm c2s s2s; do start_one $name; done
}
stop_jabberd() { for name in s2s c2s sm router; do end $name; done; }
verb=$1; shift
case "$verb $*" in
"daemon-reload "*) ;;
"stop jabberd jabberd-router") stop_jabberd ;;
"stop jabberd jidmesh"|"stop jabberd jabberd-router jidmesh") stop_jabberd; end jidmesh ;;
"restart jabberd-sm") end sm; start_one sm ;;
"start jidmesh jabberd") start_jidmesh; start_jabberd ;;
"start jabberd") stop_jabberd; start_jabberd ;;
"enable --now jidmesh") start_jidmesh ;;
"disable --now jidmesh") end jidmesh ;;
"reload jidmesh") reload_jidmesh ;;
"restart jidmesh") end jidmesh; start_jidmesh ;;
"kill --kill-who=main --signal=HUP jidmesh") kill -HUP $(cat /units/jidmesh.pid) ;;
*) echo "the test does not know: systemctl $verb $*"; exit 9 ;;
esac
"""


class Machine:
    """A Debian with jabberd2, over this one."""

    def __init__(self, folder):
        self.root = os.path.join(folder, "root")
        layers = [os.path.join(folder, name) for name in ("upper", "work", "root")]
        for layer in layers:
            os.mkdir(layer)
        mount("-t", "overlay", "-o", "lowerdir=/,upperdir=%s,workdir=%s" % tuple(layers[:2]), "overlay", self.root)
        for name in ("proc", "dev", "sys"):
            mount("--rbind", "/" + name, self.path(name))
        for name in ("hosts", "resolv.conf"):
            shutil.copy("/etc/" + name, self.path("etc/" + name))
        os.mkdir(self.path("units"))
        with open(self.path("usr/local/bin/systemctl"), "w", encoding="utf-8") as file:
            file.write(SYSTEMCTL)
        os.chmod(file.name, 0o755)
        self._source()
        # Not of the guide, and slow: the index of manual pages.
        self.run("rm -f /var/lib/man-db/auto-update; rm -rf /var/lib/jabberd2/* /var/log/jabberd2/*; install -d -o jabber -g jabber /var/lib/jabberd2 /var/log/jabberd2 /run/jabberd2 && zcat /usr/share/doc/jabberd2/db-setup.sqlite.gz |"
                 " setpriv --reuid=jabber --regid=jabber --clear-groups sqlite3 /var/lib/jabberd2/sqlite.db && sqlite3 /var/lib/jabberd2/sqlite.db"
                 " \"insert into authreg values('bob','%s','secret'); insert into active(\\\"collection-owner\\\",time) values('bob@%s',1)\"" % (DOMAIN, DOMAIN))
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(self.path("units/notify"))
        os.chmod(self.path("units/notify"), 0o777)
        self.notify.settimeout(20)

    def _source(self):
        """What of the source the package is made of, and the binary under test."""
        source = self.path("source")
        os.mkdir(source)
        for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE-MIT"):
            shutil.copy(os.path.join(REPOSITORY, name), source)
        for name in ("packaging", "docs"):
            shutil.copytree(os.path.join(REPOSITORY, name), os.path.join(source, name))
        shutil.copy(bed.JIDMESH, source + "/jidmesh")

    def path(self, name):
        return os.path.join(self.root, name)

    def run(self, command):
        done = subprocess.run(["chroot", self.root, "env", "JIDMESH_BINARY=/source/jidmesh", "DPKG_DEB_COMPRESSOR_LEVEL=1", "bash", "-ec", "cd /source; " + command],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90)
        assert done.returncode == 0, "%s\nended with status %d:\n%s" % (command, done.returncode, done.stdout)
        return done.stdout

    def pid(self):
        """Of jidmesh."""
        with open(self.path("units/jidmesh.pid"), encoding="ascii") as file:
            return int(file.read())

    def close(self):
        for name in os.listdir(self.path("units")):
            if name.endswith(".pid"):
                with open(self.path("units/" + name), encoding="ascii") as file:
                    subprocess.run(["kill", "-KILL", file.read().strip()], check=False, stderr=subprocess.DEVNULL)
        self.notify.close()
        subprocess.run(["umount", "-l", self.root], check=True)


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def blocks(path, heading=""):
    """The shell blocks of a page, or of what stands in it below a heading."""
    with open(os.path.join(REPOSITORY, path), encoding="utf-8") as file:
        text = file.read().partition(heading)[2] if heading else file.read()
    return re.findall(r"```sh\n(.*?)```", text.partition("\n## ")[0] if heading else text, re.S)


def commands(page):
    """Each line of the page's shell blocks."""
    return [line for block in blocks("packaging/guide/%s.md" % page) for line in block.splitlines()]


@pytest.fixture
def machine():
    folder = os.path.join(os.environ["JIDMESH_CAGE"], "guide")
    os.mkdir(folder)
    mount("-t", "tmpfs", "none", folder)
    machine = Machine(folder)
    try:
        yield machine
    finally:
        machine.close()
        subprocess.run(["umount", "-l", folder], check=True)
        os.rmdir(folder)


def login():
    return bed.raw_login("127.0.0.1", 5222, DOMAIN, "bob", "secret")


def test_every_command_of_the_guide_does_what_it_says(machine):
    with open(os.path.join(REPOSITORY, "packaging/guide/README.md"), encoding="utf-8") as file:
        assert re.findall(r"\]\((.*)\.md\)", file.read()) == PAGES, "every page is played, in this order"
    for page in PAGES:
        for command in commands(page):
            refused = REFUSED.get(command) if page != "first-machine" else None
            former = machine.pid() if command == "systemctl reload jidmesh" else None
            out = machine.run("! " + command if refused else command)
            assert (refused or "") in out, "%s: %s\n%s" % (page, command, out)
            if command == "systemctl enable --now jidmesh && systemctl start jabberd":
                check_installed(machine)
                wait_for("a login through jidmesh", login, 15)
            if former:
                check_taken_over(machine, former)
            if page == "second-machine" and command.startswith("jidmesh check"):
                assert "mesh" in out and "digest" in out, out
    wait_for("a login through the stock router", login, 15)
    assert not os.path.exists(machine.path("usr/sbin/jidmesh")) and not os.path.exists(machine.path("etc/default/jidmesh"))
    assert "jidmesh" not in machine.run("dpkg-query -W -f '${Package}\\n'")


def test_a_machine_in_service_is_attached_leaves_and_goes_on_to_router_mode_by_the_readme(machine):
    configure, start, lead_sm, leave, to_router_mode = blocks("README.md", "\n## Beside the stock router: attached mode\n")
    machine.run("packaging/build target && dpkg -i target/jidmesh_*.deb && systemctl start jabberd")
    wait_for("a login through the stock router", login, 15)
    assert "sm connects to port 5347; in attached mode right is 5346" in machine.run(configure)
    for after in (leave, to_router_mode):
        machine.run(start)
        wait_for("it is attached", lambda: "2 of 2 connections" in machine.run("jidmesh status"))
        assert login(), "nothing has changed for anybody"
        machine.run(lead_sm)
        wait_for("a login through both routers", login, 15)
        wait_for("sm is seen at jidmesh", lambda: re.search(r"^sm +sm +connected", machine.run("jidmesh status"), re.M))
        machine.run(after)
        wait_for("a login through the one router that is left", login, 15)
    assert "uplink" not in machine.run("jidmesh status")
    assert "<peer>b.example.net</peer>" in machine.run("jidmesh check -c /etc/jabberd2/router.xml; grep '<mesh>' /etc/jabberd2/router.xml")


def check_taken_over(machine, former):
    """The new process says itself that it is the service's main one, and the former one has ended."""
    main = machine.pid()
    while not re.search(r"^MAINPID=%d$" % main, machine.notify.recv(4096).decode(), re.M):
        pass
    assert main != former and os.readlink("/proc/%d/exe" % main).endswith("/usr/sbin/jidmesh")
    wait_for("the former process has ended", lambda: not os.path.exists("/proc/%d" % former), 10)


def check_installed(machine):
    """What the package put where, and that the service says when it is ready."""
    said = machine.notify.recv(4096).decode()
    assert "READY=1" in said and re.search(r"^MAINPID=\d+$", said, re.M), said
    for name in ("usr/share/man/man1/jidmesh.1.gz", "usr/share/man/man1/jidmesh-drain.1.gz", "usr/share/bash-completion/completions/jidmesh.bash",
                 "usr/share/zsh/vendor-completions/_jidmesh", "usr/share/fish/vendor_completions.d/jidmesh.fish", "usr/lib/tmpfiles.d/jidmesh.conf",
                 "usr/share/doc/jidmesh/guide/drain.md"):
        assert os.path.exists(machine.path(name)), name
    assert machine.run("dpkg-query -W -f '${Conffiles}' jidmesh").count("/etc/") == 3
    unit = "/lib/systemd/system/jidmesh.service"

    machine.run("systemd-analyze verify --man=no %s" % unit)
    machine.run("systemd-analyze security --offline=true --no-pager --threshold=25 %s" % unit)
    machine.run("logrotate --debug /etc/logrotate.d/jidmesh")
