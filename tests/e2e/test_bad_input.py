"""Bad input on the router port: a clear answer, a log line with reason and address, a counter, no effect on any other link."""

import base64
import time

import pytest

import bed
from frames import COMP, SASL
from native import HEADER, Closed, Foreign, Link, Native, digest_response

BAD_INPUT, AUTH_FAILED = "jidmesh_bad_input_total", "jidmesh_auth_failed_total"
MIB = 1 << 20
# More than the longest frame: jidmesh refuses a smaller one.
QUEUE_MIB = 12
AUTH_TIME_S = 2
pytestmark = pytest.mark.only("jidmesh", "jidmesh-2-shards")


@pytest.fixture
def stack(machine):
    return machine(sms=[], c2ss=[], extra="<queues><link>%d</link></queues><auth-time>%d</auth-time>" % (QUEUE_MIB, AUTH_TIME_S))


@pytest.fixture
def bystanders(stack):
    """Two components that talk before, and must be able to talk in just the same way after."""
    with Native(name="by.test") as one, Native(name="stander.test") as two:
        check_bystanders(one, two)
        yield one, two
        check_bystanders(one, two)
        assert stack.router.alive()


def check_bystanders(one, two, count=20):
    for number in range(count):
        one.route("stander.test", "<n xmlns='u:by' i='%d'/>" % number, frm="by.test")
    for number in range(count):
        assert two.next_of(lambda frame: frame.is_route() and frame.get("from") == "by.test", limit_s=2).payload.get("i") == str(number)


def logged(stack, link, *words):
    """A log line names the link's address, and one of the words."""
    def line():
        return [line for line in stack.router.log().splitlines() if str(link.local_port) in line and any(word in line.lower() for word in words)]

    return bed.wait_for(lambda: "a log line with port %d and one of %s in:\n%s" % (link.local_port, words, stack.router.log()[-2000:]), line)


def counted(stack, name, before):
    bed.wait_for(lambda: "%s grows beyond %s: %s" % (name, before, stack.metrics()), lambda: stack.metric(name) > before)


NOT_XML = ("xml-not-well-formed", "not-well-formed", "bad-format", "invalid-xml", "restricted-xml", "unsupported-encoding")

# What is sent inside an authenticated stream; what the stream error must be.
IN_STREAM = {
    "mismatched tags": (b"<route xmlns='%s'><a></b></route>" % COMP.encode(), NOT_XML),
    "attribute without quotes": (b"<route xmlns=%s/>" % COMP.encode(), NOT_XML),
    "a lone bracket in an attribute": (b"<route a='<'/>", NOT_XML),
    "bad utf-8": (b"<route xmlns='%s' from='bad.test' to='by.test'><x>\xff\xfe</x></route>" % COMP.encode(), NOT_XML),
    "an overlong utf-8 form": (b"<route xmlns='%s' from='bad.test' to='by.test'><x>\xc0\xbc</x></route>" % COMP.encode(), NOT_XML),
    "nul": (b"<route xmlns='%s' from='bad.test' to='by.test'><x>\0</x></route>" % COMP.encode(), NOT_XML),
    "nul between frames": (b"\0", NOT_XML),
    "text between frames": (b"hello", NOT_XML),
    "doctype": (b"<!DOCTYPE x><route/>", ("restricted-xml", "xml-not-well-formed")),
    "entity declaration": (b"<!DOCTYPE x [<!ENTITY a 'b'>]><route/>", ("restricted-xml", "xml-not-well-formed")),
    "doctype in a frame": (b"<route xmlns='%s'><!DOCTYPE x></route>" % COMP.encode(), ("restricted-xml", "xml-not-well-formed")),
    "nesting without end": (b"<route xmlns='%s' from='bad.test' to='by.test'>" % COMP.encode() + b"<a>" * 200_000,
                            ("policy-violation", "xml-not-well-formed")),
    "a frame over 10 MiB": (b"<route xmlns='%s' from='bad.test' to='by.test'>" % COMP.encode() + b"x" * (11 * MIB), ("policy-violation",)),
    "a start tag over 10 MiB": (b"<route xmlns='%s' a='" % COMP.encode() + b"x" * (11 * MIB), ("policy-violation",)),
}


