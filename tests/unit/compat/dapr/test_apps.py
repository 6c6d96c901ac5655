"""Apps of the Dapr runtime: registering, finding by id and by token."""

from pelton.compat.dapr.apps import App, AppRegistry


def test_put_tells_of_new_and_changed_apps_only():
    registry = AppRegistry()
    heard = []
    registry.listen(lambda found, there: heard.append((found.app.key, found.app.port, there)))

    first = registry.put(App(app_id="a"))
    same = registry.put(App(app_id="a"))
    changed = registry.put(App(app_id="a", port=80))
    registry.remove("a")
    registry.remove("a")

    assert first is same is changed
    assert heard == [("default/a", 0, True), ("default/a", 80, True), ("default/a", 80, False)]


def test_apps_are_apart_by_namespace():
    registry = AppRegistry()
    registry.put(App(app_id="a"))
    registry.put(App(app_id="a", namespace="shop"))

    assert len(registry) == 2
    assert registry.find("a", "shop") is not registry.find("a")
    assert registry.find("a", "other") is None


def test_token_finds_its_app_and_no_other():
    registry = AppRegistry()
    registry.put(App(app_id="a", api_token="one"))
    registry.put(App(app_id="b", api_token="two"))
    registry.put(App(app_id="c"))

    found = registry.by_token("two")

    assert found is not None
    assert found.app.app_id == "b"
    assert registry.by_token("") is None
    assert registry.by_token("three") is None
    assert "two" not in repr(found.app)
