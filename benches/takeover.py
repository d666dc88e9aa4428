#!/usr/bin/env python3
"""What clients see of a take-over: how late the latest of all frames was, with so many sessions.

    benches/takeover.py [SESSIONS] [TIMES]    100000 and 5 unless told; needs target/release/jidmesh or JIDMESH_BINARY; no rights

`jidmesh load users` sends 5000 frames a second (open loop: what is late counts from when it was due) through a router with two shards,
and checks that each arrives, once and in order. Meanwhile another process takes over, and another from that one, and so on. The
delay is the generator's longest latency over all of them, the standstill what each old process says. Everything is on 127.0.0.9
and in a temporary folder.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/e2e"))
import bed  # noqa: E402
from table import cell  # noqa: E402

IP = "127.0.0.9"
# Of traffic before the first take-over and after each.
PAUSE_S = 1


def main():
    sessions, times = (int(sys.argv[at]) if len(sys.argv) > at else usual for at, usual in ((1, 100_000), (2, 5)))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JIDMESH_CAGE"] = folder
        with bed.Stack(folder, router="jidmesh", shards=2, ip=IP, sms=(), c2ss=()) as stack:
            load = [bed.JIDMESH, "load", "users", "--router", "%s:%d" % (IP, stack.port), "--user", "jabberd", "--pass", "secret", "--rate", "5000",
                    "--sessions", str(sessions), "--seconds", str((PAUSE_S + 2) * (times + 1)), "--quiet", "--json"]
            stills = []
            with subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as generator:
                bed.wait_for("traffic", lambda: stack.metric("jidmesh_sessions") == sessions, 120, 0.2)
                for _ in range(times):
                    time.sleep(PAUSE_S)
                    old = stack.router
                    stack.take_over(30)
                    stills.append(int(re.findall(r"nothing moved for (\d+) ms", old.log())[-1]))
                assert generator.poll() is None, "it ended before: " + generator.stdout.read()
                output = generator.communicate(timeout=120)[0]
            assert generator.returncode == 0, output
    latency = json.loads(output)[0]["sides"][0]["runs"][0]["latency"][0]
    print("| sessions | standstill ms | the latest frame, ms |\n|---|---|---|")
    print("| %d | %s | %.0f |" % (sessions, cell(stills, 0), latency["max_us"] / 1000))


main()
