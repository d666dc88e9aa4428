"""The world around: another domain over s2s, foreign servers, XEP-0114 components, filters, log sinks, TLS on the component port."""

import asyncio
import os
import re
import signal
import socket
import ssl
import subprocess
import time

import pytest
import slixmpp
from slixmpp.componentxmpp import ComponentXMPP

import bed
import templates
from client import Client, settle
from frames import STREAM
from native import Foreign, Native
from prosody import Prosody, pem_file

MUC = "conference.example.net"


def run(coroutine, limit_s=80):
    return asyncio.run(asyncio.wait_for(coroutine, limit_s))


# Aliases


@pytest.mark.only("jidmesh", "jidmesh-2-shards")
@pytest.mark.parametrize("sms", [["sm"], ["sm1", "sm2"]], ids=["one sm", "two sm"])
def test_users_of_an_aliased_domain_log_in_and_are_reached(machine, sms):
    """With the stock router each of these clients is closed with internal-server-error, and each message is answered item-not-found."""
    stack = machine(sms=sms, domains=["example.net", "alias.net"], aliases=[("alias.net", "example.net")])

    async def play():
        stack.add_users("alice")
        stack.add_users("dave", "erin", domain="alias.net")
        alice, dave, erin = [await Client(jid, label=jid).login() for jid in ("alice@example.net/r", "dave@alias.net/r", "erin@alias.net/r")]
        for sender, receiver in ((alice, dave), (dave, alice), (dave, erin), (erin, dave)):
            for to in (receiver.boundjid.bare, receiver.boundjid.full):
                body = "from %s to %s" % (sender.label, to)
                sender.chat(to, body)
                await receiver.gets("message", body=body, from_=sender.boundjid.full)
        await erin.logout()
        for number in range(20):
            alice.chat("erin@alias.net", "#%d" % number)
        await alice.ping()
        erin = await Client("erin@alias.net/r", label="erin").login()
        await erin.gets("message", body="#19")
        await settle([alice, dave, erin])
        assert erin.bodies("alice@example.net") == ["#%d" % number for number in range(20)]
        # The operator takes the alias away: its users are closed, as when the domain's sm has gone.
        stack.router_settings["aliases"] = ()
        stack.write_router()
        stack.router.signal(signal.SIGHUP)
        await dave.until(lambda: dave.closed or None, "the end of the aliased domain")
        assert not alice.closed
        await alice.ping()
        bed.wait_for("sm ends the sessions too", lambda: all(
            any("session ended: jid=%s" % jid in stack.processes[sm].log() for sm in sms) for jid in ("dave@alias.net", "erin@alias.net")))
        bed.wait_for("so does the router", lambda: stack.metric("jidmesh_sessions") == 1)

    run(play())


# s2s


async def talk_across(here, there, names=("alice@example.net", "olga@other.example")):
    """Messages, subscription, presence, iq and vCard between users of two domains."""
    alice = await Client(names[0] + "/r", host=here, label="alice").login()
    olga = await Client(names[1] + "/r", host=there, label="olga").login()
    for sender, receiver in ((alice, olga), (olga, alice)):
        sender.chat(receiver.boundjid.bare, "hello <&> é".replace("&", "&amp;").replace("<", "&lt;"))
        await receiver.gets("message", body="hello <&> é", from_=sender.boundjid.full, limit_s=20)
        sender.send_presence_subscription(receiver.boundjid.bare, ptype="subscribe")
        await receiver.gets("presence", type="subscribe", from_=sender.boundjid.bare)
        receiver.send_presence_subscription(sender.boundjid.bare, ptype="subscribed")
        await sender.gets("presence", from_=receiver.boundjid.full)
    for number in range(100):
        alice.chat(olga.boundjid.full, "#%d#" % number)
    await olga.gets("message", body="#99#")
    assert [body for body in olga.bodies() if body.startswith("#")] == ["#%d#" % number for number in range(100)]
    assert await alice.plugin["xep_0199"].send_ping(olga.boundjid.full, timeout=10)
    await olga.logout()
    await alice.gets("presence", type="unavailable", from_=names[1] + "/r")
    await alice.logout()


def test_two_domains_talk_over_s2s(machine, bare_machine):
    """One domain on the router under test, the other on the stock router."""
    here = machine(s2s="s2s")
    there = bare_machine(router="stock", ip="127.0.0.2", domains=["other.example"], s2s="s2s")
    here.add_users("alice")
    there.add_users("olga")
    run(talk_across(here.ip, there.ip))


