"""One script of client actions, and the comparison of what the clients saw on two machines.

The result is {client label: log}; a label names one stream, so that a user's later logins have logs of their own.
"""

import asyncio
import collections
import contextlib
import difflib

from slixmpp.exceptions import IqError

from client import Client, log_of, settle

DOMAIN = "example.net"
USERS = ("alice", "bob", "carol")


def in_turn(*seats):
    """Clients sit down in turn: the same client at the same seat in each run. A seat is what `Client` needs to know of its server."""
    return lambda number, label: seats[number % len(seats)]


async def play(seat_of=in_turn({})):
    """Plays the whole script on a fresh stage that has the accounts USERS; returns the logs. `seat_of(number, label)` is a client's seat."""
    stage = Stage(seat_of)
    for act in (registration, arrival, rosters, subscriptions, presences, resources, messages, queries, storage, conflict,
                offline, departures, strangers, parting, removal):
        await act(stage)
        await stage.settle()
    for label in list(stage.clients):
        await stage.logout(label)
    return {label: log_of(client) for label, client in stage.everybody.items()}


class Stage:
    """The clients on stage. `clients`: those connected; `everybody`: all there ever were."""

    def __init__(self, seat_of):
        self.seat_of = seat_of
        self.clients, self.everybody = {}, {}

    def client(self, name, label=None):
        user = name.split("/")[0]
        jid = "%s@%s%s" % (user, DOMAIN, name[len(user):])
        label = label or name
        assert label not in self.everybody
        client = Client(jid, label=label.replace("/", "_") if "_" in label else "x_" + label.replace("/", "_"),
                        **self.seat_of(len(self.everybody), label))
        self.clients[label] = self.everybody[label] = client
        return client

    async def login(self, name, label=None, presence=True):
        client = await self.client(name, label).login(presence)
        await self.settle()
        return client

    async def logout(self, label):
        await self.clients.pop(label).logout()
        await self.settle()

    async def settle(self):
        await settle(self.clients.values())

    def __getitem__(self, label):
        return self.clients[label]


def jid(name):
    return "%s@%s" % (name.split("/")[0], DOMAIN) + name[len(name.split("/")[0]):]


async def answered(request):
    """The answer, result or error, is in the log: either will do."""
    with contextlib.suppress(IqError):
        await request


async def registration(stage):
    dave = stage.client("dave/reg")
    dave.plugin["xep_0077"].create_account = True
    dave.plugin["xep_0077"].force_registration = True
    done = asyncio.get_running_loop().create_future()

    async def register(_form):
        iq = dave.Iq()
        iq["type"] = "set"
        iq["register"]["username"], iq["register"]["password"] = "dave", "secret"
        await iq.send(timeout=5)
        done.set_result(True)

    dave.add_event_handler("register", register)
    dave.connect(*dave.address)
    await asyncio.wait_for(done, 10)
    # Registered on one stream, logged in on another: c2s can't do both on one.
    stage.clients.pop("dave/reg")
    dave.abort()
    await asyncio.sleep(0.1)


async def arrival(stage):
    await stage.login("alice/one")
    await stage.login("bob/two")
    await stage.login("dave/four")


async def rosters(stage):
    alice = stage["alice/one"]
    await alice.update_roster(jid("carol"), name="Carol <&> é", groups=["Friends", "Work"])
    await alice.update_roster("somebody@far.example", name="Far")
    await alice.get_roster()
    await stage.settle()
    await alice.update_roster("somebody@far.example", subscription="remove")
    await alice.get_roster()


async def subscriptions(stage):
    alice, bob, dave = stage["alice/one"], stage["bob/two"], stage["dave/four"]
    for asking, asked, name in ((alice, bob, "alice"), (bob, alice, "bob"), (dave, alice, "dave")):
        asking.send_presence_subscription(asked.boundjid.bare, ptype="subscribe")
        await asked.gets("presence", type="subscribe", from_=jid(name))
        await stage.settle()
        asked.send_presence_subscription(asking.boundjid.bare, ptype="subscribed")
        await asking.gets("presence", type="subscribed", from_=asked.boundjid.bare)
        await stage.settle()
    # Refused.
    bob.send_presence_subscription(jid("dave"), ptype="subscribe")
    await dave.gets("presence", type="subscribe", from_=jid("bob"))
    await stage.settle()
    dave.send_presence_subscription(jid("bob"), ptype="unsubscribed")
    # (sm says nothing to bob: dave's roster has no entry for him.)


