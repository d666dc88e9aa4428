"""What a component may rely on, on the stock router as on jidmesh: names, adverts, routes and their errors.

Where jidmesh is better on purpose, the test runs on jidmesh alone and says so.
"""

import base64
import time

import pytest

from frames import COMP, SESS, canonical
from native import HEADER, Foreign, Native, digest_response

ROUTE = "<route xmlns='%s' " % COMP


@pytest.fixture
def stack(machine):
    """A router without jabberd2's components."""
    return machine(sms=[], c2ss=[], users=[("limited", "pw"), ("binder", "pw")], acls="<acl type='bind'><user>binder</user></acl>",
                   aliases=[("alias.test", "target.test")])


# Opening


def test_features_come_before_authentication_and_offer_digest_md5(stack):
    with Native() as link:
        features = link.open()
        assert b"DIGEST-MD5" in features.raw


@pytest.mark.parametrize("host", ["testbed", "", "another.host.example"])
def test_any_host_part_of_the_digest_uri_is_taken(stack, host):
    with Native() as link:
        link.open()
        challenge = link.challenge()
        text = digest_response("jabberd", "secret", base64.b64decode(challenge.xml.text).decode(), host=host)
        assert link.respond(text).name == "success"


def test_a_component_with_a_default_namespace_and_ack_prefix_may_open(stack):
    with Native() as link:
        link.send("<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0' "
                  "xmlns:ack='http://www.xmpp.org/extensions/xep-0198.html#ns'>")
        link.header()
        assert link.frame().name == "features"


def test_a_name_is_known_to_everybody_once_its_bind_is_answered(stack):
    """Who reads the answer may tell anybody, who may use the name at once: over several links, which several shards serve."""
    with Native(name="one.test") as one, Native(name="two.test") as two, Native(name="three.test") as three:
        for number in range(30):
            name = "n%d.test" % number
            assert one.bind(name).get("error") is None
            two.route(name, frm="two.test")
            three.route(name, frm="three.test")
            assert [one.next_route().get("error") for _ in range(2)] == [None, None], name
        assert not [frame for link in (two, three) for frame in link.frames() if frame.is_route()], "nothing was sent back"


def test_binds_sent_together_are_answered_in_order_before_any_advert(stack):
    with Native(name="old.test"), Native() as link:
        link.login()
        link.send_bind("own.test")
        link.send_bind("second.test", multi=True)
        link.send_bind("third.test", default=True)
        first = link.frame()
        assert first.name == "bind" and first.get("error") is None, "the bind of the own id is answered before any other frame"
        answers = [frame for frame in link.frames() if frame.name == "bind"]
        assert [answer.get("multi") for answer in answers] == ["to", None]
        assert answers[1].payload.tag == "{%s}default" % COMP
        assert all(answer.get("name") is None for answer in answers)


@pytest.mark.parametrize("options", [dict(log=True), dict(default=True), dict(multi=True), {}])
def test_a_bind_answer_repeats_the_options(stack, options):
    with Native() as link:
        link.login()
        answer = link.bind("a.test", **options)
        assert answer.get("error") is None
        assert answer.get("multi") == ("to" if options.get("multi") else None)
        names = [child.tag.rsplit("}", 1)[-1] for child in answer.xml]
        assert names == [name for name in ("default", "log") if options.get(name)]


# Refusals


def test_a_taken_name_is_409_and_a_missing_name_is_400(stack):
    with Native(name="a.test"), Native(name="b.test") as link:
        assert link.bind("a.test").get("error") == "409"
        link.send("<bind xmlns='%s'/>" % COMP)
        assert link.next_of(lambda frame: frame.name == "bind").get("error") == "400"


def test_a_second_default_route_is_409(stack):
    with Native(name="a.test", default=True), Native(name="b.test") as link:
        assert link.bind("c.test", default=True).get("error") == "409"


def test_a_user_without_rights_binds_only_his_own_name(stack):
    with Native(user="limited", password="pw") as link:
        link.login()
        assert link.bind("other.test").get("error") == "403"
        assert link.bind("limited").get("error") is None
        assert link.bind("limited2", default=True).get("error") == "403"
        assert link.bind("limited3", log=True).get("error") == "403"


def test_a_user_with_bind_rights_may_not_take_the_default_route(stack):
    with Native(user="binder", password="pw") as link:
        link.login()
        assert link.bind("some.test").get("error") is None
        assert link.bind("other.test", default=True).get("error") == "403"
        assert link.bind("other.test", log=True).get("error") == "403"


