"""The test bed itself: a machine comes up, a login works, a broken machine is noticed."""

import pytest

import bed
import frames


def test_a_machine_comes_up_and_lets_a_client_in(machine):
    stack = machine()
    stack.add_users("alice")
    # (c2s refuses a user while another process writes to SQLite's file.)
    bed.wait_for("alice is let in", lambda: bed.raw_login(stack.ip, 5222, "example.net", "alice", "secret"))
    assert not bed.raw_login(stack.ip, 5222, "example.net", "alice", "wrong")


@pytest.mark.only("stock")
def test_a_component_that_ends_is_noticed_and_named(machine):
    stack = machine()
    stack.processes["sm"].kill()
    with pytest.raises(bed.BedError, match="sm ended with status -9"):
        stack.wait_login()


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_the_frame_cutter_gives_every_byte_of_a_frame(step):
    stream = b"<?xml version='1.0'?><s:stream xmlns:s='x' id='x>y'> <a x='>'/><b><c/>t</b> <d></d><e/></s:stream>"
    cutter, got = frames.Cutter(), []
    for start in range(0, len(stream), step):
        got += cutter.feed(stream[start:start + step])
    assert got == [("header", b"<?xml version='1.0'?><s:stream xmlns:s='x' id='x>y'>"), ("frame", b"<a x='>'/>"),
                   ("frame", b"<b><c/>t</b>"), ("frame", b"<d></d>"), ("frame", b"<e/>"), ("end", b"</s:stream>")]
