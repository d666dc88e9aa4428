"""The router is killed and started again: its sessions go on, or are ended on both sides."""

import asyncio

import pytest

from bed import wait_for
from talk import Talk, nobody_noticed, run
from test_grace import couple

pytestmark = pytest.mark.only("jidmesh", "jidmesh-2-shards")


async def crash(stack, away_s, meanwhile=lambda: None):
    """Killed, and back after so long, with other shards than before."""
    stack.router.kill()
    await asyncio.to_thread(meanwhile)
    await asyncio.sleep(away_s)
    stack.shards = 3 - stack.shards
    stack.write_router()
    await asyncio.to_thread(stack.start_router)
    await asyncio.to_thread(wait_for, "the router answers", stack.answers, 10)


def recovered(stack):
    kept, cut = (stack.metric('jidmesh_recovered_sessions_total{outcome="%s"}' % outcome) for outcome in ("kept", "cut"))
    return kept, cut


def written(stack, *names):
    """The file has the sessions of these users."""
    with open(stack.folder + "/admin.recovery", "rb") as file:
        content = file.read()
    return all(name.encode() + b"@example.net" in content for name in names)


async def no_client_notices(machine, away_s):
    stack = machine()
    alice, bob = await couple(stack)
    wait_for("the sessions are written down", lambda: written(stack, "alice", "bob"))
    await crash(stack, away_s)
    await asyncio.to_thread(wait_for, "c2s has answered", lambda: sum(recovered(stack)) == 2, 20)
    assert recovered(stack) == (2, 0), stack.logs()
    talks = Talk(alice, bob), Talk(bob, alice, first=1_000_000)
    await asyncio.sleep(0.3)
    await nobody_noticed(alice, bob, talks)


def test_no_client_notices_a_crash_that_the_components_outlive(machine):
    run(no_client_notices(machine, 0.5))


@pytest.mark.only("jidmesh")
@pytest.mark.full
@pytest.mark.parametrize("away_s", [2, 5])
def test_no_client_notices_a_longer_crash(machine, away_s):
    run(no_client_notices(machine, away_s))


@pytest.mark.only("jidmesh")
def test_sessions_of_an_sm_that_is_another_process_after_the_crash_are_ended(machine):
    stack = machine()

    async def play():
        alice, bob = await couple(stack)
        wait_for("the sessions are written down", lambda: written(stack, "alice", "bob"))
        await crash(stack, 0.5, stack.processes["sm"].restart)
        await asyncio.to_thread(wait_for, "its c2s has closed them", lambda: "was restarted: its sessions are ended" in stack.router.log(), 20)
        for client in (alice, bob):
            await client.until(lambda: not client.is_connected(), "the end of its connection")
        await asyncio.to_thread(wait_for, "nobody is online", lambda: stack.metric("jidmesh_sessions") == 0, 20)

    run(play())
    stack.wait_login()