def test_the_right_to_bind_is_no_right_to_see_everything(stack):
    with Native(user="binder", password="pw") as link:
        link.login()
        assert link.bind("any.test").get("error") is None
        assert link.bind("log.test", log=True).get("error") == "403"


@pytest.mark.parametrize("right, options", [("default-route", {"default": True}), ("log", {"log": True})])
def test_a_right_may_be_given_alone(machine, right, options):
    machine(sms=[], c2ss=[], users=[("one", "pw")], acls="<acl type='%s'><user>one</user></acl>" % right)
    with Native(user="one", password="pw") as link:
        link.login()
        assert link.bind("one", **options).get("error") is None
        assert link.bind("other.test").get("error") == "403"


def test_unbind_answers_and_frees_the_name(stack):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        assert two.unbind("a.test").get("error") == "404"
        assert one.unbind("a.test").get("error") is None
        two.next_of(lambda frame: frame.is_presence("a.test", "unavailable"))
        assert two.bind("a.test").get("error") is None


@pytest.mark.only("jidmesh", "jidmesh-2-shards")
@pytest.mark.parametrize("multi", [False, True])
def test_binding_a_name_twice_over_one_link_does_no_harm(stack, multi):
    """The stock router keeps a stale pointer and dies later."""
    with Native(name="a.test") as other:
        link = Native(name="twice.test", multi=multi)
        again = link.bind("twice.test", multi=multi)
        assert again.get("error") in (None, "409")
        link.close()
        other.next_of(lambda frame: frame.is_presence("twice.test", "unavailable"), limit_s=10)
        other.route("twice.test", frm="a.test")
        assert other.next_route().get("error") == "404"
    with Native(name="twice.test"):
        pass


# Adverts


def test_everybody_hears_of_a_new_name_and_the_newcomer_of_all_others(stack):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        one.next_of(lambda frame: frame.is_presence("b.test", "available"))
        two.next_of(lambda frame: frame.is_presence("a.test", "available"))
        assert not any(frame.is_presence("b.test") for frame in two.frames())


def test_nobody_hears_of_his_own_name(stack):
    with Native(name="a.test") as one:
        assert not [frame for frame in one.frames() if frame.is_presence("a.test")]


def test_a_shared_name_is_withdrawn_when_its_last_holder_goes(stack):
    with Native(name="watch.test") as watch:
        one, two = Native(name="one.test"), Native(name="two.test")
        assert one.bind("shared.test", multi=True).get("error") is None
        assert two.bind("shared.test", multi=True).get("error") is None
        watch.next_of(lambda frame: frame.is_presence("shared.test", "available"))
        watch.drain()
        one.unbind("shared.test")
        assert not [frame for frame in watch.frames() if frame.is_presence("shared.test", "unavailable")]
        two.unbind("shared.test")
        watch.next_of(lambda frame: frame.is_presence("shared.test", "unavailable"))
        one.close(), two.close()


def test_an_orderly_close_is_answered_and_withdraws_the_names(stack):
    with Native(name="a.test") as one:
        two = Native(name="b.test")
        two.drain()
        two.send("</stream:stream>")
        assert two.until_closed().endswith(b"</stream:stream>")
        one.next_of(lambda frame: frame.is_presence("b.test", "unavailable"), limit_s=10)


# Routes


PAYLOADS = {
    "single quotes": "<message xmlns='jabber:client' to='v@b.test'><body>x</body></message>",
    "double quotes": '<message xmlns="jabber:client" to="v@b.test"><body a=">">x</body></message>',
    "prefixes": "<m:message xmlns:m='jabber:client' a=\"it's\" b='say \"hi\"'><m:body>&lt;&#233;&gt;</m:body><y xmlns='u:y' p:q='1' xmlns:p='u:p'/></m:message>",
    "cdata": "<message xmlns='jabber:client'><body><![CDATA[<a>&]] ></route>]]></body></message>",
    "comment": "<message xmlns='jabber:client'><body>a</body><!-- </route> ' --></message>",
    "utf-8": "<message xmlns='jabber:client'><body>é 日本 \U0001f600</body></message>",
    "session control": "<sc:session xmlns:sc='%s' id='1' target='a@b.test/r' action='start' sc:c2s='9'/>" % SESS,
    "no payload": "",
}


@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_route_arrives_with_the_same_meaning(stack, kind):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        sent = "<route xmlns='%s' from='a.test' to='b.test'>%s</route>" % (COMP, PAYLOADS[kind])
        one.send(sent)
        assert canonical(two.next_route().raw) == canonical(sent.encode())


