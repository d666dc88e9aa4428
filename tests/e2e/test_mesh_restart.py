"""All nodes are restarted, one after another, under load: each time only that machine's own users may notice."""

import asyncio
import time

import pytest

from bed import GRACE_S
from mesh import NAMES
from talk import Phone, Post, in_order_once, run, wrong_pictures

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(240)]
# Around a restart of the sender's or receiver's own node messages may be inside it, or their sender not be connected.
AROUND_S = (1.0, 4.0)
RATE = 20


class Letters(Post):
    """From one phone to another user, as long as the sender is connected."""

    def __init__(self, sender, receiver):
        self.from_phone, self.to_phone = sender, receiver
        super().__init__(sender.client, receiver.client.boundjid.bare, rate=RATE)

    def say(self, count=1):
        self.sender = self.from_phone.client
        if self.from_phone.lives():
            super().say(count)

    def received(self):
        self.devices = self.to_phone.streams
        return super().received()


@pytest.mark.parametrize("how", [pytest.param("stop"), pytest.param("kill", marks=pytest.mark.full)])
def test_a_rolling_restart_of_all_nodes(mesh, how):
    machines = mesh()
    users = ["a1", "a2", "a3", "b1", "b2", "b3"]
    machines["m1"].add_users(*users)
    for number, user in enumerate(users):
        machines["m1"].add_contacts(user + "@example.net", ["%s@example.net" % other for other in users[:number]])

    async def play():
        phones = {user: await Phone(machines, user + "/r", "m" + user[1]).on() for user in users}
        letters = [Letters(phones[one], phones[other]) for one, other in (("a1", "a2"), ("a2", "a3"), ("a3", "a1"), ("b1", "b3"), ("b2", "b1"), ("b3", "b2"))]
        await asyncio.sleep(1)
        restarts = {}
        for name in NAMES:
            streams = {user: len(phone.streams) for user, phone in phones.items()}
            restarts[name] = time.monotonic()
            router = machines[name].router
            await asyncio.to_thread(router.stop if how == "stop" else router.kill)
            await asyncio.to_thread(machines[name].start_router)
            await asyncio.to_thread(machines.wait_ready)
            await asyncio.sleep(GRACE_S + 2)
            for user, phone in phones.items():
                if phone.where != name:
                    assert len(phone.streams) == streams[user] and phone.lives(), "%s on %s noticed the restart on %s" % (user, phone.where, name)
        for letter in letters:
            await letter.stop()
        for letter in letters:
            phone = letter.to_phone
            last = letter.sent - 1
            await phone.client.until(lambda letter=letter, last=last: last in letter.received(),
                                     lambda letter=letter: "the last of %d; %d came" % (letter.sent, len(letter.received())), 20)
            got = letter.received()
            in_order_once(got)
            excused = {number for number, at in enumerate(letter.times) for name, moment in restarts.items()
                       if name in (letter.from_phone.where, phone.where) and -AROUND_S[0] < at - moment < AROUND_S[1]}
            missing = set(range(letter.sent)) - set(got) - excused
            assert not missing, "lost from %s to %s: %s" % (letter.from_phone.jid, phone.jid, sorted(missing)[:20])
        assert all(phone.lives() for phone in phones.values())
        wrong = wrong_pictures(list(phones.values()))
        assert not wrong, wrong
        for phone in phones.values():
            phone.off()

    run(play())
    assert not machines["m1"].query("select count(*) from queue")[0][0]
