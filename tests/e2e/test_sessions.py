"""Sessions on the router's table, with components of the tests' own as sm and c2s: who is told what when one of them is lost, returns, or is
wrong about a session."""

import time

import pytest

import bed
from frames import SESS
from native import Native

pytestmark = pytest.mark.only("jidmesh", "jidmesh-2-shards")
DOMAIN = "example.net"
SC = "{%s}" % SESS
LOST_LIMIT_S = bed.GRACE_S + 4


@pytest.fixture
def stack(machine):
    return machine(sms=[], c2ss=[])


def sm_named(name):
    sm = Native(name=name)
    assert sm.bind(DOMAIN, multi=True).get("error") is None
    return sm


def is_session(action):
    return lambda frame: frame.is_route() and frame.payload is not None and frame.payload.get("action") == action


def start(c2s, sms, user, number, c2s_name="c2s9"):
    """A whole session start; returns (sm, its name, its side's id). `sms`: {name: Native}."""
    c2s.route(DOMAIN, "<sc:session xmlns:sc='%s' id='i%s' target='%s@%s/r' action='start' sc:c2s='%d'/>" % (SESS, user, user, DOMAIN, number), frm=c2s_name)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        for name, sm in sms.items():
            for frame in sm.frames(0.05):
                if is_session("start")(frame):
                    identity = "%s-%s" % (name, user)
                    control(sm, "started", identity, number, frm=name, to=c2s_name, more=" id='i%s' target='%s@%s/r'" % (user, user, DOMAIN))
                    assert c2s.next_of(is_session("started")).get("from") == name
                    return sm, name, identity
    raise AssertionError("no sm got the start")


def control(link, action, identity, number, *, frm, to, more=""):
    link.route(to, "<sc:session xmlns:sc='%s' action='%s' sc:sm='%s' sc:c2s='%d'%s/>" % (SESS, action, identity, number, more), frm=frm)


def client_stanza(identity, number, body="<iq xmlns='jabber:client' xmlns:sc='%s' sc:sm='%s' sc:c2s='%d' type='get' id='q'/>"):
    return body % (SESS, identity, number)


def ids_of(frame):
    return frame.payload.get(SC + "sm"), frame.payload.get(SC + "c2s")


def answer_questions(sm, name, alive=True, quiet_s=0.3):
    """Answers an iq about a session as sm does: a result, or the iq with failed='1'. Returns (questions, all other frames)."""
    questions, others = [], []
    for frame in sm.frames(quiet_s):
        if frame.is_route() and frame.payload is not None and frame.payload.tag == "{jabber:client}iq" and frame.payload.get("type") == "get":
            questions.append(frame)
            sc_sm, sc_c2s = ids_of(frame)
            kind, failed = ("result", "") if alive else ("get", " failed='1'")
            sm.route(frame.get("from"), "<iq xmlns='jabber:client' xmlns:sc='%s' sc:sm='%s' sc:c2s='%s' type='%s' id='%s'%s/>" % (
                SESS, sc_sm, sc_c2s, kind, frame.payload.get("id"), failed), frm=DOMAIN if alive else name)
        else:
            others.append(frame)
    return questions, others


def settle_sm(sm, name, alive, rounds=10):
    """Answers questions until none has come for a while; returns (number of questions, other frames)."""
    count, others = 0, []
    for _ in range(rounds):
        questions, more = answer_questions(sm, name, alive)
        count, others = count + len(questions), others + more
        if not questions and not more:
            break
    return count, others


def test_a_second_session_of_a_user_goes_to_the_sm_of_the_first(stack):
    with sm_named("smA") as one, sm_named("smB") as two, Native(name="c2s9") as c2s:
        sms = {"smA": one, "smB": two}
        for user in range(6):
            first = start(c2s, sms, "u%d" % user, 10 + user)[1]
            c2s.route(DOMAIN, "<sc:session xmlns:sc='%s' id='j' target='U%d@%s/other' action='start' sc:c2s='%d'/>" % (SESS, user, DOMAIN, 100 + user), frm="c2s9")
            assert sms[first].next_of(is_session("start")).payload.get(SC + "c2s") == str(100 + user)