@pytest.mark.only("jidmesh", "jidmesh-2-shards")
@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_route_arrives_byte_for_byte(stack, kind):
    """The stock router serialises anew."""
    with Native(name="a.test") as one, Native(name="b.test") as two:
        sent = "<route xmlns='%s' from='a.test' to='b.test'>%s</route>" % (COMP, PAYLOADS[kind])
        one.send(sent)
        assert two.next_route().raw == sent.encode()


def test_a_route_with_a_prefix_of_its_own_is_routed(stack):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        one.send('<c:route xmlns:c=\'%s\' to="b.test" from="a.test"><x xmlns="u:t"></x></c:route>' % COMP)
        frame = two.next_route()
        assert frame.get("to") == "b.test" and frame.payload.tag == "{u:t}x"


def test_names_are_compared_after_preparation_and_left_as_they_are(stack):
    with Native(name="a.test") as one, Native(name="B.Test") as two:
        one.route("v@b.tEST/s", frm="u@A.test/r")
        frame = two.next_route()
        assert (frame.get("to"), frame.get("from")) == ("v@b.tEST/s", "u@A.test/r")


@pytest.mark.parametrize("step", [1, 3, 50])
def test_a_frame_may_come_in_any_pieces(stack, step):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        sent = "<route xmlns='%s' from='a.test' to='b.test'><m xmlns='u:t' a=\"'>\">é</m></route>" % COMP
        one.dribble(sent.encode() * 3, step)
        assert [canonical(two.next_route().raw) for _ in range(3)] == [canonical(sent.encode())] * 3


def test_whitespace_between_frames_is_ignored(stack):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        one.send(" \n\t" + ROUTE + "from='a.test' to='b.test'><x xmlns='u:t'/></route>  \r\n" + ROUTE + "from='a.test' to='b.test'><y xmlns='u:t'/></route>")
        assert [two.next_route().payload.tag for _ in range(2)] == ["{u:t}x", "{u:t}y"]


def test_frames_of_one_sender_arrive_in_order_and_once(stack):
    count = 3000
    with Native(name="a.test") as one, Native(name="b.test") as two:
        one.send("".join(ROUTE + "from='a.test' to='b.test'><n xmlns='u:t' i='%d'/></route>" % number for number in range(count)))
        assert [int(two.next_route().payload.get("i")) for _ in range(count)] == list(range(count))


@pytest.mark.parametrize("size", [5_000, 300_000, 3_000_000])
def test_a_large_frame_passes(stack, size):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        one.route("b.test", "<b xmlns='u:t'>%s</b>" % ("x" * size), frm="a.test")
        assert len(two.next_route(limit_s=20).payload.text) == size


# Errors


@pytest.mark.parametrize("error, attributes", [
    ("401", dict(frm="nosuch.test", to="b.test")), ("401", dict(frm="b.test", to="a.test")), ("404", dict(frm="a.test", to="nowhere.test")),
    ("400", dict(frm="a.test")), ("400", dict(to="b.test"))])
def test_a_bounce_is_the_frame_itself_with_the_error(stack, error, attributes):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        one.drain(), two.drain()
        payload = "<message xmlns='jabber:client' from='v@a.test' to='u@b.test'><body>x &amp; y</body></message>"
        one.route(payload=payload, **attributes)
        bounce = one.next_route()
        assert bounce.get("error") == error
        assert (bounce.get("from"), bounce.get("to")) == (attributes.get("frm"), attributes.get("to"))
        assert canonical(bounce.raw).count("x &amp; y") == 1 and bounce.payload.get("from") == "v@a.test"
        assert not [frame for frame in two.frames() if frame.is_route()]


@pytest.mark.parametrize("attributes", [dict(frm="a.test", to="b.test"), dict(frm="a.test", to="nowhere.test"), dict(frm="nosuch.test", to="b.test")])
def test_a_frame_that_carries_an_error_is_never_bounced_nor_routed(stack, attributes):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        one.drain(), two.drain()
        one.route(error="404", **attributes)
        assert not [frame for frame in one.frames() + two.frames() if frame.is_route()]


def test_a_route_of_unknown_type_is_dropped(stack):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        one.drain(), two.drain()
        one.route("b.test", frm="a.test", type="strange")
        assert not [frame for frame in one.frames() + two.frames() if frame.is_route()]


# Broadcast, default route, shared names, log sink, alias, throttle


def test_a_broadcast_reaches_everybody_else(stack):
    with Native(name="a.test") as one, Native(name="b.test") as two, Native(name="c.test") as three:
        one.drain()
        one.route(payload="<x xmlns='u:t'/>", frm="a.test", type="broadcast")
        for link in (two, three):
            frame = link.next_route()
            assert frame.get("type") == "broadcast" and frame.get("from") == "a.test" and frame.get("to") is None
        assert not [frame for frame in one.frames() if frame.is_route()]


