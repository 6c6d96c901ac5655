import pytest

from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.model.settings import ComponentSettings, consumer_name, positive_seconds, server_url


def settings(**metadata):
    return ComponentSettings(Component(namespace="shop", name="x", type="t", metadata=metadata))


def test_keys_count_in_any_case_and_blank_is_absent():
    found = settings(RedisHost="a:1", other="  ")
    assert found.required("redisHost") == "a:1"
    assert found.text("OTHER", "else") == "else"


@pytest.mark.parametrize("text", ["true", "True", "1", "yes", "on", "T"])
def test_flags_are_true_in_all_forms(text):
    assert settings(flag=text).flag("flag")


def test_flags_are_their_default_when_absent_and_false_otherwise():
    assert settings().flag("flag", True)
    assert not settings(flag="no").flag("flag", True)


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 5.0), ("2", 2.0), ("1.5", 1.5), ("250ms", 0.25), ("-1s", 0.0)]
)
def test_durations_are_go_or_plain_seconds(text, seconds):
    assert settings(wait=text).seconds("wait", 5.0) == seconds


@pytest.mark.parametrize(("text", "seconds"), [("250", 0.25), ("2s", 2.0), ("-1", 0.0), ("", 5.0)])
def test_plain_durations_have_the_unit_that_the_driver_says(text, seconds):
    assert settings(wait=text).seconds("wait", 5.0, plain_s=0.001) == seconds


@pytest.mark.parametrize(("text", "seconds"), [("", 0.0), ("3", 3.0), ("1500ms", 1.5)])
def test_time_to_live_is_whole_seconds_or_a_duration(text, seconds):
    assert positive_seconds(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "-2s", "1.5", "soon"])
def test_time_to_live_that_is_none_is_refused(text):
    with pytest.raises(ValueError):
        positive_seconds(text)


@pytest.mark.parametrize(
    "text",
    [
        "tcp://a/x@b:1",
        "tcp://u:12/x@b:1",
        "tcp://u:p#x@b",
        "tcp://u:p?x@b",
        "tcp://b:99999",
        "tcp://b:0",
        "tcp://[::1",
        "tcp://",
        "b:1",
        "udp://b:1",
    ],
)
def test_server_url_that_is_none_is_told_without_an_error(text):
    assert server_url(text, ("tcp",)) is None


def test_server_url_has_its_parts():
    url = server_url(" tcp://u:p%2Fx@b:1/v?x=1 ", ("tcp",))

    assert url is not None
    assert (url.hostname, url.port, url.username, url.password) == ("b", 1, "u", "p%2Fx")


@pytest.mark.parametrize(
    "read",
    [
        lambda found: found.required("nothing"),
        lambda found: found.number("bad", 1),
        lambda found: found.seconds("bad", 1.0),
    ],
)
def test_bad_values_name_component_and_key(read):
    with pytest.raises(ComponentError, match=r"nothing|bad") as caught:
        read(settings(bad="hunter2-soon"))
    assert "Component shop/x" in str(caught.value)


def test_number_does_not_show_what_was_written():
    with pytest.raises(ComponentError) as caught:
        settings(poolSize="hunter2").number("poolSize", 1)
    assert "hunter2" not in str(caught.value)


def test_names_of_consumers_are_filled_in_the_same_way_each_time():
    first = consumer_name("app-{uuid}", "machine/one")

    assert first == consumer_name("app-{uuid}", "machine/one")
    assert first != consumer_name("app-{uuid}", "machine/two")
    assert len(first) == len("app-") + 36
    assert consumer_name("app", "machine/one") == "app"
