"""`jidmesh demo` with the real jabberd2: it keeps its promises, as root and as nobody, and leaves nothing behind, also after Ctrl-C."""

import os
import re
import signal
import subprocess

import pytest

from bed import JIDMESH

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(150)]
LIMIT_S = 100


def start(folder, *arguments, user=None):
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o777)
    return subprocess.Popen([JIDMESH, "demo", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, user=user,
                            env=dict(os.environ, TMPDIR=folder))


def rows(text):
    """{title: (sent, received, duplicates, out of order)}"""
    return {title.strip(): tuple(map(int, numbers.split())) for title, numbers in re.findall(r"^(\w+ to .*?)((?: +\d+){4})$", text, re.M)}


def pids(text):
    return [int(pid) for pid in re.findall(r"(?:jidmesh|sm|c2s) (\d+)", text)]


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_it_keeps_its_promises_and_leaves_nothing_behind(user):
    folder = "/mnt/demo-" + user
    demo = start(folder, user=user)
    text, _ = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == 0, text
    assert "jabberd2, the chat server that is installed here" in text
    assert len(rows(text)) == 8, text
    for title, (sent, received, duplicates, disordered) in rows(text).items():
        at_risk = 27 if "whose machine dies" in title or "stays away" in title else 0
        assert sent > 20 and sent - received <= at_risk and duplicates <= at_risk and disordered == 0, text
    assert len(pids(text)) == 9 and not any(os.path.exists("/proc/%d" % pid) for pid in pids(text)), text
    assert not os.listdir(folder)


def test_ctrl_c_ends_and_removes_everything():
    folder = "/mnt/demo-interrupted"
    demo = start(folder)
    text = ""
    while "chat, each on" not in text:
        line = demo.stdout.readline()
        assert line, text
        text += line
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=10)
    assert "Interrupted" in rest, text + rest
    assert len(pids(text)) == 6 and not any(os.path.exists("/proc/%d" % pid) for pid in pids(text)), text
    assert not os.listdir(folder)
