"""P1: the script of client actions, its clients spread over three machines, gives every client the same stanzas as one stock node."""

import asyncio
import functools
import json
import os

import pytest

import bed
import script
from database import Postgres
from mesh import NAMES

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(180)]

# Where each client of the script sits. What matters: two of a user's resources on two machines, a conflict across machines, offline
# messages fetched elsewhere, contacts together and apart.
CASTS = {
    "each-resource-elsewhere": {"alice/one": "m1", "alice/desk": "m2", "alice/desk2": "m3", "bob/two": "m2", "bob/back": "m3", "carol/three": "m3",
                                "carol/again": "m1", "dave/reg": "m3", "dave/four": "m2"},
    "each-user-elsewhere": {"alice/one": "m1", "alice/desk": "m1", "alice/desk2": "m1", "bob/two": "m2", "bob/back": "m2", "carol/three": "m3",
                            "carol/again": "m3", "dave/reg": "m3", "dave/four": "m3"},
    "all-on-one": dict.fromkeys(("alice/one", "alice/desk", "alice/desk2", "bob/two", "bob/back", "carol/three", "carol/again", "dave/reg",
                                 "dave/four"), "m2"),
    "two-against-one": {"alice/one": "m3", "alice/desk": "m1", "alice/desk2": "m3", "bob/two": "m3", "bob/back": "m1", "carol/three": "m1",
                        "carol/again": "m3", "dave/reg": "m1", "dave/four": "m1"},
}
SHAPES = [("each-resource-elsewhere", "near", 1), ("each-user-elsewhere", "near", 2), ("each-resource-elsewhere", "spread", 1)]
MORE_SHAPES = [("each-resource-elsewhere", "near", 2), ("all-on-one", "near", 1), ("all-on-one", "spread", 1), ("two-against-one", "near", 1),
               ("two-against-one", "spread", 2)]
REFERENCE = "all-on-one"


@pytest.fixture(scope="session")
def stock_result(tmp_path_factory):
    """What the clients see on one stock node with a c2s for each machine, by cast. It does not depend on the cast, as a test says."""

    @functools.cache
    def result(cast):
        c2ss = ["c2s-" + name for name in NAMES]
        # On PostgreSQL as well: with SQLite a roster has another version than with PostgreSQL.
        with bed.Stack(str(tmp_path_factory.mktemp("stock")), "stock", c2ss=c2ss, database=Postgres()) as stack:
            stack.add_users(*script.USERS)
            return play({name: dict(port=stack.c2s_port("c2s-" + name)) for name in NAMES}, CASTS[cast])

    return result


def play(seats, cast):
    return asyncio.run(asyncio.wait_for(script.play(lambda _, label: seats[cast[label]]), 120))


@pytest.mark.parametrize("cast, placement, shards", [
    *(pytest.param(*shape, id="-".join(map(str, shape))) for shape in SHAPES),
    *(pytest.param(*shape, id="-".join(map(str, shape)), marks=pytest.mark.full) for shape in MORE_SHAPES)])
def test_every_client_sees_the_same_as_on_one_stock_node(mesh, stock_result, cast, placement, shards):
    expected = stock_result(REFERENCE)
    machines = mesh(shards=shards, more="<domain placement='%s'>example.net</domain>" % placement)
    machines["m1"].add_users(*script.USERS)
    got = play({name: dict(place=place) for name, place in machines.places.items()}, CASTS[cast])
    for name, result in (("expected", expected), ("got", got)):
        with open(os.path.join(machines["m1"].folder, name + ".txt"), "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1, ensure_ascii=False)
    compare(expected, got)
    assert not machines.errors()


def compare(expected, got):
    lines = script.differences(expected, got)
    assert not lines, "\n" + "\n".join(lines)


def test_every_client_sees_the_same_on_attached_and_other_machines(mesh, stock_result):
    """Two machines keep their stock routers; between each two of the three there are sessions, contacts and messages."""
    attached = dict(router="attached")
    machines = mesh(own={"m1": attached, "m2": attached})
    machines["m1"].add_users(*script.USERS)
    got = play({name: dict(place=place) for name, place in machines.places.items()}, CASTS["each-resource-elsewhere"])
    compare(stock_result(REFERENCE), got)
    assert not machines.errors()


@pytest.mark.full
def test_on_a_stock_node_it_does_not_matter_at_which_c2s_a_client_is(stock_result):
    compare(stock_result(REFERENCE), stock_result("each-resource-elsewhere"))


@pytest.mark.full
def test_the_bed_makes_no_difference(mesh, stock_result):
    """A stock node in a place of its own, with two others beside it that it does not know, gives what a stock node gives."""
    machines = mesh(start=False, router="stock")
    machines.start(ready=False)
    machines["m2"].wait_login()
    machines["m2"].add_users(*script.USERS)
    compare(stock_result(REFERENCE), play({name: dict(place=place) for name, place in machines.places.items()}, CASTS[REFERENCE]))
