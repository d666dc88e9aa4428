"""Enters a cage (private mount, network, pid and host name spaces), and runs pytest in it; `--cages=N` shares the tests among N.

Inside there is only a loopback interface: standard ports are free, nothing outside can be reached or disturbed, and
whatever crashes, the kernel ends every process and unmounts everything when pid 1 of the cage ends.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PR_SET_PDEATHSIG = 1
# A memory disk of the cage's own is mounted here: it goes when the cage goes.
FOLDER = "/mnt"
# Of machines in failed tests.
LOGS = os.path.join(os.path.dirname(HERE), "logs")

# Every domain that the tests use, and the loopback address of the machine that serves it.
HOSTS = """127.0.0.1 localhost testbed example.net conference.example.net
127.0.0.2 other.example
127.0.0.3 chat.example.org
"""


def main():
    if "--inside" in sys.argv:
        sys.argv.remove("--inside")
        sys.exit(inside(sys.argv[1:]))
    if os.geteuid() != 0:
        sys.exit("the end-to-end tests must run as root: they make network and mount namespaces")
    die_with_parent()
    cages = [argument for argument in sys.argv if argument.startswith("--cages=")]
    arguments = [argument for argument in sys.argv[1:] if argument not in cages]
    count = int(cages[-1].partition("=")[2]) if cages else 1
    shutil.rmtree(LOGS, ignore_errors=True)
    if count > 1:
        sys.exit(share(count, arguments))
    os.execvp(*command(arguments))


def command(arguments):
    return "unshare", ["unshare", "--mount", "--uts", "--pid", "--net", "--fork", "--kill-child=KILL", "--mount-proc",
                       sys.executable, os.path.abspath(__file__), "--inside", *arguments]


def share(count, arguments):
    """Runs each test in one of several cages, whichever is free; shows the first one's progress, and at the end what the others said."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, JIDMESH_CLAIMS=folder)
        outputs = [None, *(tempfile.TemporaryFile() for _ in range(count - 1))]
        cages = [subprocess.Popen(command(arguments)[1], env=environment, stdout=output, stderr=output and subprocess.STDOUT, preexec_fn=die_with_parent)
                 for output in outputs]
        codes = [cage.wait() for cage in cages]
        for output in outputs[1:]:
            output.seek(0)
            sys.stdout.flush()
            shutil.copyfileobj(output, sys.stdout.buffer)
    return next((code for code in codes if code != 0), 0)


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def inside(arguments):
    """Pid 1 of the cage: sets the scene, runs pytest, buries orphans, returns pytest's status."""
    scene(FOLDER)
    environment = dict(os.environ, JIDMESH_CAGE=FOLDER, LC_ALL="C.UTF-8", PYTHONDONTWRITEBYTECODE="1")
    dns = subprocess.Popen(["dnsmasq", "-k", "--conf-file=/dev/null", "--no-resolv", "--local=/#/", "--listen-address=127.0.0.1",
                            "--bind-interfaces", "--user=root", "--pid-file=", "--log-facility=-"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    where = [] if any(not argument.startswith("-") and "test_" in argument for argument in arguments) else [HERE]
    tests = subprocess.Popen([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", HERE, "--basetemp", os.path.join(FOLDER, "pytest"), "-c",
                              os.path.join(HERE, "pytest.ini"), *where, *arguments], env=environment)
    return bury_until(tests.pid, dns.pid)


def scene(folder):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["hostname", "testbed"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", folder], check=True)
    for name, text in (("hosts", HOSTS), ("resolv.conf", "nameserver 127.0.0.1\n")):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        subprocess.run(["mount", "--bind", path, "/etc/" + name], check=True)


def bury_until(tests_pid, dns_pid):
    while True:
        pid, status = os.wait()
        if pid == tests_pid:
            return os.waitstatus_to_exitcode(status) if not os.WIFSIGNALED(status) else 1
        if pid == dns_pid:
            print("cage: the DNS server ended; s2s will be slow", file=sys.stderr)


if __name__ == "__main__":
    main()