async def presences(stage):
    alice, bob = stage["alice/one"], stage["bob/two"]
    bob.send_presence(pshow="away", pstatus="Zoë & co <3")
    await alice.gets("presence", from_=jid("bob/two"))
    await stage.settle()
    alice.send_presence(pshow="dnd", ppriority=3)
    await stage.settle()
    # Directed presence to one who is not subscribed, and a probe that nobody may make.
    bob.send_presence(pto=jid("dave/four"), pstatus="just for you")
    await stage["dave/four"].gets("presence", from_=jid("bob/two"))
    bob.send_presence(pto=jid("dave"), ptype="probe")
    await stage.settle()
    bob.send_presence()
    alice.send_presence(ppriority=1)


async def resources(stage):
    desk = await stage.login("alice/desk")
    desk.send_presence(ppriority=5)
    await stage.settle()
    await desk.update_roster(jid("carol"), name="Carol C.", groups=["Friends"])


async def messages(stage):
    bob, one, desk = stage["bob/two"], stage["alice/one"], stage["alice/desk"]
    bob.chat(jid("alice"), "to the higher priority")
    await desk.gets("message", body="to the higher priority")
    bob.chat(jid("alice/one"), "to one &lt;&amp;&gt; &quot;q&quot; &apos;a&apos; é 日本 \U0001f600")
    bob.chat(jid("alice/nowhere"), "to a resource that is not there")
    bob.chat(jid("alice"), "news", kind="headline")
    bob.chat(jid("alice"), "normal", kind="normal")
    bob.chat(jid("alice"), "crowd", kind="groupchat")
    await stage.settle()
    one.send_presence(ppriority=5)
    await stage.settle()
    bob.chat(jid("alice"), "to both")
    await one.gets("message", body="to both")
    await stage.settle()
    # A burst keeps its order, both ways.
    for number in range(40):
        bob.chat(jid("alice/one"), "burst %d" % number)
        one.chat(jid("bob/two"), "back %d" % number)
    await one.gets("message", body="burst 39")
    await bob.gets("message", body="back 39")
    one.send_presence(ppriority=-1)
    desk.send_presence(ppriority=0)
    await stage.settle()
    bob.chat(jid("alice"), "not to the negative one")
    one.chat(jid("alice/desk"), "to myself")
    one.chat(jid("nobody"), "to no account")
    one.chat("nobody@nowhere.example", "to no domain")
    bob.send_raw("<message to='%s' id='x_bob-900'><body>ext</body><x xmlns='u:y' xmlns:p='u:p' p:q='1'><p:z/></x></message>" % jid("alice/one"))


async def queries(stage):
    bob, one = stage["bob/two"], stage["alice/one"]
    await answered(bob.plugin["xep_0199"].send_ping(jid("alice/one"), timeout=5))
    await answered(one.plugin["xep_0199"].send_ping(jid("bob/two"), timeout=5))
    bob.send_raw("<iq type='get' to='%s' id='x_bob-901'><ping xmlns='urn:xmpp:ping'/></iq>" % jid("alice/nowhere"))
    bob.send_raw("<iq type='get' to='%s' id='x_bob-902'><ping xmlns='urn:xmpp:ping'/></iq>" % jid("nobody"))
    bob.send_raw("<iq type='get' to='%s' id='x_bob-903'><query xmlns='jabber:iq:version'/></iq>" % jid("alice/desk"))
    await answered(bob.plugin["xep_0030"].get_info(jid=DOMAIN, timeout=5))
    await answered(bob.plugin["xep_0030"].get_info(jid=jid("alice"), timeout=5))
    await answered(bob.plugin["xep_0030"].get_items(jid=jid("alice"), timeout=5))
    await answered(bob.plugin["xep_0092"].get_version(DOMAIN, timeout=5))
    bob.send_raw("<iq type='get' to='%s' id='x_bob-904'><query xmlns='jabber:iq:last'/></iq>" % jid("carol"))
    bob.send_raw("<iq type='get' to='%s' id='x_bob-905'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>" % DOMAIN)
    bob.send_raw("<iq type='get' id='x_bob-906'><query xmlns='no:such'/></iq>")
    bob.send_raw("<iq type='get' to='nowhere.example' id='x_bob-907'><ping xmlns='urn:xmpp:ping'/></iq>")


async def storage(stage):
    bob, one = stage["bob/two"], stage["alice/one"]
    card = one.plugin["xep_0054"].make_vcard()
    card["FN"], card["NICKNAME"] = "Alice <A>", "ali"
    await answered(one.plugin["xep_0054"].publish_vcard(card))
    await answered(bob.plugin["xep_0054"].get_vcard(jid("alice"), timeout=5))
    await answered(one.plugin["xep_0054"].get_vcard(jid("alice"), timeout=5))
    bob.send_raw("<iq type='get' to='%s' id='x_bob-910'><vCard xmlns='vcard-temp'/></iq>" % jid("carol"))
    bob.send_raw("<iq type='set' id='x_bob-911'><query xmlns='jabber:iq:private'><n xmlns='u:n'>v &amp; w</n></query></iq>")
    await stage.settle()
    bob.send_raw("<iq type='get' id='x_bob-912'><query xmlns='jabber:iq:private'><n xmlns='u:n'/></query></iq>")
    await bob.gets("iq", id="x_bob-912")


