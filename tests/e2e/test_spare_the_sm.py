"""What sm would throw away does not reach it: a login with 200 contacts, 180 of them offline. The figures are printed (pytest -s)."""

import asyncio
import os
import tempfile

import bed
from client import Client, settle
from frames import SESS
from native import Native

CONTACTS, ONLINE, LOGINS = 200, 20, 15
DOMAIN = "example.net"


async def measure(stack):
    """CPU seconds of the sm for LOGINS logins of a user with CONTACTS contacts, and the stanzas that user and contacts saw of it."""
    contacts = ["k%d" % number for number in range(CONTACTS)]
    stack.add_users("star", *contacts)
    stack.add_contacts("star@" + DOMAIN, ["%s@%s" % (name, DOMAIN) for name in contacts])
    friends = [await Client("%s@%s/r" % (name, DOMAIN), label=name).login() for name in contacts[:ONLINE]]
    await settle(friends)
    seen, sm, router = [], 0.0, 0.0
    for _ in range(LOGINS):
        # No fences inside what is measured: they would be most of it.
        begun = stack.processes["sm"].cpu_s(), stack.router.cpu_s()
        star = await Client("star@%s/r" % DOMAIN, label="star").login()
        await star.until(lambda: len(online(star)) == ONLINE, "the presence of %d contacts: %d" % (ONLINE, len(online(star))))
        await star.logout()
        await asyncio.sleep(0.3)
        sm, router = sm + stack.processes["sm"].cpu_s() - begun[0], router + stack.router.cpu_s() - begun[1]
        await settle(friends)
        seen.append(sorted(online(star)))
    told = [len([1 for _, xml in friend.seen if xml.get("from") == "star@%s/r" % DOMAIN]) for friend in friends]
    return dict(sm_ms=1000 * sm / LOGINS, router_ms=1000 * router / LOGINS, seen=seen, told=told)


def online(client):
    return {xml.get("from") for _, xml in client.seen if xml.tag == "{jabber:client}presence" and xml.get("type") is None
            and xml.get("from") != client.boundjid.full}




def test_presence_for_offline_users_stays_away_from_the_sm(router):
    folder = tempfile.mkdtemp(dir=os.environ["JIDMESH_CAGE"])
    results = {}
    for kind in dict.fromkeys(("stock", "jidmesh" if router != "stock" else "stock")):
        with bed.Stack(os.path.join(folder, kind), kind, shards=2 if router.endswith("2-shards") else 1) as stack:
            results[kind] = asyncio.run(asyncio.wait_for(measure(stack), 100))
            if kind == "jidmesh":
                results[kind]["dropped"] = stack.metric('jidmesh_dropped_total{reason="presence-for-offline"}')
    for kind, result in results.items():
        print("%s: sm %.1f ms a login, router %.1f ms" % (kind, result["sm_ms"], result["router_ms"]), result.get("dropped", ""))
    assert all(len(seen) == ONLINE for result in results.values() for seen in result["seen"])
    assert all(min(result["told"]) >= 2 * LOGINS for result in results.values())
    if "jidmesh" in results:
        assert results["jidmesh"]["seen"] == results["stock"]["seen"] and results["jidmesh"]["told"] == results["stock"]["told"]
        # Both presences of a login (available, unavailable) to each offline contact.
        assert results["jidmesh"]["dropped"] >= (CONTACTS - ONLINE) * LOGINS


def test_frames_that_reach_the_sm(machine):
    """Counted at a native sm: broadcast presence for users without an available session is dropped, probes and subscriptions are not."""
    stack = machine(sms=[], c2ss=[])
    with Native(name="sm9") as sm, Native(name="c2s9") as c2s:
        assert sm.bind(DOMAIN, multi=True).get("error") is None
        sm.drain(), c2s.drain()
        presence = "<presence xmlns='jabber:client' from='star@%s/r' to='%%s@%s'%%s/>" % (DOMAIN, DOMAIN)
        kinds = ["", " type='unavailable'", " type='probe'", " type='subscribe'", " type='subscribed'", " type='unsubscribe'",
                 " type='unsubscribed'", " type='strange'", " type='error'"]
        for kind in kinds:
            sm.route(DOMAIN, presence % ("off", kind), frm="sm9")
        got = [frame.payload.get("type") for frame in sm.frames(0.4) if frame.is_route()]
        expected = ["probe", "subscribe", "subscribed", "unsubscribe", "unsubscribed", "strange", "error"]
        if stack.kind == "stock":
            assert got == [None, "unavailable", *expected]
            return
        assert [kind for kind in got if kind != "error"] == expected[:-1]
        # Once the user is there and available, everything reaches him.
        start = "<sc:session xmlns:sc='%s' id='i' target='off@%s/r' action='start%s' sc:c2s='9'%s/>"
        c2s.route(DOMAIN, start % (SESS, DOMAIN, "", ""), frm="c2s9")
        assert sm.next_route().payload.get("action") == "start"
        sm.route("c2s9", start % (SESS, DOMAIN, "ed", " sc:sm='abc'"), frm="sm9")
        assert c2s.next_route().payload.get("action") == "started"
        c2s.route("sm9", "<presence xmlns='jabber:client' xmlns:sc='%s' sc:sm='abc' sc:c2s='9'/>" % SESS, frm="c2s9")
        sm.next_route()
        for kind in kinds:
            sm.route(DOMAIN, presence % ("off", kind), frm="sm9")
        got = [frame.payload.get("type") for frame in sm.frames(0.4) if frame.is_route()]
        assert got == [None, "unavailable", *expected]


def test_disco_among_components_does_not_go_round(machine):
    """sm asks every advertised name for its features; what c2s and other sm get of it, they throw away."""
    stack = machine(sms=[], c2ss=[])
    ask = "<iq xmlns='jabber:client' id='d1' from='sm9' to='%s' type='get'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
    with Native(name="sm9") as sm, Native(name="c2s9") as c2s, Native(name="other.test") as other:
        assert sm.bind(DOMAIN, multi=True).get("error") is None
        c2s.route(DOMAIN, "<sc:session xmlns:sc='%s' id='i' target='off@%s/r' action='start' sc:c2s='9'/>" % (SESS, DOMAIN), frm="c2s9")
        assert sm.next_route().payload.get("action") == "start"
        c2s.drain(), other.drain()
        for name in ("c2s9", "other.test"):
            sm.route(name, ask % name, frm="sm9")
        assert other.next_route().payload.get("to") == "other.test", "a component that is no c2s answers such requests"
        reached = [frame for frame in c2s.frames() if frame.is_route()]
        assert len(reached) == (1 if stack.kind == "stock" else 0)
