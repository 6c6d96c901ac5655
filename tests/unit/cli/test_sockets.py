import os
import socket

from pelton.cli.sockets import holder_of_port, holder_of_socket


def test_listener_on_a_port_is_this_process():
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = holder_of_port("127.0.0.1", server.getsockname()[1])

    assert found is not None
    assert found[0] == os.getpid()


def test_listener_is_found_behind_a_descriptor_that_is_free():
    """The one by which descriptors are listed takes its place, and is gone when they are looked at."""
    with socket.socket() as free, socket.create_server(("127.0.0.1", 0)) as server:
        free.close()
        found = holder_of_port("127.0.0.1", server.getsockname()[1])

    assert found is not None
    assert found[0] == os.getpid()


def test_listener_on_all_addresses_holds_each_of_them():
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert holder_of_port("127.0.0.1", server.getsockname()[1]) is not None


def test_listener_of_ipv6_is_found_by_its_address():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        assert holder_of_port("::1", port) is not None
        assert holder_of_port("127.0.0.1", port) is None


def test_port_without_a_listener_has_no_holder():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert holder_of_port("127.0.0.1", bound.getsockname()[1]) is None


def test_unix_socket_is_held_by_who_listens(tmp_path):
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        assert holder_of_socket(path) is None
        server.listen()
        found = holder_of_socket(path)

    assert found is not None
    assert found[0] == os.getpid()
    assert holder_of_socket(path) is None