async def conflict(stage):
    # Off stage from here on: it is closed at any moment, and cannot be asked whether it has come to rest.
    old = stage.clients.pop("alice/desk")
    await stage.login("alice/desk", "alice/desk2")
    await old.gets("event", what="closed")


async def offline(stage):
    bob, one = stage["bob/two"], stage["alice/one"]
    for number in range(5):
        bob.chat(jid("carol"), "while you were out %d" % number)
        one.chat(jid("carol"), "out too %d" % number, kind="normal")
    bob.chat(jid("carol"), "old news", kind="headline")
    bob.send_presence_subscription(jid("carol"), ptype="subscribe")
    await stage.settle()
    carol = await stage.login("carol/three")
    await carol.until(lambda: len(carol.bodies()) >= 10, "ten messages from the offline store")
    await stage.settle()
    await stage.logout("carol/three")
    again = await stage.login("carol/again")
    again.send_presence_subscription(jid("bob"), ptype="subscribed")
    await bob.gets("presence", type="subscribed", from_=jid("carol"))


async def departures(stage):
    alice = stage["alice/one"]
    stage["bob/two"].send_presence(ptype="unavailable", pstatus="gone fishing")
    await alice.gets("presence", type="unavailable", from_=jid("bob/two"))
    await stage.settle()
    alice.chat(jid("bob"), "stored while unavailable")
    await stage.settle()
    stage["bob/two"].send_presence()
    await stage["bob/two"].gets("message", body="stored while unavailable")
    await stage.settle()
    await stage.logout("bob/two")
    since = len(alice.seen)
    await stage.login("bob/two", "bob/back")
    await alice.gets("presence", from_=jid("bob/two"), since=since)


async def strangers(stage):
    """What goes wrong in ordinary life: stanzas to nowhere, with odd types, to the server itself."""
    bob = stage["bob/back"]
    bob.chat(DOMAIN, "to the server")
    bob.chat(DOMAIN + "/echo", "to the echo resource")
    bob.chat(jid("alice/one"), "x", kind="error")
    bob.send_raw("<presence to='%s' type='subscribe' id='x_bob-920'/>" % jid("nobody"))
    bob.send_raw("<presence to='%s' id='x_bob-921'/>" % "nobody@nowhere.example")
    bob.send_raw("<iq type='set' to='%s' id='x_bob-922'><query xmlns='jabber:iq:roster'/></iq>" % jid("alice"))


async def parting(stage):
    alice, bob = stage["alice/one"], stage["bob/back"]
    alice.send_presence_subscription(jid("bob"), ptype="unsubscribe")
    await bob.gets("presence", type="unsubscribe", from_=jid("alice"))
    await stage.settle()
    bob.send_presence_subscription(jid("alice"), ptype="unsubscribed")
    await stage.settle()
    await bob.update_roster(jid("alice"), subscription="remove")
    await stage.settle()
    alice.send_presence(pstatus="does bob see this?")


async def removal(stage):
    dave = stage["dave/four"]
    dave.send_raw("<iq type='set' id='x_dave-930'><query xmlns='jabber:iq:register'><remove/></query></iq>")
    await dave.gets("event", what="closed")
    stage.clients.pop("dave/four")
    await stage.settle()
    stage["alice/one"].chat(jid("dave"), "are you there?")
    await stage.settle()


def differences(expected, got):
    """Lines that say how two results differ: the set of stanzas of each client, and the order between any two entities."""
    lines = []
    for label in sorted(set(expected) | set(got)):
        one, other = expected.get(label, []), got.get(label, [])
        counts = collections.Counter(stanza for _, stanza in one), collections.Counter(stanza for _, stanza in other)
        lines += ["%s: missing: %s" % (label, stanza) for stanza in (counts[0] - counts[1]).elements()]
        lines += ["%s: too much: %s" % (label, stanza) for stanza in (counts[1] - counts[0]).elements()]
        if counts[0] != counts[1]:
            continue
        for entity in sorted({sender for sender, _ in one}):
            orders = [[stanza for sender, stanza in log if sender == entity] for log in (one, other)]
            if orders[0] != orders[1]:
                lines.append("%s: another order of what came from %r:" % (label, entity))
                lines += ["    " + line for line in difflib.unified_diff(*orders, "expected", "got", lineterm="", n=0)]
    return lines