def test_unknown_names_go_to_the_default_route_unchanged(stack):
    with Native(name="a.test") as one, Native(name="s2s.test", default=True) as two:
        one.route("far.example", frm="a.test")
        frame = two.next_route()
        assert frame.get("to") == "far.example" and frame.get("error") is None
        two.drain()
        two.route("far.example", frm="s2s.test")
        bounce = two.next_route()
        assert bounce.get("error") == "404", "what the default route itself sends to nowhere comes back"


def test_one_bare_jid_always_gets_the_same_holder_of_a_shared_name(stack):
    with Native(name="a.test") as one, Native(name="h1.test") as two, Native(name="h2.test") as three:
        for link in (two, three):
            assert link.bind("shared.test", multi=True).get("error") is None
        counts = []
        for user in range(20):
            for resource in "xyz":
                one.route("shared.test", "<message xmlns='jabber:client' to='u%d@shared.test/%s'/>" % (user, resource), frm="a.test")
        for link in (two, three):
            got = [frame.payload.get("to").split("@")[0] for frame in link.frames() if frame.is_route()]
            assert all(got.count(user) == 3 for user in set(got)), got
            counts.append(len(set(got)))
        assert sum(counts) == 20 and all(counts), "every frame arrived, and both holders have users: %s" % counts


def test_a_log_sink_gets_a_copy_of_what_is_deliverable_with_type_log(stack):
    with Native(name="log.test", log=True) as sink, Native(name="a.test") as one, Native(name="b.test") as two:
        sink.drain(), one.drain()
        payload = "<sc:session xmlns:sc='%s' action='end' sc:sm='x' sc:c2s='9'/>" % SESS
        one.route("nowhere.test", frm="a.test")
        one.route("b.test", payload, frm="a.test")
        copy, original = sink.next_route(), two.next_route()
        assert copy.get("type") == "log" and original.get("type") is None
        assert (copy.get("from"), copy.get("to")) == ("a.test", "b.test")
        assert copy.payload.get("{%s}c2s" % SESS) == "9"
        assert not [frame for frame in sink.frames() if frame.is_route()], "the bounced one is not copied"


def test_an_alias_is_advertised_and_cannot_be_bound(stack):
    with Native(name="a.test") as one, Native(name="target.test"):
        one.next_of(lambda frame: frame.is_presence("alias.test", "available"))
        assert one.bind("alias.test").get("error") == "409"


def test_an_alias_is_advertised_only_while_its_target_is_there(stack):
    with Native(name="a.test") as one:
        one.bind("b.test")
        assert not [frame for frame in one.frames() if frame.is_presence("alias.test")]
        with Native(name="id.test") as two:
            assert two.bind("target.test").get("error") is None
            one.next_of(lambda frame: frame.is_presence("alias.test", "available"))
            two.send("</stream:stream>")
            one.next_of(lambda frame: frame.is_presence("alias.test", "unavailable"))


@pytest.mark.only("jidmesh", "jidmesh-2-shards")
def test_an_alias_is_its_components_own_name(stack):
    """On the stock router the answer is 401."""
    with Native(name="a.test") as one, Native(name="target.test") as two:
        two.route("a.test", frm="alias.test")
        assert one.next_route().get("from") == "alias.test"
        assert two.bind("alias.test").get("error") is None, "it has it already"


def test_the_default_route_and_a_log_sink_end_with_their_names(stack):
    with Native(name="a.test") as one, Native(name="id.test") as two:
        for name, mark in (("far.test", {"default": True}), ("log.test", {"log": True})):
            assert two.bind(name, **mark).get("error") is None
            assert two.unbind(name).get("error") is None
        one.drain(), two.drain()
        one.route("nowhere.test", frm="a.test")
        assert one.next_route().get("error") == "404"
        one.route("a.test", frm="a.test")
        assert one.next_route().get("error") is None
        assert not [frame for frame in two.frames() if frame.is_route()]


@pytest.mark.only("jidmesh", "jidmesh-2-shards")
def test_an_alias_leads_to_its_target(stack):
    """The stock router of 2.7.0 advertises an alias, but answers 404 (`Mixed route types` in its log)."""
    with Native(name="a.test") as one, Native(name="target.test") as two:
        one.route("alias.test", frm="a.test")
        assert two.next_route().get("from") == "a.test"


