import pytest

from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.model.settings import ComponentSettings, consumer_name


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
