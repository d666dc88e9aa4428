#!/usr/bin/env python3
"""What a message between two users of one machine costs: stock router alone, router mode, attached mode; with the real c2s and sm.

    benches/attached.py [RUNS]      needs Debian's jabberd2 and sqlite3, target/release/jidmesh or JIDMESH_BINARY; no rights

The kinds take turns. Everything is on 127.0.0.9 and in a temporary folder.
"""

import os
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/e2e"))
import bed  # noqa: E402
from table import cell  # noqa: E402

IP = "127.0.0.9"
KINDS = {"stock router alone": "stock", "router mode": "jidmesh", "attached mode": "attached"}
BYTES = 150
BURST, BURSTS, ALONE = 500, 20, 2000


def message(body):
    text = "<message type='chat' to='bob@example.net/r'><body>%s</body></message>" % body
    return text.replace("<body>", "<body>" + "." * (BYTES - len(text)))


def send(alice, bob, count, mark):
    """So many messages in one write, and how long it took until the last had come, seconds."""
    start = time.perf_counter()
    alice.send("".join(message("%s-%d!" % (mark, number)) for number in range(count)))
    bob.read_until(b"%s-%d!" % (mark.encode(), count - 1))
    return time.perf_counter() - start


def client(user):
    client = bed.RawClient(IP, 5222, "example.net", user, resource="r", limit_s=10)
    client.ask("<presence/><iq type='get' id='p'><query xmlns='jabber:iq:roster'/></iq>", b"id='p'")
    return client


def measure(kind, folder):
    """(CPU a message of jidmesh and of the stock router, us; p50 and p99 of the way, ms; messages/s)"""
    with bed.Stack(folder, router=kind, ip=IP) as stack:
        stack.add_users("alice", "bob")
        alice, bob = client("alice"), client("bob")
        send(alice, bob, BURST, "warm")
        routers = [stack.processes.get("router" if kind != "stock" else None), stack.processes.get("router" if kind == "stock" else "stock")]
        before = [router and router.cpu_s() for router in routers]
        took = sum(send(alice, bob, BURST, "burst%d" % number) for number in range(BURSTS))
        cpu = [router and (router.cpu_s() - was) / (BURST * BURSTS) * 1e6 for router, was in zip(routers, before)]
        ways = sorted(send(alice, bob, 1, "alone%d" % number) * 1e3 for number in range(ALONE))
        alice.close(), bob.close()
        return [*cpu, ways[ALONE // 2], ways[ALONE * 99 // 100], BURST * BURSTS / took]


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    results = {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JIDMESH_CAGE"] = folder
        for run in range(runs):
            for name, kind in KINDS.items():
                results[name].append(measure(kind, os.path.join(folder, "%s%d" % (kind, run))))
    print("| | jidmesh, us a message | stock router, us a message | way p50 ms | p99 ms | messages/s |\n|---|---|---|---|---|---|")
    for name, rows in results.items():
        print("| %s | %s |" % (name, " | ".join(cell(column, digits) for column, digits in zip(zip(*rows), (1, 1, 2, 2, 0)))))


main()
