"""One script of client actions gives every client the same stanzas on jidmesh as on the stock router."""

import asyncio
import copy
import functools
import json
import os

import pytest

import bed
import script

SHAPES = {
    "one-shard": dict(router="jidmesh", shards=1),
    "two-shards": dict(router="jidmesh", shards=2),
    "two-shards-two-sm": dict(router="jidmesh", shards=2, sms=["sm1", "sm2"]),
    "two-shards-two-sm-two-c2s": dict(router="jidmesh", shards=2, sms=["sm1", "sm2"], c2ss=["c2s1", "c2s2"]),
    "attached-two-shards-two-sm-two-c2s": dict(router="attached", shards=2, sms=["sm1", "sm2"], c2ss=["c2s1", "c2s2"]),
}


def play(stack):
    stack.add_users(*script.USERS)
    seats = script.in_turn(*(dict(host=stack.ip, port=stack.c2s_port(name)) for name in stack.c2ss))
    result = asyncio.run(asyncio.wait_for(script.play(seats), 100))
    # Kept with the logs when the test fails.
    with open(os.path.join(stack.folder, "script.txt"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1, ensure_ascii=False)
    errors = [line for process in stack.processes.values() for line in process.log().splitlines() if "[error]" in line]
    assert not errors, errors
    return result


@pytest.fixture(scope="session")
def stock_result(tmp_path_factory):
    """What the clients see on the stock router (with one sm), by number of c2s."""

    @functools.cache
    def result(c2ss):
        with bed.Stack(str(tmp_path_factory.mktemp("stock")), "stock", c2ss=["c2s%d" % number for number in range(c2ss)]) as stack:
            return play(stack)

    return result


def compare(expected, got):
    lines = script.differences(expected, got)
    assert not lines, "\n" + "\n".join(lines)


@pytest.mark.parametrize("run", range(2))
def test_the_stock_router_gives_the_same_each_time(bare_machine, stock_result, run):
    compare(stock_result(1), play(bare_machine(router="stock")))


def test_the_script_does_what_it_says(stock_result):
    """The comparison would also be happy with two empty logs."""
    logs = stock_result(1)
    text = {label: " ".join(stanza for _, stanza in log) for label, log in logs.items()}
    assert sum(len(log) for log in logs.values()) > 250
    for label, part in (("alice/one", "burst 39"), ("alice/desk", "to the higher priority"), ("alice/desk", 'detail="conflict"'),
                        ("alice/one", "gone fishing"), ("bob/two", "Alice &lt;A&gt;"), ("carol/three", "while you were out 4"),
                        ("carol/three", "out too 4"), ("alice/one", "to both"), ("alice/desk", "to both"), ("alice/one", "nobody@nowhere.example"),
                        ("bob/two", "disco#info"), ("alice/one", "Carol C."), ("dave/four", "just for you"), ("bob/two", "v &amp; w"),
                        ("alice/one", 'type="error"')):
        assert part in text[label], (label, part)
    assert "while you were out" not in text["carol/again"]
    assert "burst 1" not in text["alice/desk"]


def test_an_altered_log_is_caught(stock_result):
    expected = stock_result(1)

    def altered(change):
        result = copy.deepcopy(expected)
        change(result["alice/one"])
        return script.differences(expected, result)

    bursts = [index for index, (_, stanza) in enumerate(expected["alice/one"]) if "burst" in stanza]
    assert not script.differences(expected, copy.deepcopy(expected))
    assert altered(lambda log: log.pop(bursts[3]))
    assert altered(lambda log: log.append(log[bursts[3]]))
    assert altered(lambda log: log.insert(bursts[2], log.pop(bursts[9])))
    assert altered(lambda log: log.__setitem__(bursts[5], (log[bursts[5]][0], log[bursts[5]][1].replace("burst 5", "burst X"))))
    assert script.differences(expected, {label: log for label, log in expected.items() if label != "carol/again"})


@pytest.mark.jidmesh
@pytest.mark.parametrize("shape", SHAPES)
def test_every_client_sees_the_same_as_on_the_stock_router(bare_machine, stock_result, shape):
    settings = SHAPES[shape]
    compare(stock_result(len(settings.get("c2ss", ["c2s"]))), play(bare_machine(**settings)))
