"""Attached mode: the machine keeps its stock router with c2s and s2s; jidmesh is a component of it, and sm connects to jidmesh."""

import asyncio

import pytest

import bed
import script
from client import Client

pytestmark = [pytest.mark.jidmesh, pytest.mark.timeout(120)]


def test_a_client_logs_in(bare_machine):
    machine = bare_machine(router="attached")
    print(machine.logs(60))
