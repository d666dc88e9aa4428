"""XMPP clients for tests: slixmpp, with every received stanza recorded, and waits that have limits."""

import asyncio
import copy
import re
import socket
import time
import xml.etree.ElementTree as ET

import slixmpp

from place import HOME

LIMIT_S = 10.0
FENCE_ROUNDS = 4
FENCE = "fence-"


class Client(slixmpp.ClientXMPP):
    """One session. `seen` holds (time, element) of each stanza received, and elements made here for what befell the stream."""

    def __init__(self, jid, password="secret", host="127.0.0.1", port=5222, label=None, plugins=(), place=HOME):
        super().__init__(jid, password)
        self.label, self.place = label or jid, place
        self.address = (host, port)
        self.seen = []
        self.news = asyncio.Event()
        self.number = 0
        self.closed, self.ended = False, asyncio.Event()
        self.enable_starttls = self.enable_direct_tls = False
        self.enable_plaintext = True
        self.plugin["feature_mechanisms"].unencrypted_plain = True
        self.plugin["feature_mechanisms"].unencrypted_digest = True
        for name in ("xep_0030", "xep_0199", "xep_0054", "xep_0092", "xep_0077", *plugins):
            self.register_plugin(name)
        self.plugin["xep_0077"].create_account = False
        self.auto_authorize = self.auto_subscribe = None
        self.end_session_on_disconnect = False
        self.add_event_handler("stream_error", lambda error: self._note("stream-error", error["condition"]))
        self.add_event_handler("disconnected", self._closed)
        self.add_event_handler("failed_auth", lambda _: self._note("failed-auth", ""))

    async def _attempt_connection(self, host, port, tls, server_hostname):
        """As the library does, with a socket that belongs to the client's place."""
        with self.place.inside():
            link = socket.socket()
        link.setblocking(False)
        try:
            await self.loop.sock_connect(link, (host, port))
        except OSError as error:
            link.close()
            self.event("connection_failed", error)
            return False
        await self.loop.create_connection(lambda: self, sock=link)
        return True

    def new_id(self):
        """Ids that are the same in each run of a script."""
        self.number += 1
        return "%s-%d" % (self.label.replace("@", "_").replace("/", "_"), self.number)

    def incoming_filter(self, xml):
        name = xml.tag.rsplit("}", 1)[-1]
        if name in ("message", "presence", "iq") and xml.tag.startswith("{jabber:client}"):
            self._record(copy.deepcopy(xml))
        return xml

    def _note(self, what, detail):
        self._record(ET.Element("event", {"what": what, "detail": str(detail)}))

    def _closed(self, _reason):
        if not self.closed:
            self.closed = True
            self.ended.set()
            self._note("closed", "")

    def _record(self, xml):
        self.seen.append((time.monotonic(), xml))
        self.news.set()

    # Waiting

    async def until(self, condition, what="something", limit_s=LIMIT_S):
        """Waits until `condition()` is true, looking after each stanza; returns its value."""
        end = time.monotonic() + limit_s
        while True:
            self.news.clear()
            value = condition()
            # An element without children is false.
            if value is not None and value is not False:
                return value
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError("%s: not within %.1f s: %s; seen last: %s" % (
                    self.label, limit_s, what() if callable(what) else what, [ET.tostring(xml)[:600] for _, xml in self.seen[-5:]]))
            try:
                await asyncio.wait_for(self.news.wait(), left)
            except asyncio.TimeoutError:
                pass

    async def gets(self, name, *, since=0, limit_s=LIMIT_S, **attributes):
        """Waits for a stanza (an `event` as well) with these attributes (`from_` for from; `body` for the body's text)."""
        return await self.until(lambda: self.find(name, since=since, **attributes), "%s %s" % (name, attributes), limit_s)

    def find(self, name, *, since=0, body=None, **attributes):
        for _, xml in self.seen[since:]:
            if xml.tag.rsplit("}", 1)[-1] == name and all(xml.get(key.rstrip("_")) == value for key, value in attributes.items()) and (
                    body is None or body_of(xml) == body):
                return xml
        return None

    def bodies(self, from_bare=None):
        """Bodies of all messages so far, in order; not of its own that came back as errors."""
        return [body_of(xml) for _, xml in self.seen if xml.tag == "{jabber:client}message" and body_of(xml) is not None
                and xml.get("type") != "error"
                and (from_bare is None or (xml.get("from") or "").split("/")[0] == from_bare)]

    # Actions

    async def login(self, presence=True, limit_s=LIMIT_S):
        """Connects, authenticates, binds; asks for the roster and sends presence unless told otherwise."""
        started = asyncio.get_running_loop().create_future()

        def resolve(_=None):
            if not started.done():
                started.set_result(True)

        def fail(reason=None):
            if not started.done():
                started.set_exception(ConnectionError("%s: no login: %s" % (self.label, reason)))

        self.add_event_handler("session_start", resolve, disposable=True)
        self.add_event_handler("disconnected", fail, disposable=True)
        self.add_event_handler("failed_auth", fail, disposable=True)
        self.connect(*self.address)
        await asyncio.wait_for(started, limit_s)
        if presence:
            roster = asyncio.ensure_future(self.get_roster(timeout=limit_s))
            end = asyncio.ensure_future(self.ended.wait())
            await asyncio.wait({roster, end}, return_when=asyncio.FIRST_COMPLETED)
            end.cancel()
            if not roster.done():
                roster.cancel()
                raise ConnectionError("%s: closed right after its login" % self.label)
            await roster
            self.send_presence()
        return self

    async def logout(self, limit_s=LIMIT_S):
        """Closes the stream in order."""
        if not self.closed:
            self.disconnect(wait=0.5)
            await self.until(lambda: self.closed, "the end of the stream", limit_s)

    def vanish(self):
        """The connection is gone, without a word."""
        self.closed = True
        self.abort()

    async def ping(self, limit_s=LIMIT_S):
        """An iq to the server and back; raises when no answer comes."""
        identity = FENCE + self.new_id()
        self.send_raw("<iq type='get' to='%s' id='%s'><ping xmlns='urn:xmpp:ping'/></iq>" % (self.boundjid.domain, identity))
        await self.gets("iq", id=identity, limit_s=limit_s)

    def chat(self, to, body, kind="chat", **attributes):
        """A message with these attributes; returns its id."""
        identity = attributes.pop("id", None) or self.new_id()
        more = "".join(" %s='%s'" % pair for pair in attributes.items())
        self.send_raw("<message to='%s' type='%s' id='%s'%s><body>%s</body></message>" % (to, kind, identity, more, body))
        return identity


