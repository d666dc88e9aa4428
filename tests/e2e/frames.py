"""Cuts an XML stream into its top-level frames, byte for byte, and makes frames readable for tests."""

import xml.etree.ElementTree as ET
from xml.parsers import expat

COMP = "http://jabberd.jabberstudio.org/ns/component/1.0"
SESS = "http://jabberd.jabberstudio.org/ns/session/1.0"
STREAM = "http://etherx.jabber.org/streams"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
STREAM_ERRORS = "urn:ietf:params:xml:ns:xmpp-streams"


class Cutter:
    """Feed bytes, get (kind, bytes): kind is `header`, `frame` or `end`. Bytes are exactly what was on the wire."""

    def __init__(self):
        self.restart()

    def restart(self):
        """A new XML document begins with the next byte."""
        self.buffer = b""
        self.base = 0  # offset of the buffer in the document
        self.depth = 0
        self.begin = 0  # offset of the frame that is open
        self.out = []
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end

    def feed(self, data):
        self.buffer += data
        self.out = []
        self.parser.Parse(data, False)
        return self.out

    def _start(self, _name, _attributes):
        self.depth += 1
        at = self.parser.CurrentByteIndex - self.base
        if self.depth == 1:
            self._emit("header", at + tag_end(self.buffer[at:]))
        elif self.depth == 2:
            self.begin = self.parser.CurrentByteIndex

    def _end(self, _name):
        self.depth -= 1
        if self.depth > 1:
            return
        at = self.parser.CurrentByteIndex - self.base
        begin = self.begin - self.base
        # Expat stands behind `<a/>`, but before `</a>`.
        first_tag_end = begin + tag_end(self.buffer[begin:])
        empty = self.depth == 1 and first_tag_end == at and self.buffer[at - 2:at] == b"/>"
        self._emit("frame" if self.depth else "end", at if empty else self.buffer.index(b">", at) + 1)

    def _emit(self, kind, stop):
        self.out.append((kind, self.buffer[self.begin - self.base:stop].lstrip() if kind == "end" else
                         self.buffer[self.begin - self.base:stop]))
        self.begin = self.base + stop
        self.buffer = self.buffer[stop:]
        self.base = self.begin


def tag_end(data):
    """Offset behind the `>` that closes the tag at the start of `data`, quotes respected."""
    quote = 0
    for index, byte in enumerate(data):
        if quote:
            quote = 0 if byte == quote else quote
        elif byte in (0x22, 0x27):
            quote = byte
        elif byte == 0x3E:
            return index + 1
    raise ValueError("tag without end")


class Frame:
    """One frame: its bytes, and a parsed view."""

    def __init__(self, raw):
        self.raw = raw
        self.xml = ET.fromstring(b"<r xmlns:stream='%s'>%s</r>" % (STREAM.encode(), raw))[0]

    @property
    def name(self):
        return self.xml.tag.rsplit("}", 1)[-1]

    @property
    def space(self):
        return self.xml.tag[1:].split("}", 1)[0] if self.xml.tag.startswith("{") else ""

    def get(self, attribute):
        return self.xml.get(attribute)

    @property
    def payload(self):
        return self.xml[0] if len(self.xml) else None

    def is_presence(self, name=None, kind=None):
        """An advert, of this name and type where given (kind: 'available' or 'unavailable')."""
        if self.name != "presence" or self.space != COMP:
            return False
        if name is not None and self.get("from") != name:
            return False
        return kind is None or (self.get("type") or "available") == kind

    def is_route(self):
        return self.name == "route" and self.space == COMP

    def __repr__(self):
        return "Frame(%s)" % self.raw.decode("utf-8", "replace")


def canonical(raw):
    """The meaning of a frame, independent of quotes, attribute order, prefixes and the form of empty elements."""
    return ET.canonicalize(ET.tostring(Frame(raw).xml, encoding="unicode"), rewrite_prefixes=True)