def test_frames_for_a_user_go_to_his_sm(stack):
    with sm_named("smA") as one, sm_named("smB") as two, Native(name="c2s9") as c2s, Native(name="a.test") as other:
        sms = {"smA": one, "smB": two}
        homes = {"u%d" % user: start(c2s, sms, "u%d" % user, 10 + user)[1] for user in range(6)}
        assert set(homes.values()) == {"smA", "smB"}, "the least loaded one gets the next user"
        for user, home in homes.items():
            for to in ("%s@%s" % (user, DOMAIN), "%s@%s/r" % (user, DOMAIN), "%s@%s/elsewhere" % (user.upper(), DOMAIN)):
                other.route(DOMAIN, "<message xmlns='jabber:client' from='x@a.test' to='%s'><body>x</body></message>" % to, frm="a.test")
                assert sms[home].next_route().payload.get("to") == to
        assert not [frame for sm in sms.values() for frame in sm.frames(0.1) if frame.is_route()]


def test_an_end_to_the_domain_reaches_the_sm_that_started_the_session(stack):
    """c2s does this for a `started` of a client that is gone."""
    with sm_named("smA") as one, sm_named("smB") as two, Native(name="c2s9") as c2s:
        sms = {"smA": one, "smB": two}
        for user in range(4):
            sm, name, identity = start(c2s, sms, "u%d" % user, 10 + user)
            control(c2s, "end", identity, 10 + user, frm="c2s9", to=DOMAIN)
            assert ids_of(sm.next_of(is_session("end"))) == (identity, str(10 + user))
            control(sm, "ended", identity, 10 + user, frm=name, to="c2s9")


def test_a_lost_sm_ends_the_clients_it_served_and_no_others(stack):
    with Native(name="c2s9") as c2s, sm_named("smB") as two:
        one = sm_named("smA")
        sms = {"smA": one, "smB": two}
        homes = {10 + user: start(c2s, sms, "u%d" % user, 10 + user) for user in range(6)}
        lost = {number: identity for number, (_, name, identity) in homes.items() if name == "smA"}
        assert 0 < len(lost) < 6
        c2s.drain()
        one.close()
        ended = {}
        for _ in lost:
            frame = c2s.next_of(lambda frame: is_session("ended")(frame) or is_session("replaced")(frame), limit_s=LOST_LIMIT_S)
            ended[int(ids_of(frame)[1])] = ids_of(frame)[0]
        assert ended == lost
        rest = c2s.frames(0.5)
        assert not [frame for frame in rest if frame.is_presence(DOMAIN, "unavailable")], "the other sm still serves the domain"
        assert not [frame for frame in rest if is_session("ended")(frame)]
        # They log in again, on the sm that is left.
        for number in lost:
            assert start(c2s, {"smB": two}, "u%d" % (number - 10), number)[1] == "smB"


def test_a_lost_c2s_is_withdrawn_from_the_sm_when_its_grace_ends_and_not_before(stack):
    with sm_named("smA") as sm:
        c2s = Native(name="c2s9")
        start(c2s, {"smA": sm}, "u1", 10)
        sm.drain()
        begun = time.monotonic()
        c2s.close()
        sm.next_of(lambda frame: frame.is_presence("c2s9", "unavailable"), limit_s=LOST_LIMIT_S)
        assert time.monotonic() - begun > stack.grace_s - 0.5


