"""Numbered messages, and what is true of them; what a client was told of another."""

import asyncio
import re
import time

from slixmpp.exceptions import IqTimeout

from client import settle

RATE = 200
RUN_LIMIT_S = 150
END_LIMIT_S = 3


def run(coroutine, limit_s=RUN_LIMIT_S):
    """As `asyncio.run`, within a limit; and a task that does not end when it is told to holds nobody up."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, limit_s))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=END_LIMIT_S))
        asyncio.set_event_loop(None)
        loop.close()


class Talk:
    """Numbered messages from one client to another at a steady pace."""

    def __init__(self, sender, receiver, first=0, rate=RATE):
        self.sender, self.receiver, self.first, self.rate, self.sent, self.on = sender, receiver, first, rate, 0, True
        self.times = []
        self.task = asyncio.ensure_future(self._talk())

    async def _talk(self):
        while self.on:
            self.say()
            await asyncio.sleep(1 / self.rate)

    def say(self, count=1):
        for _ in range(count):
            self.sender.chat(self.to(), "#%d#" % (self.first + self.sent))
            self.times.append(time.monotonic())
            self.sent += 1

    def to(self):
        return self.receiver.boundjid.full

    async def stop(self):
        self.on = False
        await self.task

    def received(self):
        return numbers(self.receiver, self.sender.boundjid.bare)

    async def check(self, lost=frozenset(), c2s=None, limit_s=15):
        """Everything but `lost` arrived, once and in order. All talks must have been stopped. With `c2s` (the forwarder): what the c2s
        never sent is not counted: it throws away what waits to be written when its link ends, and when its stream restarts after SASL."""
        sent = set(range(self.first, self.first + self.sent))
        last = max(sent)
        assert last not in lost
        await self.receiver.until(lambda: last in self.received(), lambda: "message %d; %d of %d came" % (
            last, len(self.received()), self.sent), limit_s)
        await settle([self.sender, self.receiver])
        got = self.received()
        assert got == sorted(got), "in order: %s" % [pair for pair in zip(got, got[1:]) if pair[0] >= pair[1]]
        assert len(got) == len(set(got)), "once"
        missing = sent - set(got) - lost
        if c2s is not None:
            unsent = missing - c2s.upward_numbers()
            missing -= unsent
            assert len(unsent) <= self.sent / 10, "%d were never sent" % len(unsent)
        assert not missing, "lost though not inside the broken connection: %s" % sorted(missing)[:20]


class Post(Talk):
    """The same to a user, wherever he is: `devices` are his clients in the order in which they came."""

    def __init__(self, sender, user, **settings):
        self.user, self.devices = user, []
        super().__init__(sender, None, **settings)

    def to(self):
        return self.user

    def received(self):
        return [number for device in self.devices for number in numbers(device, self.sender.boundjid.bare)]


def numbers(client, sender):
    return [int(number) for body in client.bodies(sender) for number in re.findall(r"^#(\d+)#$", body)]


def in_order_once(got, who=""):
    """Fails unless the numbers rise."""
    wrong = [pair for pair in zip(got, got[1:]) if pair[0] >= pair[1]]
    twice = sorted({number for number in got if got.count(number) > 1}) if wrong else []
    assert not wrong, "%s: twice: %s; out of order: %s; all: %s" % (who, twice[:20], wrong[:20], runs(got))


def runs(got):
    """Numbers as text, with runs taken together."""
    parts = []
    for number in got:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return " ".join("%d" % first if first == last else "%d-%d" % (first, last) for first, last in parts[:60])


def truth_of(contact, jid, since=0):
    """What `contact` last heard of `jid`: 'available', 'unavailable' or None."""
    heard = told(contact, jid, since)
    return heard[-1][1] if heard else None


def told(contact, jid, since=0):
    """[(time, 'available' or 'unavailable')]: all that `contact` heard of `jid`."""
    return [(at, xml.get("type") or "available") for at, xml in contact.seen[since:]
            if xml.tag == "{jabber:client}presence" and xml.get("from") == jid and xml.get("type") in (None, "unavailable")]


def not_disturbed(*clients):
    for client in clients:
        assert not client.find("event"), "%s noticed: %s" % (client.label, client.find("event").attrib)


async def nobody_noticed(alice, bob, talks):
    """Two clients who see one another and talked meanwhile: all came, nobody was told anything; and bob can still go."""
    for talk in talks:
        await talk.stop()
    for talk in talks:
        await talk.check()
    not_disturbed(alice, bob)
    assert not alice.find("presence", type="unavailable") and not bob.find("presence", type="unavailable")
    await bob.disconnect()
    await alice.gets("presence", type="unavailable", from_=bob.boundjid.full)


class Phone:
    """A device that logs in again when it is disconnected, as real ones do. `streams`: its clients, the present one last."""

    def __init__(self, machines, jid, where, again=True):
        self.machines, self.jid, self.where, self.again = machines, jid, where, again
        self.streams = []
        self.watch = None

    @property
    def client(self):
        return self.streams[-1]

    async def on(self, limit_s=20.0):
        """Logs in, trying again until the limit, and from now on whenever it is disconnected."""
        end = time.monotonic() + limit_s
        while True:
            client = self.machines.client(self.jid, self.where, label="%s@%s-%d" % (self.jid, self.where, len(self.streams)))
            self.streams.append(client)
            try:
                await client.login(limit_s=max(1.0, end - time.monotonic()))
                break
            except (ConnectionError, asyncio.TimeoutError, IqTimeout):
                if not self.again and client.find("event", detail="conflict") is not None:
                    # It was let in, and pushed out by another.
                    return self
                client.vanish()
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.2)
        if self.again:
            self.watch = asyncio.ensure_future(self._stay())
        return self

    async def _stay(self):
        await self.client.until(lambda: self.client.closed, "the end", 3600)
        await asyncio.sleep(0.2)
        await self.on()

    def off(self):
        if self.watch:
            self.watch.cancel()

    def lives(self):
        return bool(self.streams) and not self.client.closed and self.client.sessionstarted


def wrong_pictures(phones):
    """Where what a client was last told of a contact's device is not the truth. All are contacts of all; the same JID once only."""
    wrong = []
    lives = {phone.client.boundjid.full for phone in phones if phone.lives()}
    known = {phone.client.boundjid.full for phone in phones}
    for phone in phones:
        for jid in known - {phone.client.boundjid.full} if phone.lives() else ():
            truth = "available" if jid in lives else "unavailable"
            heard = truth_of(phone.client, jid)
            if heard != truth and (heard, truth) != (None, "unavailable"):
                wrong.append("%s thinks of %s: %s" % (phone.client.label, jid, heard))
    return wrong


async def unreached(phones):
    """Pairs of devices between which no message passes, each way, within a second."""
    alive = [phone.client for phone in phones if phone.lives()]
    mark = "reach %d" % time.monotonic_ns()
    for one in alive:
        for other in alive:
            if one is not other:
                one.chat(other.boundjid.full, "%s from %s" % (mark, one.label))
    missing = [(one, other) for one in alive for other in alive if one is not other]
    end = time.monotonic() + 1
    while missing and time.monotonic() < end:
        await asyncio.sleep(0.05)
        missing = [(one, other) for one, other in missing if other.find("message", body="%s from %s" % (mark, one.label)) is None]
    return ["%s to %s" % (one.label, other.label) for one, other in missing]
