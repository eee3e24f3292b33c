"""Shared fixtures, and the promise that no test talks to the network."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import settings

# A shared machine makes timing luck; the suite's own timeout catches what hangs.
settings.register_profile("celldetr", deadline=None)
settings.load_profile("celldetr")

sys.path.insert(0, str(Path(__file__).parent))

SHARED = Path(__file__).parents[2] / "shared" / "data"
LOOPBACK_NAMES = {"localhost", "ip6-localhost", ""}

attempts: list[str] = []
"""Every connection beyond loopback that was tried in this session; must stay empty."""

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex
_sendto, _lookup = socket.socket.sendto, socket.getaddrinfo


def _is_local(host: object) -> bool:
    if not isinstance(host, str) or host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


def _check(host: object) -> None:
    if not _is_local(host):
        attempts.append(str(host))
        raise ConnectionRefusedError(f"tests may not connect to {host!r}")


def _host(sock: socket.socket, address: object) -> object:
    return address[0] if sock.family in (socket.AF_INET, socket.AF_INET6) else None  # type: ignore[index]


def _guarded_connect(self, address):
    _check(_host(self, address))
    return _connect(self, address)


def _guarded_connect_ex(self, address):
    _check(_host(self, address))
    return _connect_ex(self, address)


def _guarded_sendto(self, data, *rest):
    _check(_host(self, rest[-1]))
    return _sendto(self, data, *rest)


def _guarded_lookup(host, *args, **kwargs):
    _check(host.decode() if isinstance(host, bytes) else host)
    return _lookup(host, *args, **kwargs)


def pytest_configure(config):
    socket.socket.connect = _guarded_connect
    socket.socket.connect_ex = _guarded_connect_ex
    socket.socket.sendto = _guarded_sendto
    socket.getaddrinfo = _guarded_lookup
    # Child processes of tests find the fakes as the tests do.
    os.environ.setdefault("CELLDETR_CACHE", str(Path(config.rootpath) / ".pytest_cache" / "runs"))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"connections tried beyond loopback: {len(attempts)}")


def pytest_sessionfinish(session, exitstatus):
    if attempts and exitstatus == 0:
        session.exitstatus = 1


@pytest.fixture
def network_attempts() -> list[str]:
    """What was tried so far; a test that provokes an attempt takes its own entry out again."""
    return attempts


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images and labels; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("real images (../shared/data) are not on this machine")
    return SHARED


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Runs without a workspace are stored in the test's own folder."""
    monkeypatch.setenv("CELLDETR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_thread_leak():
    """Fails when a thread of ours outlives the test."""
    before = {t.ident for t in threading.enumerate()}
    yield
    left = [t.name for t in threading.enumerate() if t.ident not in before]
    assert not [name for name in left if name.startswith("celldetr")]