@pytest.mark.parametrize("case", IN_STREAM)
def test_bad_input_in_a_stream(stack, bystanders, case):
    data, conditions = IN_STREAM[case]
    before = stack.metric(BAD_INPUT)
    with Native(name="bad.test") as link:
        link.drain()
        got = b""
        try:
            link.send(data)
            got = link.until_closed()
        except Closed:
            got = link.raw
        # A peer that is still sending when the router closes may lose the answer to the reset that follows.
        if len(data) < 100_000:
            assert any(condition.encode() in got for condition in conditions) and got.endswith(b"</stream:stream>"), got
        logged(stack, link, "xml", "limit", "long", "large", "deep", "nest", "forbidden", "doctype", "utf-8", "format", "input", "restricted", "policy")
    counted(stack, BAD_INPUT, before)
    one, _ = bystanders
    assert not [frame for frame in one.frames(0.1) if frame.is_route()], "nothing of it was forwarded"


BEFORE_STREAM = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "random bytes": bytes((number * 167 + 13) % 256 for number in range(3000)),
    "nul": b"\0" * 10,
    "another root": b"<?xml version='1.0'?><html><body/></html>",
    "another namespace of the root": b"<stream:stream xmlns:stream='http://example.org/other' version='1.0'>",
    "doctype": b"<!DOCTYPE stream:stream [<!ENTITY x 'y'>]><stream:stream xmlns:stream='http://etherx.jabber.org/streams'>",
    "utf-16": HEADER.decode().encode("utf-16"),
    "another encoding": HEADER.replace(b"<?xml version='1.0'?>", b"<?xml version='1.0' encoding='ISO-8859-1'?>"),
    "version 2.0": HEADER.replace(b"version='1.0'>", b"version='2.0'>"),
    "an endless header": b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' a='" + b"x" * (12 * MIB),
}


@pytest.mark.parametrize("case", BEFORE_STREAM)
def test_garbage_instead_of_a_stream(stack, bystanders, case):
    before = stack.metric(BAD_INPUT)
    with Link() as link:
        try:
            link.send(BEFORE_STREAM[case])
            got = link.until_closed()
        except Closed:
            got = b""
        if len(BEFORE_STREAM[case]) < 100_000:
            assert b"<stream:error" in got and got.endswith(b"</stream:stream>"), got
            assert got.count(b"<stream:stream") == 1, "the answer is a stream of its own"
        logged(stack, link, "")
    if case != "version 2.0":
        counted(stack, BAD_INPUT, before)


FRAMES_TOO_EARLY = {
    "route": "<route xmlns='%s' from='by.test' to='stander.test'><x xmlns='u:t'/></route>" % COMP,
    "bind": "<bind xmlns='%s' name='early.test'/>" % COMP,
    "response without auth": "<response xmlns='%s'>AAAA</response>" % SASL,
    "unknown mechanism": "<auth xmlns='%s' mechanism='PLAIN'>AGphYmJlcmQAc2VjcmV0</auth>" % SASL,
}


@pytest.mark.parametrize("case", FRAMES_TOO_EARLY)
def test_frames_before_authentication_are_never_acted_upon(stack, bystanders, case):
    """A route may wait until its sender is known (a returning c2s does send such): it is never routed for a stranger."""
    _, two = bystanders
    two.drain()
    with Native() as link:
        link.open()
        link.send(FRAMES_TOO_EARLY[case])
        if case != "route":
            answer = link.frame()
            assert any(word in answer.raw for word in (b"not-authorized", b"<failure", b"policy-violation")), answer
        try:
            link.until_closed(AUTH_TIME_S * 2 + 2)
        except Closed:
            pass
        logged(stack, link, "")
        assert not [frame for frame in two.frames() if frame.is_route() or frame.is_presence("early.test")]


def test_three_wrong_passwords_close_the_stream(stack, bystanders):
    before = stack.metric(AUTH_FAILED)
    with Native(password="wrong") as link:
        link.open()
        for _ in range(3):
            failure = link.authenticate()
            assert failure.name == "failure" and b"not-authorized" in failure.raw
        link.until_closed()
        logged(stack, link, "auth", "password")
    counted(stack, AUTH_FAILED, before)


def test_a_right_password_after_a_wrong_one_is_accepted(stack, bystanders):
    with Native(password="wrong") as link:
        link.open()
        assert link.authenticate().name == "failure"
        link.password = "secret"
        assert link.authenticate().name == "success"


def test_an_unknown_user_learns_no_more_than_a_wrong_password(stack, bystanders):
    answers = []
    for user in ("jabberd", "nobody"):
        with Native(user=user, password="wrong") as link:
            link.open()
            answers.append(link.authenticate().raw)
    assert answers[0] == answers[1]


def challenge_text(link):
    return base64.b64decode(link.challenge().xml.text).decode()