def test_an_unknown_domain_is_told_to_the_sender(machine):
    stack = machine(s2s="s2s")
    stack.add_users("alice")

    async def play():
        alice = await Client("alice@example.net/r", label="alice").login()
        identity = alice.chat("x@nosuch.invalid", "anybody?")
        error = await alice.gets("message", type="error", id=identity, limit_s=30)
        assert b"remote-server" in __import__("xml.etree.ElementTree").etree.ElementTree.tostring(error)

    run(play())


@pytest.fixture
def prosody():
    """A foreign server on 127.0.0.3 with the user pu@chat.example.org."""
    process = Prosody(os.path.join(os.environ["JIDMESH_CAGE"], "prosody-%d" % time.monotonic_ns()), "chat.example.org", "127.0.0.3")
    yield process
    process.kill()


def test_a_foreign_server_is_reached_and_reaches_us(machine, prosody):
    stack = machine(s2s="s2s")
    stack.add_users("alice")
    run(talk_across(stack.ip, "127.0.0.3", ("alice@example.net", "pu@chat.example.org")))
    assert prosody.alive()


# XEP-0114


class Echo(ComponentXMPP):
    def __init__(self, name, secret=templates.COMPONENT_SECRET):
        super().__init__(name, secret, "127.0.0.1", bed.PORT)
        self.register_plugin("xep_0030")
        self.register_plugin("xep_0199")
        self.up = asyncio.get_event_loop().create_future()
        self.add_event_handler("session_start", lambda _: self.up.done() or self.up.set_result(True))
        self.add_event_handler("message", self.echo)

    def incoming_filter(self, xml):
        """The router sends `jabber:client`, as jabberd2's does; the library wants its stream's namespace."""
        for element in xml.iter():
            element.tag = element.tag.replace("{jabber:client}", "{%s}" % self.default_ns)
        return xml

    def echo(self, message):
        if message["type"] != "error":
            self.send_message(message["from"], message["body"], mfrom=message["to"], mtype=message["type"])


def test_an_echo_component_answers(machine):
    stack = machine()
    stack.add_users("alice")

    async def play():
        echo = Echo("echo.example.net")
        echo.connect()
        await asyncio.wait_for(echo.up, 10)
        alice = await Client("alice@example.net/r", label="alice").login()
        for number in range(50):
            alice.chat("room%d@echo.example.net/x" % number, "tell me #%d# &lt;é&gt;" % number)
        await alice.gets("message", body="tell me #49# <é>")
        assert alice.bodies() == ["tell me #%d# <é>" % number for number in range(50)]
        assert alice.find("message", from_="room7@echo.example.net/x") is not None
        assert await alice.plugin["xep_0199"].send_ping("echo.example.net", timeout=10)
        info = await alice.plugin["xep_0030"].get_info(jid="echo.example.net", timeout=10)
        assert "urn:xmpp:ping" in str(info)
        items = str(await alice.plugin["xep_0030"].get_items(jid="example.net", timeout=10))
        assert "echo.example.net" in items, "the sm heard of the component: %s" % items
        # An error for somebody who is not there comes back to the component's sender.
        echo.send_raw("<message from='a@echo.example.net' to='x@nowhere.example' id='e1'><body>x</body></message>")
        await asyncio.sleep(0.3)
        echo.disconnect(wait=0.2)
        await asyncio.sleep(0.3)
        identity = alice.chat("late@echo.example.net", "too late")
        await alice.gets("message", type="error", id=identity, limit_s=bed.GRACE_S + 5)

    run(play())


