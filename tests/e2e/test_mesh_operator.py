"""Many machines as their operator sees them: status, where, selftest, metrics, and a machine alone."""

import fcntl
import itertools
import json
import os
import re
import signal
import struct
import subprocess
import termios

import pytest

import bed
from bed import wait_for
from mesh import NAMES

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(180)]
NODES = [name + ".example.net" for name in NAMES]
# A silent machine is dead for the others after 5 s at most; until then a probe to it has no answer either.
DEAD_LIMIT_S = 8.0


def command(machine, *arguments):
    """`jidmesh ARGUMENTS` at the machine's admin socket: exit status, and what was printed."""
    done = subprocess.run([bed.JIDMESH, *arguments, "--admin", machine.folder + "/admin.sock"], capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stdout + done.stderr


def ask(machine, *arguments):
    status, text = command(machine, *arguments, "--json")
    return status, json.loads(text)


def states(machine):
    return {member["name"]: member["state"] for member in machine.status()["mesh"]["members"]}


def all_ready(machines, names=NAMES):
    return all(list(states(machines[name]).values()).count("ready") == len(names) - 1 for name in names)


def row(text, start):
    return next((line for line in text.splitlines() if line.startswith(start)), text)


def users(machines, places):
    """Logged in and available: {user: client}, each at its place."""
    machines["m1"].add_users(*{user.split("/")[0] for user in places})
    clients = []
    for user, name in places.items():
        user, resource = user.split("/")
        client = bed.RawClient("127.0.0.1", 5222, "example.net", user, resource=resource, place=machines.places[name], limit_s=5)
        client.ask("<presence><priority>3</priority></presence><iq type='get' id='p'><query xmlns='jabber:iq:roster'/></iq>", b"id='p'")
        clients.append(client)
    return clients


def test_status_shows_members_and_what_is_missing(mesh):
    machines = mesh(shards=2)
    wait_for("all are ready", lambda: all_ready(machines), 10)
    clients = users(machines, {"ann/r": "m2", "bob/r": "m3"})
    for name in NAMES:
        # A machine that was dialled by all others is complete before its own dials have found them.
        wait_for(lambda: "no worries: " + machines[name].status()["health"], lambda: machines[name].status()["health"] == "ok", 10)
        status = machines[name].status()
        for member in status["mesh"]["members"]:
            link = member["link"]
            assert member["name"] in NODES and member["seats"] >= 2 and link["up"] and link["has_told"] and link["was_told"], member
            assert len(link["incarnation"]) == 16 and [lane["lane"] for lane in link["lanes"]] == ["control", "data"]
            assert all(lane["served"] and lane["credit_bytes"] > 0 for lane in link["lanes"]), link
    wait_for("both users' rows are at m1", lambda: sum(member["rows"] for member in machines["m1"].status()["mesh"]["members"]) >= 2)
    wait_for("what was told is acknowledged", lambda: all(" ready " in row(text, node + " ") and " equal " in row(text, node + " ")
                                                          for text in [command(machines["m1"], "status")[1]] for node in NODES[1:]))
    status, text = command(machines["m1"], "status")
    assert status == 0 and "2 of 2 other nodes ready" in text, text
    check_top(machines["m2"], *clients)
    page = machines["m1"].metrics()
    assert page['jidmesh_mesh_members{state="ready"}'] == 2 and page["jidmesh_mesh_alone"] == 0
    assert page['jidmesh_peer_lane_served{peer="m2.example.net",lane="data"}'] == 1
    for client in clients:
        client.close()
    machines.kill("m3", silently=True)
    wait_for("m3 is gone for m1", lambda: states(machines["m1"])["m3.example.net"] == "gone", DEAD_LIMIT_S)
    assert "m3.example.net is gone" in machines["m1"].status()["health"]
    assert " gone " in row(command(machines["m1"], "status")[1], "m3.example.net ")


def check_top(machine, ann, bob):
    """`jidmesh top` in a terminal of 100 columns: what it draws while ann writes to bob, who is on another machine, and that
    `q` ends it and gives the terminal back."""
    near, far = os.openpty()
    resize = lambda columns: fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    resize(100)
    before = termios.tcgetattr(far)
    top = subprocess.Popen([bed.JIDMESH, "top", "--every", "1", "--admin", machine.folder + "/admin.sock"], stdin=far, stdout=far, stderr=far,
                           env={**os.environ, "TERM": "xterm"})
    os.set_blocking(near, False)
    got, widths = bytearray(), itertools.cycle((101, 100))

    def read():
        try:
            got.extend(os.read(near, 65536))
        except BlockingIOError:
            pass

    def drawn():
        read()
        ann.send("<message to='bob@example.net'><body>look</body></message>")
        # All is drawn anew, not only the cells that changed: or words may be in pieces.
        resize(next(widths))
        top.send_signal(signal.SIGWINCH)
        text = re.sub(rb"\x1b\[[0-9;]*H", b" ", bytes(got))
        return all(word in text for word in (b"health", b"m3.example.net", b"SESSIONS", b"c2s", b"P99 us", b"here", b"to node", b"ann@example.net",
                                             b"bob@example.net"))

    def ended():
        read()
        # A key that comes together with a change of the size is seen with the next one.
        os.write(near, b"q")
        return top.poll() is not None

    wait_for(lambda: "all is drawn: %r" % bytes(got[-3000:]), drawn, 20)
    wait_for("q ends it", ended, 10)
    assert top.returncode == 0 and termios.tcgetattr(far) == before
    os.close(near)
    os.close(far)
    status, text = command(machine, "top")
    assert status == 1 and "it needs a terminal" in text, text


def test_where_answers_the_same_on_every_machine(mesh):
    machines = mesh(shards=2)
    clients = users(machines, {"ann/desk": "m2", "ann/phone": "m3"})
    for name in NAMES:
        status, found = ask(machines[name], "where", "Ann@example.net")
        assert status == 0 and (found["node"], found["sm"], found["complete"]) == ("m2.example.net", "sm.m2.example.net", True), found
        sessions = {session["resource"]: session for session in found["sessions"]}
        assert {resource: session["c2s"] for resource, session in sessions.items()} == {"desk": "c2s.m2.example.net", "phone": "c2s.m3.example.net"}
        assert all(session["available"] and session["priority"] == 3 for session in sessions.values()), found
    status, text = command(machines["m1"], "where", "ann@example.net/phone")
    assert status == 0 and "c2s.m3.example.net" in text and "desk" not in text, text
    duty = [ask(machines[name], "where", "nobody@example.net")[1] for name in NAMES]
    assert duty[0] == duty[1] == duty[2] and duty[0]["is_duty"] and duty[0]["sm"] == "sm." + duty[0]["node"], duty
    assert command(machines["m1"], "where", "@")[0] == 1
    for client in clients:
        client.close()


def test_a_trace_follows_a_stanza_across_machines_and_ends_with_its_terminal(mesh):
    machines = mesh(shards=2)
    wait_for("all are ready", lambda: all_ready(machines), 10)
    ann, bob = users(machines, {"ann/r": "m1", "bob/r": "m2"})
    status, text = command(machines["m1"], "trace", "--probe", "bob@example.net")
    assert status == 0 and "to node m2.example.net" in text and "the user's sessions: r (priority 3)" in text and "ends at sm: it would be written there" in text, text
    traces = [subprocess.Popen([bed.JIDMESH, "trace", "ann@example.net", "--to", "bob@example.net", "--admin", machines["m1"].folder + "/admin.sock", *more],
                               stdout=subprocess.PIPE, text=True) for more in ([], ["--payload", "--json"])]
    for name in NAMES:
        wait_for("%s takes part" % name, lambda: machines[name].metric("jidmesh_traces") == 2)
    for number in range(3):
        ann.send("<message type='chat' id='t%d' to='bob@example.net/r'><body>in confidence</body></message>" % number)
        bob.read_until(b"in confidence")
    text, steps = "", []
    wanted = ("from sm", "to node m2.example.net", "from node m1.example.net", "queued for sm, behind", "written to c2s")
    # What shards and nodes say comes in its order, unless the machine is slow.
    while not all(step in text for step in wanted):
        text += traces[0].stdout.readline()
    while not any(step.get("node") == "m2.example.net" and (step["hop"], step["what"]) == ("written", "c2s") for step in steps) \
            or not any(step.get("payload") for step in steps):
        steps.append(json.loads(traces[1].stdout.readline()))
    assert "in confidence" not in text and "message chat id=t" in text, text
    assert any("in confidence" in (step.get("payload") or "") for step in steps), steps
    # One terminal closes; the other's process dies without a word.
    traces[0].stdout.close()
    traces[1].kill()
    for name in NAMES:
        wait_for("%s follows nothing any more" % name, lambda: machines[name].metric("jidmesh_traces") == 0, 10)
    for trace in traces:
        trace.wait(10)
    assert "an operator's trace, with bodies, of" in machines["m1"].router.log() and "an operator's at m1.example.net trace of" in machines["m3"].router.log()
    for client in (ann, bob):
        client.close()


def test_selftest_probes_every_pair_and_fails_where_one_is_cut(mesh):
    machines = mesh(shards=2)
    wait_for("all are ready", lambda: all_ready(machines), 10)
    for name in NAMES:
        wait_for(lambda: "no worries: " + machines[name].status()["health"], lambda: machines[name].status()["health"] == "ok", 10)
        status, test = ask(machines[name], "selftest")
        assert status == 0 and test["passed"], test
        pairs = {(probe["from"], probe["from_shard"], probe["to"], probe["to_shard"]) for probe in test["probes"]}
        assert pairs == {(one, a, other, b) for one in NODES for other in NODES for a in (0, 1) for b in (0, 1)}
        # A shard to itself takes no turn, and so no time.
        assert all(0 <= probe["round_trip_us"] < 1_000_000 for probe in test["probes"]), test
    status, text = command(machines["m1"], "selftest")
    assert status == 0 and row(text, "m2.example.net").count(" ms") == 3 and "passed: 36 probes" in text, text
    machines.kill("m3", silently=True)
    status, text = command(machines["m1"], "selftest")
    assert status == 1 and "FAILED" in row(text, "m1.example.net") and row(text, "m2.example.net").count(" ms") == 2, text


def test_a_machine_alone_serves_its_users_and_says_so(mesh):
    machines = mesh(start=False)
    machines["m1"].start_all()
    machines["m1"].wait_login()
    health = machines["m1"].status()["health"]
    assert health.startswith("ALONE: no other node is reached") and "m2.example.net:5348 was never reached" in health, health
    assert machines["m1"].metric("jidmesh_mesh_alone") == 1 and machines["m1"].metric("jidmesh_mesh_peers_unreached") == 2
    text = command(machines["m1"], "status")[1]
    assert "ALONE" in text and row(text, "missing  m3.example.net:5348"), text
    assert command(machines["m1"], "selftest")[0] == 1
    said = "no other node is reached: this node serves its own users only"
    wait_for("the log says so", lambda: said in machines["m1"].router.log(), 10)
    machines["m2"].start_all()
    wait_for("and takes it back", lambda: "no longer alone" in machines["m1"].router.log(), 15)
    wait_for("m2 is ready", lambda: states(machines["m1"]).get("m2.example.net") == "ready", 10)
    assert machines["m1"].router.log().count(said) == 1, "once a minute at most"
    assert "ALONE" not in machines["m1"].status()["health"]
