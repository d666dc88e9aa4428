#!/usr/bin/env python3
"""What it costs that somebody looks: samples (`jidmesh top`), a trace of a user who says nothing, of one who does.

    benches/looking.py [RUNS]     needs Debian's jabberd2, target/release/jidmesh or JIDMESH_BINARY; no rights

A router is started for each run, one shard on CPU 0; all take turns. Everything is on 127.0.0.9 and in a temporary folder.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/e2e"))
import bed  # noqa: E402
from table import cell  # noqa: E402

IP = "127.0.0.9"
# What is asked, and how often a second; `jidmesh trace` and `jidmesh top` do the same.
LOOKS = {"nobody looks": None, "samples": ({"cmd": "sample"}, 2), "trace of somebody else": ({"cmd": "trace", "jid": "nobody@example.org"}, 0.2),
         "trace of a busy user": ({"cmd": "trace", "jid": "u0@example.net"}, 0.2)}
SHAPES = {"pipe, 265 bytes, to an id": ["pipe", "--bytes", "265"], "users' stanzas": ["users", "--sessions", "20000", "--active", "10000"]}


def look(path, ask, every_s, over):
    """Asks until it is over."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        answers = link.makefile()
        while True:
            link.sendall(json.dumps(ask).encode() + b"\n")
            answer = json.loads(answers.readline())
            assert answer["ok"], answer
            if over.wait(every_s):
                return


def measure(shape, asked, folder):
    """Router CPU, us a frame."""
    with bed.Stack(folder, router="jidmesh", ip=IP, sms=(), c2ss=(), wrap=["taskset", "-c", "0"]) as stack:
        over = threading.Event()
        looks = [threading.Thread(target=look, args=(stack.folder + "/admin.sock", *asked, over))] if asked else []
        for thread in looks:
            thread.start()
        try:
            load = [bed.JIDMESH, "load", *SHAPES[shape], "--router", "%s:%d" % (IP, stack.port), "--pid", str(stack.router.pid), "--user", "jabberd",
                    "--pass", "secret", "--seconds", "1", "--cpu", "1", "--quiet", "--json"]
            out = subprocess.run(load, check=True, capture_output=True, text=True, timeout=60).stdout
        finally:
            over.set()
            for thread in looks:
                thread.join()
    return json.loads(out)[0]["sides"][0]["cpu_s_per_million"]["median"]


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    figures = {(shape, name): [] for shape in SHAPES for name in LOOKS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JIDMESH_CAGE"] = folder
        for run in range(runs):
            for at, (shape, name) in enumerate(figures):
                figures[shape, name].append(measure(shape, LOOKS[name], os.path.join(folder, "%d %d" % (run, at))))
    print("| CPU, us a frame | %s |\n|---|%s" % (" | ".join(LOOKS), "---|" * len(LOOKS)))
    for shape in SHAPES:
        print("| %s | %s |" % (shape, " | ".join(cell(figures[shape, name], 2) for name in LOOKS)))


main()