def test_conference_rooms_of_jabber_muc(machine):
    stack = machine()
    stack.add_users("alice", "bob")
    folder = stack.folder + "/muc"
    os.makedirs(folder + "/rooms")
    os.makedirs(folder + "/logs")
    with open(folder + "/muc.xml", "w", encoding="utf-8") as file:
        file.write("""<jcr><name>{0}</name><host>{0}</host><ip>127.0.0.1</ip><port>5347</port><secret>{1}</secret>
<spool>{2}/rooms/</spool><logdir>{2}/logs/</logdir><pidfile>{2}/muc.pid</pidfile><loglevel>124</loglevel>
<conference xmlns="jabber:config:conference"><public/><history>10</history></conference></jcr>""".format(MUC, templates.COMPONENT_SECRET, folder))
    # The service runs as its own user: the folder, and every folder above it, must let it in.
    subprocess.run(["chown", "-R", "jabber:", folder], check=True)
    path = folder
    while path != "/":
        os.chmod(path, 0o755)
        path = os.path.dirname(path)
        if path == os.environ["JIDMESH_CAGE"]:
            break
    stack.processes["muc"] = bed.Process("muc", ["setpriv", "--reuid=jabber", "--regid=jabber", "--clear-groups", "mu-conference", "-s", "-c",
                                                 folder + "/muc.xml"], stack.folder)

    async def play():
        alice = await Client("alice@example.net/r", label="alice").login()
        bob = await Client("bob@example.net/r", label="bob").login()
        room = "room1@" + MUC
        join = "<presence to='%s/%s'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
        for _ in range(40):
            since = len(alice.seen)
            alice.send_raw(join % (room, "ali"))
            await asyncio.sleep(0.25)
            if alice.find("presence", from_=room + "/ali", since=since) is not None and alice.find("presence", from_=room + "/ali", type=None, since=since) is not None:
                break
        alice.send_raw("<iq type='set' to='%s' id='own1'><query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>" % room)
        await alice.gets("iq", id="own1", type="result")
        bob.send_raw(join % (room, "bo"))
        await alice.gets("presence", from_=room + "/bo")
        for number in range(20):
            alice.chat(room, "all #%d#" % number, kind="groupchat")
        await bob.gets("message", body="all #19#", from_=room + "/ali")
        assert [body for body in bob.bodies() if body.startswith("all")] == ["all #%d#" % number for number in range(20)]
        bob.chat(room + "/ali", "in private")
        await alice.gets("message", body="in private", from_=room + "/bo")
        await bob.logout()
        await alice.gets("presence", from_=room + "/bo", type="unavailable")

    run(play())


# Log sink with the real components


def test_a_log_sink_sees_a_real_login_and_a_chat(machine):
    stack = machine()
    stack.add_users("alice", "bob")
    with Native(name="log.test", log=True) as sink:
        sink.drain()

        async def play():
            alice = await Client("alice@example.net/r", label="alice").login()
            bob = await Client("bob@example.net/r", label="bob").login()
            alice.chat("bob@example.net/r", "for the record")
            await bob.gets("message", body="for the record")
            await settle([alice, bob])

        run(play())
        copies = [frame for frame in sink.frames(0.5) if frame.is_route() and frame.get("type") == "log"]
        actions = [frame.payload.get("action") for frame in copies]
        assert actions.count("start") >= 2 and actions.count("started") >= 2
        assert len([frame for frame in copies if b"for the record" in frame.raw]) == 3, "c2s to sm, sm to domain, sm to c2s"


# Filter


def test_a_filter_denies_redirects_and_is_read_again_on_sighup(machine):
    stack = machine(filter_rules="""<rule from="alice@example.net" to="bob@example.net" what="message" redirect="carol@example.net"/>
<rule error="not-allowed" from="alice@example.net" to="dave@example.net" what="message"/>""", s2s=None)
    stack.add_users("alice", "bob", "carol", "dave")

    async def play():
        clients = {name: await Client("%s@example.net/r" % name, label=name).login() for name in ("alice", "bob", "carol", "dave")}
        alice = clients["alice"]
        identity = alice.chat("dave@example.net", "denied")
        error = await alice.gets("message", type="error", id=identity)
        assert error.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}not-allowed") is not None
        alice.chat("carol@example.net", "not covered by a rule")
        await clients["carol"].gets("message", body="not covered by a rule")
        assert not clients["dave"].bodies()
        stack.write_filter("")
        stack.router.signal(signal.SIGHUP)
        await asyncio.sleep(1)
        alice.chat("dave@example.net", "allowed now")
        await clients["dave"].gets("message", body="allowed now")
        alice.chat("bob@example.net", "and bob too")
        await clients["bob"].gets("message", body="and bob too")

    run(play())


def test_a_redirected_route_goes_to_the_new_name(machine):
    """A redirect changes the route's `to`; the payload stays."""
    stack = machine(sms=[], c2ss=[], filter_rules="""<rule from="*" to="*@b.test" what="message?via=mesh"/>
<rule from="*" to="*@b.test" what="message" redirect="c.test"/>""")
    with Native(name="a.test") as one, Native(name="b.test") as two, Native(name="c.test") as three:
        plain = "<message xmlns='jabber:client' from='u@a.test' to='v@b.test'%s><body>x</body></message>"
        one.route("b.test", plain % "", frm="a.test")
        frame = three.next_route()
        assert frame.get("to") == "c.test" and frame.payload.get("to") == "v@b.test" and frame.get("from") == "a.test"
        one.route("b.test", plain % " via='mesh'", frm="a.test")
        assert two.next_route().payload.get("via") == "mesh"
        stack.write_filter("""<rule from="*" to="*@b.test" what="message" error="forbidden"/>""")
        stack.router.signal(signal.SIGHUP)
        time.sleep(1)
        one.route("b.test", plain % "", frm="a.test")
        assert one.next_route().get("error") == "403"