def test_throttle_queues_until_the_second_throttle(stack):
    with Native(name="a.test") as one, Native(name="b.test") as two:
        two.drain()
        throttle = "<throttle xmlns='%s'/>" % COMP
        two.send(throttle)
        assert two.frame().name == "throttle"
        for number in range(5):
            one.route("b.test", "<n xmlns='u:t' i='%d'/>" % number, frm="a.test")
        assert not two.frames()
        two.send(throttle)
        assert two.frame().name == "throttle"
        assert [two.next_route().payload.get("i") for _ in range(5)] == list("01234")


# Keepalive


def test_a_single_space_is_sent_to_an_idle_link(machine):
    machine(sms=[], c2ss=[], check="<interval>1</interval><keepalive>1</keepalive>")
    with Native(name="a.test") as link:
        link.drain()
        before = len(link.raw)
        end = time.monotonic() + 5
        while len(link.raw) == before and time.monotonic() < end:
            link.frames(0.5)
        assert link.raw[before:].strip(b" ") == b"" and len(link.raw) > before


# XEP-0114


def test_a_component_gets_bare_stanzas_and_no_adverts(stack):
    with Native(name="a.test") as one, Foreign("conf.test") as room:
        one.next_of(lambda frame: frame.is_presence("conf.test", "available"))
        one.route("conf.test", "<message xmlns='jabber:client' from='u@a.test' to='room@conf.test'><body>hi</body></message>", frm="a.test")
        frame = room.frame()
        assert frame.name == "message" and frame.get("to") == "room@conf.test"
        assert frame.space in ("jabber:client", "jabber:component:accept")
        assert not room.frames()


@pytest.mark.parametrize("declaration", ["", " xmlns='jabber:client'", " xmlns='jabber:component:accept'"])
def test_a_components_stanza_is_wrapped_in_a_route(stack, declaration):
    with Native(name="a.test") as one, Foreign("conf.test") as room:
        room.send("<message%s from='room@conf.test/nick' to='u@a.test/r' type='groupchat'><body>yo</body></message>" % declaration)
        frame = one.next_route()
        assert (frame.get("from"), frame.get("to")) == ("conf.test", "a.test")
        assert frame.payload.tag == "{jabber:client}message" and frame.payload[0].tag == "{jabber:client}body"


@pytest.mark.only("jidmesh", "jidmesh-2-shards")
def test_prefixes_of_a_components_stream_header_are_made_self_contained(stack):
    with Native(name="a.test") as one, Foreign("conf.test", header_more=" xmlns:p='u:p'") as room:
        room.send("<message from='room@conf.test/n' to='u@a.test/r' p:q='1'><body/><p:z/></message>")
        frame = one.next_route()
        assert frame.payload.get("{u:p}q") == "1" and frame.payload[1].tag == "{u:p}z"


def test_a_components_stanza_to_nowhere_comes_back_as_an_error(stack):
    with Foreign("conf.test") as room:
        room.send("<message from='room@conf.test' to='u@nowhere.test'><body>x</body></message>")
        frame = room.frame()
        assert frame.get("type") == "error" and frame.name == "message"
        if stack.kind == "stock":
            assert b"service-unavailable" in frame.raw and frame.get("to") == "u@nowhere.test"
        else:
            # Better than stock: from the one who could not be reached, to the one who wrote.
            assert (frame.get("from"), frame.get("to")) == ("u@nowhere.test", "room@conf.test")


def test_a_component_may_not_speak_for_another(stack):
    with Native(name="a.test") as one, Foreign("conf.test") as room:
        one.drain()
        room.send("<message from='u@a.test' to='v@a.test'><body>x</body></message>")
        assert not [frame for frame in one.frames() if frame.is_route()]


def test_a_wrong_handshake_is_told_so_and_closed(stack):
    with Foreign("conf.test", secret="wrong", login=False) as room:
        frame = room.login()
        assert b"not-authorized" in frame.raw
        room.until_closed()


# sm's error reply


@pytest.mark.only("jidmesh", "jidmesh-2-shards")
def test_an_error_reply_of_an_sm_reaches_the_sender(stack):
    """sm leaves `error` on the route of its error stanza: the stock router drops it, and the sender learns nothing."""
    with Native(name="sm9") as sm, Native(name="b.test") as other:
        assert sm.bind("example.net", multi=True).get("error") is None
        other.drain()
        sm.route("b.test", "<message xmlns='jabber:client' type='error' from='v@example.net' to='u@b.test/z'><error type='cancel' code='404'/></message>",
                 frm="sm9", error="404")
        frame = other.next_route()
        assert frame.get("error") is None and frame.payload.get("type") == "error" and frame.payload.get("to") == "u@b.test/z"


def test_a_stock_header_is_what_the_tests_send():
    assert HEADER.startswith(b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams'")