def test_a_replayed_response_is_refused(stack, bystanders):
    before = stack.metric(AUTH_FAILED)
    with Native() as one:
        one.open()
        text = digest_response("jabberd", "secret", challenge_text(one))
        assert one.respond(text).name == "success"
    with Native() as two:
        two.open()
        two.challenge()
        assert two.respond(text).name == "failure"
        logged(stack, two, "auth", "nonce", "digest", "password")
    counted(stack, AUTH_FAILED, before)


ALTERATIONS = {
    "nonce": lambda text: text.replace('nonce="', 'nonce="x', 1),
    "realm": lambda text: text.replace("jabberd-router", "another", 1),
    "user": lambda text: text.replace('username="jabberd"', 'username="jabberd2"'),
    "count": lambda text: text.replace("nc=00000001", "nc=00000002"),
    "uri": lambda text: text.replace('digest-uri="jabberd-router/', 'digest-uri="xmpp/'),
    "response": lambda text: text.replace("response=", "response=0"),
    "qop": lambda text: text.replace("qop=auth", "qop=auth-conf"),
    "nothing": lambda text: "",
    "one quote": lambda text: 'username="jabberd',
    "nul": lambda text: text.replace("jabberd", "jab\0berd", 1),
    "twice": lambda text: text + ', username="jabberd"',
}


@pytest.mark.parametrize("case", ALTERATIONS)
def test_an_altered_response_is_refused(stack, bystanders, case):
    with Native() as link:
        link.open()
        assert link.authenticate(ALTERATIONS[case]).name == "failure"


@pytest.mark.parametrize("data", ["not base64 !!!", "====", "A" * 5_000, "\u00e9"], ids=["words", "padding", "too long", "not ascii"])
def test_a_response_that_is_no_base64_is_refused(stack, bystanders, data):
    with Native() as link:
        link.open()
        link.challenge()
        link.send("<response xmlns='%s'>%s</response>" % (SASL, data))
        assert link.frame().name in ("failure", "error")


@pytest.mark.parametrize("begun", [b"", HEADER[:30], HEADER, HEADER + b"<auth xmlns='%s' mechanism='DIGEST-MD5'/>" % SASL.encode()],
                         ids=["nothing", "half a header", "header", "auth"])
def test_an_unfinished_handshake_is_closed_in_time(stack, bystanders, begun):
    with Link() as link:
        link.send(begun)
        start = time.monotonic()
        link.until_closed(AUTH_TIME_S * 2 + 2)
        assert time.monotonic() - start >= AUTH_TIME_S * 0.5, "not at once, either"
        logged(stack, link, "time", "handshake", "authenticat")


def test_a_handshake_that_dribbles_is_closed_in_time(stack, bystanders):
    with Link() as link:
        start = time.monotonic()
        answer = b""
        try:
            for byte in HEADER:
                link.send(bytes([byte]))
                time.sleep(0.1)
                link.socket.settimeout(0.001)
                try:
                    data = link.socket.recv(1 << 16)
                except TimeoutError:
                    continue
                answer += data
                if not data:
                    break
        except (Closed, ConnectionError):
            pass
        assert time.monotonic() - start < AUTH_TIME_S * 2 + 2
        # RFC 6120, 4.9.1.1: a stream error needs a stream around it, even when the peer's header never came.
        assert not answer or answer.count(b"<stream:stream ") == 1 and answer.endswith(b"</stream:stream>"), answer


def test_a_header_split_byte_by_byte_is_fine(stack, bystanders):
    with Native() as link:
        link.dribble(HEADER)
        link.header()
        assert link.frame().name == "features"


def test_a_component_that_sends_a_byte_at_a_time_holds_up_nobody(stack, bystanders):
    with Native(name="slow.test") as slow:
        frame = ("<route xmlns='%s' from='slow.test' to='by.test'><x xmlns='u:t'/></route>" % COMP).encode()
        for byte in frame:
            slow.send(bytes([byte]))
            check_bystanders(*bystanders, count=1)
        assert bystanders[0].next_of(lambda frame: frame.is_route() and frame.get("from") == "slow.test").payload.tag == "{u:t}x"