@pytest.mark.parametrize("alive", [True, False], ids=["same process", "restarted"])
def test_an_sm_that_returns_is_asked_before_its_queue_is_released(stack, alive):
    with Native(name="c2s9") as c2s, Native(name="a.test") as other:
        sm = sm_named("smA")
        start(c2s, {"smA": sm}, "u1", 10)
        c2s.drain()
        sm.close()
        time.sleep(0.2)
        for number in range(5):
            other.route(DOMAIN, "<message xmlns='jabber:client' from='x@a.test' to='u1@%s'><body>%d</body></message>" % (DOMAIN, number), frm="a.test")
        time.sleep(0.2)
        with Native() as again:
            again.login()
            for name, multi in (("smA", False), (DOMAIN, True)):
                assert again.bind(name, multi=multi).get("error") is None
            first = again.next_route()
            assert first.payload.tag == "{jabber:client}iq" and ids_of(first) == ("smA-u1", "10"), first
            assert not [frame for frame in again.frames(0.2) if frame.is_route() and frame.payload.tag.endswith("message")], "released before the answer"
            again.queue.insert(0, ("frame", first.raw))
            _, others = settle_sm(again, "smA", alive)
            bodies = [frame.payload[0].text for frame in others if frame.is_route() and frame.payload.tag == "{jabber:client}message"]
            told = c2s.frames(0.3)
            assert not [frame for frame in told if frame.is_route() and frame.payload.tag == "{jabber:client}iq"], "the answer was the router's own"
            if alive:
                assert bodies == list("01234")
                assert not [frame for frame in told if is_session("ended")(frame)]
            else:
                # The client is ended; the messages are for a user without a session now: to the sm that is there, once and in order.
                assert [ids_of(frame) for frame in told if is_session("ended")(frame)] == [("smA-u1", "10")]
                assert bodies == list("01234")
            assert stack.metric("jidmesh_links_returned_total" if alive else "jidmesh_links_lost_total") == 1


@pytest.mark.parametrize("alive", [True, False], ids=["same process", "restarted"])
def test_a_c2s_that_returns_is_asked_before_its_queue_is_released(stack, alive):
    """A `started` with a bogus sm-side id: `end` to the sm id means that the client is there, `end` to the domain that it is not."""
    with sm_named("smA") as sm:
        c2s = Native(name="c2s9")
        start(c2s, {"smA": sm}, "u1", 10)
        sm.drain()
        c2s.close()
        time.sleep(0.2)
        delivery = "<message xmlns='jabber:client' xmlns:sm='%s' sm:sm='smA-u1' sm:c2s='10' from='x@peer.test/r' to='u1@%s/r'><body>%%d</body></message>" % (SESS, DOMAIN)
        for number in range(5):
            sm.route("c2s9", delivery % number, frm=DOMAIN)
        time.sleep(0.2)
        with Native(name="c2s9") as again:
            question = again.next_route()
            assert question.payload.get("action") == "started" and question.payload.get(SC + "c2s") == "10"
            bogus = question.payload.get(SC + "sm")
            assert bogus != "smA-u1"
            assert not [frame for frame in again.frames(0.2) if frame.is_route() and frame.payload.tag.endswith("message")], "released before the answer"
            control(again, "end", bogus, 10, frm="c2s9", to="smA" if alive else DOMAIN)
            got = [frame for frame in again.frames(0.5) if frame.is_route() and frame.payload.tag.endswith("message")]
            heard = sm.frames(0.3)
            assert bogus not in [ids_of(frame)[0] for frame in heard if frame.is_route() and frame.payload is not None], "the question is the router's own"
            over = [frame for frame in heard if is_session("end")(frame) or frame.is_presence("c2s9", "unavailable")]
            if alive:
                assert [frame.payload[0].text for frame in got] == list("01234") and not over
            else:
                assert not got and over
                again = [frame for frame in heard if frame.is_route() and frame.payload is not None and frame.payload.tag.endswith("message")]
                assert [frame.payload[0].text for frame in again] == list("01234"), "what was queued goes to its user once more"
                assert not [frame for frame in again if ids_of(frame) != (None, None)], "and no longer to the lost session"
                assert heard.index(over[0]) < heard.index(again[0])


