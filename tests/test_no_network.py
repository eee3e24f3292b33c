import socket
import urllib.request

import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", "2001:db8::1"])
def test_connections_beyond_loopback_are_refused_and_counted(network_attempts, host):
    before = len(network_attempts)
    with pytest.raises(ConnectionRefusedError, match="may not connect"):
        socket.create_connection((host, 80), timeout=1)
    assert len(network_attempts) == before + 1
    del network_attempts[before:]


def test_urllib_and_datagrams_are_guarded_too(network_attempts):
    before = len(network_attempts)
    with pytest.raises(OSError, match="may not connect"):
        urllib.request.urlopen("http://192.0.2.1/", timeout=1)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(ConnectionRefusedError),
    ):
        sock.sendto(b"x", ("192.0.2.1", 9))
    assert len(network_attempts) >= before + 2
    del network_attempts[before:]


def test_loopback_works(network_attempts):
    before = len(network_attempts)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address, timeout=5) as client:
            assert client.getpeername() == address
    assert len(network_attempts) == before