# Message log


def test_messages_are_logged_where_the_configuration_says(machine, tmp_path):
    path = os.path.join(str(tmp_path), "messages.log")
    stack = machine(extra="<message_logging><enabled/><file>%s</file></message_logging>" % path)
    stack.add_users("alice", "bob")

    def lines():
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()

    async def play():
        alice, bob = [await Client(name + "@example.net/r", label=name).login() for name in ("alice", "bob")]
        alice.chat("bob@example.net", "said &lt;once&gt; é")
        await bob.gets("message", body="said <once> é")
        bed.wait_for("a line of the message", lambda: any("said" in line for line in lines()))
        alice.send_presence(pstatus="said")
        await settle([alice, bob])

    run(play())
    said = [line for line in lines() if "said" in line]
    assert said[0].endswith("alice@example.net/r bob@example.net said <once> é"), said
    assert len(said) == 1, said


# TLS on the component port


def test_components_connect_over_tls_when_both_sides_have_a_pemfile(machine, tmp_path):
    pem = pem_file(str(tmp_path))
    stack = machine(pemfile=pem, component_pemfile=pem)
    stack.add_users("alice", "bob")

    async def play():
        alice = await Client("alice@example.net/r", label="alice").login()
        bob = await Client("bob@example.net/r", label="bob").login()
        for number in range(200):
            alice.chat("bob@example.net/r", "#%d#" % number)
        await bob.gets("message", body="#199#")
        assert bob.bodies() == ["#%d#" % number for number in range(200)]

    run(play())
    # Was it TLS? A plain connection to the same port is offered STARTTLS, and the handshake with OpenSSL succeeds.
    with socket.create_connection((stack.ip, bed.PORT), timeout=5) as link:
        link.sendall(b"<?xml version='1.0'?><stream:stream xmlns:stream='%s' version='1.0'>" % STREAM.encode())
        got = b""
        while b"</stream:features>" not in got:
            got += link.recv(4096)
        assert re.search(rb"<starttls", got), got
        link.sendall(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        assert b"<proceed" in link.recv(4096)
        context = ssl.create_default_context(cafile=pem)
        context.check_hostname = False
        with context.wrap_socket(link) as sealed:
            assert sealed.version() in ("TLSv1.2", "TLSv1.3")


def test_an_encrypted_key_and_a_cipher_list_are_honoured(machine, tmp_path):
    pem = pem_file(str(tmp_path), password="sesame")
    cipher = "ECDHE-RSA-CHACHA20-POLY1305"
    settings = "<private_key_password>sesame</private_key_password><ciphers>%s:!aNULL</ciphers>" % cipher
    machine(pemfile=pem, tls=settings, sms=[], c2ss=[])

    def agreed(ciphers):
        with Native() as link:
            assert b"starttls" in link.open().raw
            link.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            assert link.frame().name == "proceed"
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
            return context.wrap_socket(link.socket).cipher()[0]

    assert agreed("HIGH") == cipher
    with pytest.raises((ssl.SSLError, OSError)):
        agreed("ECDHE-RSA-AES256-GCM-SHA384")


@pytest.mark.only("jidmesh", "jidmesh-2-shards")
def test_a_pemfile_takes_effect_at_sighup(machine, tmp_path):
    stack = machine(sms=[], c2ss=[])
    with Native() as link:
        assert b"starttls" not in link.open().raw
    with Native(name="a.test") as early:
        stack.router_settings["pemfile"] = pem_file(str(tmp_path))
        stack.write_router()
        stack.router.signal(signal.SIGHUP)

        def handshake():
            with Native() as link:
                if b"starttls" not in link.open().raw:
                    return None
                link.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
                assert link.frame().name == "proceed"
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                return context.wrap_socket(link.socket).version()

        assert bed.wait_for("TLS is offered, and works", handshake).startswith("TLS")
        with Native(name="b.test") as late:
            early.route("b.test", frm="a.test")
            assert late.next_route().get("from") == "a.test", "links from before, and without TLS, go on"


def test_a_component_without_a_pemfile_still_connects_to_a_router_with_one(machine, tmp_path):
    stack = machine(pemfile=pem_file(str(tmp_path)))
    stack.add_users("alice")
    # c2s gives a new client the number of the one that has just left, and may close it on that one's late `ended`.
    assert any(bed.raw_login(stack.ip, 5222, "example.net", "alice", "secret") for _ in range(5))
    with Foreign("plain.example.net"):
        pass
    assert slixmpp.__version__.startswith("1.17")