def test_a_zombie_is_cleared(stack):
    """sm does not know a client that c2s still has: the client is ended, and the stanza that showed it is not handed to him as if it had come in."""
    with sm_named("smA") as sm, Native(name="c2s9") as c2s:
        start(c2s, {"smA": sm}, "u1", 10)
        sm.drain(), c2s.drain()
        stanza = "<message xmlns='jabber:client' xmlns:sc='%s'%s sc:sm='smA-u1' sc:c2s='10' to='x@%s'><body>lost</body></message>"
        c2s.route("smA", stanza % (SESS, "", DOMAIN), frm="c2s9")
        sm.next_route()
        sm.route("c2s9", stanza % (SESS, " failed='1'", DOMAIN), frm="smA")
        frame = c2s.next_route()
        assert frame.get("error") == "404" or frame.payload.get("action") == "ended", frame
        assert frame.payload.get(SC + "failed") is None, "the prefixed form makes c2s close its router link"
        assert stack.metric("jidmesh_zombies_cleared_total") == 1


def test_a_client_stanza_of_a_session_that_is_not_there_is_answered_404(stack):
    with sm_named("smA") as sm, Native(name="c2s9") as c2s:
        sm.drain(), c2s.drain()
        c2s.route("smA", client_stanza("nosuch", 77), frm="c2s9")
        frames = [frame for frame in c2s.frames(0.5) if frame.is_route()]
        asked = [frame for frame in sm.frames(0.1) if frame.is_route()]
        # The sm may be asked first; a plain stock sm would answer with failed='1', and that must not reach c2s as it is.
        if not frames:
            assert asked
            sm.route("c2s9", client_stanza("nosuch", 77).replace(" type=", " failed='1' type="), frm="smA")
            frames = [frame for frame in c2s.frames(0.5) if frame.is_route()]
        assert frames and frames[0].get("error") == "404", frames


def test_a_bounced_session_control_frame_is_no_more_than_that(stack):
    """The `ended` of a stopping sm for a c2s that is gone: 404 to the sm, whose answer (with `error`) is dropped."""
    with sm_named("smA") as sm:
        sm.drain()
        control(sm, "ended", "x", 9, frm="smA", to="gone.c2s")
        assert sm.next_route().get("error") == "404"
        sm.route("gone.c2s", "<sc:session xmlns:sc='%s' action='ended' sc:sm='x' sc:c2s='9'/>" % SESS, frm="smA", error="404")
        assert not [frame for frame in sm.frames() if frame.is_route()]


def test_two_resources_bound_on_one_client_stream_are_two_sessions(stack):
    """A second `started` of one (c2s, number) does not prove that the first is gone."""
    with sm_named("smA") as sm, Native(name="c2s9") as c2s, Native(name="a.test") as other:
        start(c2s, {"smA": sm}, "u1", 10)
        c2s.route(DOMAIN, "<sc:session xmlns:sc='%s' id='k' target='u1@%s/second' action='start' sc:c2s='10'/>" % (SESS, DOMAIN), frm="c2s9")
        sm.next_of(is_session("start"))
        control(sm, "started", "smA-u1-2", 10, frm="smA", to="c2s9", more=" id='k' target='u1@%s/second'" % DOMAIN)
        c2s.next_of(is_session("started"))
        control(c2s, "end", "smA-u1-2", 10, frm="c2s9", to="smA")
        sm.next_of(is_session("end"))
        control(sm, "ended", "smA-u1-2", 10, frm="smA", to="c2s9")
        c2s.next_of(is_session("ended"))
        other.route(DOMAIN, "<message xmlns='jabber:client' from='x@a.test' to='u1@%s/r'><body>x</body></message>" % DOMAIN, frm="a.test")
        assert sm.next_route().payload.get("to") == "u1@%s/r" % DOMAIN
