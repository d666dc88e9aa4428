"""Fixtures: machines under test that clean up after themselves and keep their logs when a test fails."""

import hashlib
import logging
import os
import re
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import bed  # noqa: E402
import mesh as meshes  # noqa: E402
from cage import LOGS  # noqa: E402

ALL_ROUTERS = {"stock": dict(router="stock"), "jidmesh": dict(router="jidmesh", shards=1), "jidmesh-2-shards": dict(router="jidmesh", shards=2)}


def pytest_addoption(parser):
    parser.addoption("--router", action="append", choices=sorted(ALL_ROUTERS), help="run only with these routers")
    parser.addoption("--attached", action="store_true", help="the machines of a mesh keep their stock routers, unless the test says otherwise")
    parser.addoption("--full", action="store_true", help="the long tests of many machines at their full length")


def pytest_configure(config):
    if not os.environ.get("JIDMESH_CAGE"):
        pytest.exit("run these tests with `tests/run e2e [pytest arguments]`: they need a cage of their own", 2)
    config.addinivalue_line("markers", "jidmesh: the test names jidmesh itself, without the parameter `router`")
    config.addinivalue_line("markers", "mesh: needs several machines")
    config.addinivalue_line("markers", "full: runs with --full only")
    config.addinivalue_line("markers", "router_mode: does not run with --attached")
    config.addinivalue_line("markers", "only(*routers): the test has a meaning on these routers alone")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    logging.getLogger("slixmpp").setLevel(logging.CRITICAL + 1)


def pytest_generate_tests(metafunc):
    if "router" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("only")
        wanted = marker.args if marker else tuple(ALL_ROUTERS)
        chosen = metafunc.config.getoption("--router") or list(ALL_ROUTERS)
        metafunc.parametrize("router", [name for name in ALL_ROUTERS if name in wanted and name in chosen])


def pytest_collection_modifyitems(config, items):
    """A test that has no meaning on the chosen routers is not there at all: nothing is skipped."""
    stock_only = set(config.getoption("--router") or ["jidmesh"]) == {"stock"}
    gone = [item for item in items if "NOTSET" in item.nodeid or stock_only and item.get_closest_marker("jidmesh")
            or not config.getoption("--full") and item.get_closest_marker("full")
            or config.getoption("--attached") and item.get_closest_marker("router_mode")]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in gone]


def pytest_runtestloop(session):
    """Where several cages share the tests, each is run by the one that makes its file first."""
    folder = os.environ.get("JIDMESH_CLAIMS")
    if folder is None or session.config.option.collectonly or session.testsfailed:
        return None
    claimed = (item for item in session.items if claim(folder, item))
    item = next(claimed, None)
    while item is not None:
        following = next(claimed, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail or session.shouldstop:
            raise session.Failed(session.shouldfail) if session.shouldfail else session.Interrupted(session.shouldstop)
        item = following
    return True


def claim(folder, item):
    try:
        open(os.path.join(folder, hashlib.sha256(item.nodeid.encode()).hexdigest()), "x").close()
    except FileExistsError:
        return False
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    report = (yield).get_result()
    if report.when == "call":
        item.failed = report.failed
    elif report.failed:
        item.failed = True


@pytest.fixture
def machine(request, router):
    """Factory: `machine(sms=..., ...)` starts a Stack on the router of the test's parameter; `router=` overrides."""
    yield from _machines(request, ALL_ROUTERS[router])


@pytest.fixture
def bare_machine(request):
    """Factory of Stacks that names its router itself."""
    yield from _machines(request, {})


@pytest.fixture
def full(request):
    """Whether the long tests have their full length."""
    return request.config.getoption("--full")


@pytest.fixture
def mesh(request):
    """Factory: `mesh(s2s=..., ...)` starts machines that serve one domain together, and waits until they do."""
    kind = "attached" if request.config.getoption("--attached") else "jidmesh"
    yield from _beds(request, lambda folder, **settings: meshes.Mesh(folder, **{"router": kind, **settings}))


def _machines(request, defaults):
    yield from _beds(request, lambda folder, **settings: bed.Stack(folder, **{**defaults, **settings}))


def _beds(request, make):
    made = []
    folder = tempfile.mkdtemp(prefix="test-", dir=os.environ["JIDMESH_CAGE"])

    def factory(start=True, **settings):
        own = tempfile.mkdtemp(dir=folder)
        # Foreign servers run as users of their own.
        for path in (folder, own):
            os.chmod(path, 0o755)
        one = make(own, **settings)
        made.append(one)
        if start:
            one.start()
        return one

    yield factory
    for one in made:
        one.stop()
    if getattr(request.node, "failed", False):
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.name)
        for number, one in enumerate(made):
            one.keep_logs(os.path.join(LOGS, name, str(number)))
    shutil.rmtree(folder, ignore_errors=True)
