"""A component of the tests' own, on the router port: exact bytes out, exact frames in. Blocking, every wait limited."""

import base64
import fcntl
import hashlib
import os
import re
import socket
import struct
import termios
import time

import templates
from frames import COMP, SASL, STREAM, Cutter, Frame

HEADER = b"<?xml version='1.0'?><stream:stream xmlns:stream='%s' version='1.0'>" % STREAM.encode()
LIMIT_S = 5.0


class Closed(Exception):
    """The router closed the connection; `reset` tells how."""

    def __init__(self, reset=False):
        super().__init__("connection reset" if reset else "connection closed")
        self.reset = reset


class Link:
    """One TCP connection, cut into frames. Everything received is in `raw`."""

    def __init__(self, ip="127.0.0.1", port=5347, wrap=None):
        self.socket = socket.create_connection((ip, port), timeout=LIMIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = "%s:%d" % self.socket.getsockname()[:2]
        self.local_port = self.socket.getsockname()[1]
        self.cutter = Cutter()
        self.queue = []
        self.raw = b""
        if wrap:
            self.socket = wrap(self.socket)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.socket.settimeout(LIMIT_S)
        try:
            self.socket.sendall(data.encode() if isinstance(data, str) else data)
        except ConnectionError as error:
            raise Closed(True) from error

    def dribble(self, data, step=1, pause_s=0.0):
        """Sends in pieces, each a segment of its own."""
        for start in range(0, len(data), step):
            self.send(data[start:start + step])
            time.sleep(pause_s)

    def _more(self, limit_s):
        self.socket.settimeout(max(limit_s, 0.001))
        try:
            data = self.socket.recv(1 << 20)
        except (socket.timeout, TimeoutError):
            return False
        except ConnectionError as error:
            raise Closed(True) from error
        if not data:
            raise Closed()
        self.raw += data
        self.queue += self.cutter.feed(data)
        return True

    def item(self, limit_s=LIMIT_S):
        """The next (kind, bytes)."""
        end = time.monotonic() + limit_s
        while not self.queue:
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError("nothing came within %.1f s; received so far: %r" % (limit_s, self.raw[-400:]))
            self._more(left)
        return self.queue.pop(0)

    def header(self, limit_s=LIMIT_S):
        kind, data = self.item(limit_s)
        assert kind == "header", data
        return data

    def frame(self, limit_s=LIMIT_S):
        """The next frame."""
        kind, data = self.item(limit_s)
        assert kind == "frame", (kind, data)
        return Frame(data)

    def frames(self, quiet_s=0.3):
        """All frames until nothing has come for `quiet_s`."""
        got = []
        try:
            while True:
                if not self.queue and not self._more(quiet_s):
                    return got
                while self.queue:
                    kind, data = self.queue.pop(0)
                    if kind == "frame":
                        got.append(Frame(data))
        except Closed:
            return got

    def until_closed(self, limit_s=LIMIT_S):
        """Everything received until the router closed; fails if it does not. Returns the bytes received since the last call."""
        start = len(self.raw)
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            self.socket.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = self.socket.recv(1 << 20)
            except (socket.timeout, TimeoutError):
                break
            except ConnectionError:
                return self.raw[start:]
            if not data:
                return self.raw[start:]
            self.raw += data
        raise AssertionError("not closed within %.1f s; received: %r" % (limit_s, self.raw[-400:]))

    def close(self):
        self.socket.close()

    def flush(self, limit_s=10.0):
        """Waits until the other end's kernel has everything: what this end's still holds is lost with a reset."""
        until = time.monotonic() + limit_s
        while struct.unpack("i", fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0" * 4))[0]:
            assert time.monotonic() < until, "the other end takes nothing"
            time.sleep(0.002)

    def reset(self):
        """Closes with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Native(Link):
    """A jabberd2 component: stream, DIGEST-MD5, binds and routes."""

    def __init__(self, ip="127.0.0.1", port=5347, user=templates.USER, password=templates.PASSWORD, name=None, **bind):
        super().__init__(ip, port)
        self.user, self.password = user, password
        try:
            if name is not None:
                self.login()
                answer = self.bind(name, **bind)
                assert answer.get("error") is None, answer
        except BaseException:
            self.close()
            raise

    def open(self):
        """Stream header and features."""
        self.send(HEADER)
        self.header()
        features = self.frame()
        assert features.name == "features", features
        return features

    def login(self):
        """Everything up to the restarted stream, post-auth features included."""
        self.open()
        answer = self.authenticate()
        assert answer.name == "success", answer
        self.cutter.restart()
        self.send(HEADER)
        self.header()
        features = self.frame()
        assert features.name == "features", features
        return self

    def authenticate(self, change=lambda text: text):
        """DIGEST-MD5; `change` may alter the text of the response. Returns success or failure."""
        challenge = self.challenge()
        if challenge.name != "challenge":
            return challenge
        return self.respond(change(digest_response(self.user, self.password, base64.b64decode(challenge.xml.text).decode())))

    def challenge(self):
        self.send("<auth xmlns='%s' mechanism='DIGEST-MD5'/>" % SASL)
        return self.frame()

    def respond(self, text):
        self.send("<response xmlns='%s'>%s</response>" % (SASL, base64.b64encode(text.encode()).decode()))
        return self.frame()

    def send_bind(self, name, multi=False, default=False, log=False):
        self.send("<bind xmlns='%s' name='%s'%s>%s%s</bind>" % (
            COMP, name, " multi='to'" if multi else "", "<default/>" if default else "", "<log/>" if log else ""))

    def bind(self, name, **options):
        """Returns the answer; frames that came before it stay in the queue behind it."""
        self.send_bind(name, **options)
        return self.next_of(lambda frame: frame.name == "bind" and frame.space == COMP)

    def unbind(self, name):
        self.send("<unbind xmlns='%s' name='%s'/>" % (COMP, name))
        return self.next_of(lambda frame: frame.name == "unbind")

    def next_of(self, wanted, limit_s=LIMIT_S):
        """The next frame for which `wanted` is true; the others keep their place."""
        end = time.monotonic() + limit_s
        index = 0
        while True:
            while index < len(self.queue):
                kind, data = self.queue[index]
                if kind == "frame" and wanted(Frame(data)):
                    return Frame(self.queue.pop(index)[1])
                index += 1
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError("no such frame within %.1f s; there are: %r" % (limit_s, [data[:200] for _, data in self.queue]))
            self._more(left)

    def route(self, to=None, payload="<x xmlns='u:t'/>", frm=None, **attributes):
        """Sends a route."""
        names = [("from", frm), ("to", to), *((key.rstrip("_"), value) for key, value in attributes.items())]
        self.send("<route xmlns='%s'%s>%s</route>" % (COMP, "".join(" %s='%s'" % pair for pair in names if pair[1] is not None), payload))

    def next_route(self, limit_s=LIMIT_S):
        return self.next_of(Frame.is_route, limit_s)

    def drain(self, quiet_s=0.2):
        """Throws away what has come (adverts, mostly)."""
        return self.frames(quiet_s)


def digest_response(user, password, challenge, host="testbed", cnonce=None):
    """The text of a DIGEST-MD5 response (RFC 2831) as jabberd2's components send it."""
    values = dict(re.findall(r'([a-z-]+)="?([^",]*)"?', challenge))
    cnonce = cnonce or base64.b64encode(os.urandom(16)).decode()
    realm, nonce, uri = values.get("realm", ""), values["nonce"], "jabberd-router/" + host
    secret = hashlib.md5(("%s:%s:%s" % (user, realm, password)).encode()).digest()
    first = hashlib.md5(secret + (":%s:%s" % (nonce, cnonce)).encode()).hexdigest()
    second = hashlib.md5(("AUTHENTICATE:" + uri).encode()).hexdigest()
    response = hashlib.md5(("%s:%s:00000001:%s:auth:%s" % (first, nonce, cnonce, second)).encode()).hexdigest()
    return ('username="%s", realm="%s", nonce="%s", cnonce="%s", nc=00000001, qop=auth, digest-uri="%s", response=%s, charset=utf-8'
            % (user, realm, nonce, cnonce, uri, response))


class Foreign(Link):
    """A XEP-0114 component."""

    def __init__(self, name, ip="127.0.0.1", port=5347, secret=templates.COMPONENT_SECRET, header_more="", login=True):
        super().__init__(ip, port)
        self.name, self.secret = name, secret
        self.header_text = "<stream:stream xmlns='jabber:component:accept' xmlns:stream='%s' to='%s'%s>" % (STREAM, name, header_more)
        if login:
            answer = self.login()
            assert answer.name == "handshake", answer

    def login(self):
        self.send(self.header_text)
        identity = re.search(rb"id='([^']*)'|id=\"([^\"]*)\"", self.header())
        identity = (identity.group(1) or identity.group(2)).decode()
        self.send("<handshake>%s</handshake>" % hashlib.sha1((identity + self.secret).encode()).hexdigest())
        return self.frame()
