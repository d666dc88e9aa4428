"""Redirects: a component of ours that asks for them and follows them, with users who leave and come back elsewhere meanwhile."""

import asyncio
import re
import threading

import pytest

from client import Client, body_of
from frames import COMP
from native import Native
from talk import runs

pytestmark = [pytest.mark.jidmesh, pytest.mark.timeout(90)]

BOB = "bob@example.net/r"
LIVES = 5
# Written, and not at sm yet, when a client has left.
IN_HAND = 100


class Redirected:
    """Writes numbered messages to a full JID by the redirect that it had a moment ago: it is slow to believe what it hears."""

    def __init__(self, port):
        self.link = Native(port=port)
        self.link.login()
        self.link.send("<bind xmlns='%s' name='muse.example.net'><redirect/></bind>" % COMP)
        answer = self.link.next_of(lambda frame: frame.name == "bind")
        assert answer.get("error") is None and b"<redirect" in answer.raw, answer
        self.heard, self.sm, self.told = None, None, []
        self.sent, self.by_redirect, self.bounced = 0, 0, set()
        self.going = threading.Event()
        self.thread = threading.Thread(target=self.talks)

    def talks(self):
        self.going.set()
        while self.going.is_set():
            believed = self.heard
            for _ in range(5):
                self.by_redirect += self.sm is not None
                self.link.route(self.sm or "example.net", frm="muse.example.net", payload=(
                    "<message xmlns='jabber:client' from='muse.example.net' to='%s' type='chat' id='n%d'><body>n%d</body></message>"
                    % (BOB, self.sent, self.sent)))
                self.sent += 1
            self.hears(0.01)
            self.sm = believed

    def hears(self, limit_s):
        self.link._more(limit_s)
        for kind, raw in self.link.queue:
            if raw.startswith(b"<redirect"):
                to = re.search(rb" to='([^']*)'", raw)
                self.heard = to and to[1].decode()
                self.told.append(self.heard)
            elif raw.startswith(b"<route") and b" error=" in raw or b"type='error'" in raw:
                self.bounced.update(int(number) for number in re.findall(rb"<body>n(\d+)</body>", raw))
        self.link.queue.clear()

    def stop(self):
        self.going.clear()
        self.thread.join(10)
        self.hears(0.3)


def numbers(client, stored=False):
    """Of the messages that came from the offline queue, or of the others."""
    texts = [(body_of(xml) or "", xml.find("{urn:xmpp:delay}delay") is not None) for _, xml in client.seen if xml.tag == "{jabber:client}message"]
    return [int(text[1:]) for text, delayed in texts if re.fullmatch(r"n\d+", text) and delayed == stored]


@pytest.mark.parametrize("kind", ["jidmesh", "jidmesh-2-shards", "attached"])
def test_each_frame_once_and_in_order_while_sessions_end_and_move(bare_machine, kind):
    """Bob leaves and comes back, at the one sm or the other, amid messages by the redirect. Between two lives c2s throws away what sm
    delivered to a client that was just leaving; everything else comes, in the session or from the offline queue, without a gap."""
    stack = bare_machine(router=kind.split("-")[0], shards=2 if "2" in kind else 1, sms=("sm1", "sm2"), grace_s=3)
    stack.add_users("bob", *("u%d" % life for life in range(LIVES)))

    async def play():
        muse = Redirected(stack.port)
        muse.thread.start()
        said = 0
        try:
            for life in range(LIVES):
                bob = await Client(BOB, label="bob%d" % life).login()
                before = muse.by_redirect
                await bob.until(lambda: len(numbers(bob)) > 30 and muse.by_redirect > before + 30 or None, "messages by the redirect")
                if life == LIVES - 1:
                    break
                await bob.logout()
                said = without_a_gap(bob, said, muse)
                # The sm with fewer users takes the next one, and Bob the one after him.
                await Client("u%d@example.net/r" % life, label="u%d" % life).login()
        finally:
            muse.stop()
        await bob.gets("message", body="n%d" % (muse.sent - 1))
        without_a_gap(bob, said, muse)
        assert not muse.bounced
        assert None in muse.told, muse.told
        # Each shard balances its own users, so with two of them Bob may stay where he was.
        assert stack.shards > 1 or {"sm1", "sm2"} <= set(muse.told), muse.told
        assert stack.metric("jidmesh_redirected_frames_stale_total") > 0

    def without_a_gap(bob, most, muse):
        # sm gives out what it stored when he becomes available; what came since he is there goes before.
        stored, lively = numbers(bob, stored=True), numbers(bob)
        first = (stored or lively)[0]
        assert stored + lively == list(range(first, lively[-1] + 1)), "%s, then %s" % (runs(stored), runs(lively))
        assert first <= most, "what was said after he had left waits for him"
        return muse.sent + IN_HAND

    asyncio.run(asyncio.wait_for(play(), 70))