def body_of(xml):
    element = xml.find("{jabber:client}body")
    return None if element is None else element.text or ""


async def settle(clients, quiet_s=0.1, limit_s=20.0):
    """Until what was set in motion has come to rest: each client pings its sm several times over, then silence."""
    end = time.monotonic() + limit_s
    alive = [client for client in clients if not client.closed]
    for _ in range(FENCE_ROUNDS):
        await asyncio.gather(*(client.ping() for client in alive))
    while time.monotonic() < end:
        last = max([client.seen[-1][0] for client in clients if client.seen], default=0.0)
        if time.monotonic() - last >= quiet_s:
            return
        await asyncio.sleep(quiet_s / 4)
    raise AssertionError("no rest within %.0f s" % limit_s)


OWN_ID = re.compile(r"^[a-z]+_[a-z.]+(_[a-z0-9]+)?-\d+$")
VOLATILE = {"stamp", "seconds"}
VOLATILE_TEXT = {"utc", "display", "os", "tz"}


def canonical(xml):
    """A stanza's meaning without what differs between two runs: ids not chosen by a client, times, and the order of attributes."""
    xml = copy.deepcopy(xml)
    identity = xml.get("id")
    if identity is not None and not OWN_ID.match(identity):
        xml.set("id", "*")
    for element in xml.iter():
        for name in VOLATILE & set(element.attrib):
            element.set(name, "*")
        local = element.tag.rsplit("}", 1)[-1]
        if local in VOLATILE_TEXT or element.tag == "{jabber:x:delay}x":
            element.text = "*"
    return ET.canonicalize(ET.tostring(xml, encoding="unicode"), rewrite_prefixes=True)


def is_fence(xml):
    return (xml.get("id") or "").startswith(FENCE)


def log_of(client):
    """The client's log: [(sending entity, canonical stanza)], fences left out."""
    return [(xml.get("from") or "", canonical(xml)) for _, xml in client.seen if not is_fence(xml)]