def test_a_component_that_never_reads_costs_its_queue_and_nothing_more(stack, bystanders):
    with Native(name="deaf.test") as deaf, Native(name="loud.test") as loud:
        loud.drain()
        memory = stack.router.memory_bytes()
        payload = "<message xmlns='jabber:client' to='v@deaf.test'><body>%s</body></message>" % ("x" * 20_000)
        bounced = 0
        for _ in range(1500):  # 30 MB
            loud.route("deaf.test", payload, frm="loud.test")
            bounced += sum(frame.is_route() and frame.get("error") is not None for frame in loud.frames(0.0005))
        bounced += sum(frame.is_route() and frame.get("error") is not None for frame in loud.frames(0.5))
        check_bystanders(*bystanders)
        grown = stack.router.memory_bytes() - memory
        assert grown < (QUEUE_MIB * 3 + 16) * MIB, "grew by %d KiB" % (grown >> 10)
        metrics = stack.metrics()
        told = metrics.get('jidmesh_bounced_total{code="queue"}', 0) + metrics.get('jidmesh_dropped_total{reason="queue-full"}', 0) + \
            metrics.get('jidmesh_bounced_total{code="404"}', 0) + metrics.get('jidmesh_dropped_total{reason="link-gone"}', 0)
        assert told > 0 and bounced > 0, (told, bounced)
        assert deaf.local_port


@pytest.mark.parametrize("count", [200])
def test_too_many_links(machine, count):
    stack = machine(sms=[], c2ss=[], start=False)
    stack.router_settings["io"] = ""
    stack.write_router()
    path = stack.folder + "/router.xml"
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace("<max_fds>1024</max_fds>", "<max_fds>100</max_fds>"))
    stack.start()
    with Native(name="by.test") as one, Native(name="stander.test") as two:
        links = []
        for _ in range(count):
            try:
                links.append(Link())
            except OSError:
                break
        time.sleep(0.5)
        check_bystanders(one, two)
        refused = 0
        for link in links:
            try:
                link._more(0.001)
            except Closed:
                refused += 1
        assert refused > 0, "some of %d were refused" % count
        bed.wait_for("a log line about the limit", lambda: any(word in stack.router.log().lower() for word in ("max_fds", "too many", "limit")))
        for link in links:
            link.close()
        check_bystanders(one, two)
    def again():
        try:
            with Native(name="late.test"):
                return True
        except (OSError, Closed, AssertionError):
            return False
    bed.wait_for("room for a link after the others went", again, 10)


@pytest.mark.parametrize("case", ["route", "bind"])
def test_another_components_name(stack, bystanders, case):
    with Native(name="thief.test") as link:
        link.drain()
        if case == "bind":
            assert link.bind("by.test").get("error") == "409"
        else:
            before = stack.metric('jidmesh_bounced_total{code="401"}')
            link.route("stander.test", frm="by.test")
            assert link.next_route().get("error") == "401"
            counted(stack, 'jidmesh_bounced_total{code="401"}', before)
        logged(stack, link, "by.test")


@pytest.mark.parametrize("data", [
    b"<message from='a@conf.test' to='v@by.test'><body>&undeclared;</body></message>",
    b"<message from='a@conf.test' to='v@by.test'><a x='1' x='2'/></message>",
    b"<message from='a@conf.test' to='v@by.test'><p:a/></message>",
    b"<message from='a@conf.test' to='v@by.test'><body>&#0;</body></message>",
    b"<message from='a@conf.test' to='v@by.test'><body>\x01</body></message>",
    b"<message from='a@conf.test' to='v@by.test'><body>]]></body></message>",
    b"<message from='a@conf.test' to='v@by.test'><a b='1'c='2'/></message>",
    b"<message from='a@conf.test' to='v@by.test'><1/></message>",
    b"<message from='a@conf.test' to='v@by.test'><?xml version='1.0'?></message>",
], ids=["entity", "attribute twice", "prefix", "nul reference", "control character", "cdata end", "no space", "name", "declaration"])
def test_what_expat_would_refuse_never_leaves_a_foreign_link(stack, bystanders, data):
    before = stack.metric(BAD_INPUT)
    with Foreign("conf.test") as room:
        room.send(data)
        got = room.until_closed()
        assert b"<stream:error" in got, got
        logged(stack, room, "")
    counted(stack, BAD_INPUT, before)
    assert not [frame for frame in bystanders[0].frames(0.1) if frame.is_route()]


@pytest.mark.parametrize("how", ["full", "missing"])
def test_a_log_that_cannot_be_written_does_not_stop_routing(machine, how):
    path = "/dev/full" if how == "full" else "/nonexistent/folder/router.log"
    stack = machine(sms=[], c2ss=[], start=False)
    text = open(stack.folder + "/router.xml", encoding="utf-8").read()
    with open(stack.folder + "/router.xml", "w", encoding="utf-8") as file:
        file.write(text.replace("<log type='stdout'/>", "<log type='file'><file>%s</file></log>" % path))
    stack.start()
    with Native(name="by.test") as one, Native(name="stander.test") as two:
        # Each is a warning in the log (and takes a second: the router asks whether the old link is alive).
        for _ in range(3):
            with pytest.raises(AssertionError):
                Native(name="by.test")
        check_bystanders(one, two)
