#!/usr/bin/env python3
"""What redirects save (docs/redirects.md): a user's frame addressed to his domain against the same by redirect.

    benches/redirects.py [RUNS]     needs Debian's jabberd2, target/release/jidmesh or JIDMESH_BINARY; no rights

A router is started for each run, one shard on CPU 0; both ways take turns. Everything is on 127.0.0.9 and in a temporary folder.
"""

import json
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/e2e"))
import bed  # noqa: E402
from table import cell  # noqa: E402

IP = "127.0.0.9"
SHAPES = {"router, 12 sm": ("jidmesh", 12), "router, 2 sm": ("jidmesh", 2), "attached, 12 sm": ("attached", 12)}


def measure(kind, sms, redirects, folder):
    """Router CPU, us a frame."""
    with bed.Stack(folder, router=kind, ip=IP, sms=(), c2ss=(), wrap=["taskset", "-c", "0"]) as stack:
        load = [bed.JIDMESH, "load", "users", "--router", "%s:%d" % (IP, stack.port), "--pid", str(stack.router.pid), "--user", "jabberd",
                "--pass", "secret", "--sessions", "20000", "--active", "10000", "--sm", str(sms), "--seconds", "1", "--cpu", "1", "--quiet", "--json"]
        out = subprocess.run(load + ["--redirects"] * redirects, check=True, capture_output=True, text=True, timeout=60).stdout
    return json.loads(out)[0]["sides"][0]["cpu_s_per_million"]["median"]


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    pairs = {name: [] for name in SHAPES}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JIDMESH_CAGE"] = folder
        for run in range(runs):
            for name, (kind, sms) in SHAPES.items():
                where = os.path.join(folder, "%s %d " % (name, run))
                pairs[name].append([measure(kind, sms, redirects, where + str(redirects)) for redirects in (False, True)])
    print("| mode | to the domain, us a frame | by redirect, us a frame | saved, run by run |\n|---|---|---|---|")
    for name, rows in pairs.items():
        saved = [100 * (1 - by / to) for to, by in rows]
        print("| %s | %s | %s | %s %% |" % (name, *(cell(column, 2) for column in zip(*rows)), cell(saved, 0)))


main()
