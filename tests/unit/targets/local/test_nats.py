import pytest

from pelton.errors import ComponentError, UsageError
from pelton.targets.local import nats


def test_config_listens_on_loopback_with_a_password_and_without_monitoring():
    text = nats.config(store_dir="/s", user="u", password="p", ports_file_dir="/r")

    assert "host: 127.0.0.1\n" in text
    assert "port: -1\n" in text
    assert 'password: "p"\n' in text
    assert 'ports_file_dir: "/r"\n' in text
    assert "max_payload: 8388608\n" in text
    assert "http" not in text
    assert "sync_interval" not in text


def test_config_syncs_every_message_for_durability_power():
    text = nats.config(
        store_dir="/s", user="u", password="p", port=4222, durability="power", monitoring_port=0
    )

    assert "sync_interval: always\n" in text
    assert "port: 4222\n" in text
    assert 'http: "127.0.0.1:-1"\n' in text


def test_config_refuses_an_unknown_durability():
    with pytest.raises(UsageError, match="unknown durability 'disk'"):
        nats.config(store_dir="/s", user="u", password="p", durability="disk")


def test_command_names_the_program_and_the_file():
    program, *arguments = nats.command("/x.conf")

    assert program.endswith("nats-server")
    assert arguments == ["--config", "/x.conf"]


def test_address_is_none_until_the_server_has_written_it(tmp_path):
    assert nats.address(str(tmp_path), 7) is None
    path = tmp_path / "nats-server_7.ports"
    path.write_text("{")
    assert nats.address(str(tmp_path), 7) is None
    path.write_text('{"nats":["nats://127.0.0.1:4711"]}')
    assert nats.address(str(tmp_path), 7) == ("127.0.0.1", 4711)


async def test_wait_ready_ends_when_the_server_is_gone(tmp_path):
    with pytest.raises(ComponentError, match="ended while it started"):
        await nats.wait_ready(pid=2**22 + 1, ports_file_dir=str(tmp_path), timeout_s=5.0)
