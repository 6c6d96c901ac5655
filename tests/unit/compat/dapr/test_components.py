"""Components of the Dapr runtime: scopes, settings, secrets, opening, change while running."""

import asyncio

import pytest

from pelton.compat.dapr.apps import App
from pelton.compat.dapr.components import Components, is_variable_allowed
from pelton.compat.dapr.ports import Drivers
from pelton.errors import ComponentError, DeliveryError
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem, SecretKeyRef
from pelton.model.dapr import DaprConfiguration

A = App(app_id="a")
B = App(app_id="b")


class Port:
    def __init__(self, component):
        self.component = component
        self.closed = False

    async def close(self):
        self.closed = True


class Opened:
    """Drivers that remember what they opened; `away` lists types whose backend is not there."""

    def __init__(self):
        self.ports = []
        self.away = set()
        self.slow = None

    async def open(self, component):
        if self.slow is not None:
            await self.slow.wait()
        if component.type in self.away:
            raise DeliveryError(f"{component.type} is away")
        self.ports.append(Port(component))
        return self.ports[-1]

    def drivers(self):
        return Drivers(
            open={"state": self.open, "pubsub": self.open, "secretstores": self.secrets},
            types={
                "state": ["state.in-memory"],
                "pubsub": ["pubsub.redis"],
                "secretstores": ["secretstores.x"],
            },
        )

    async def secrets(self, _component):
        class Store:
            async def get(self, name, *, metadata=None):
                return {"password": "p-w"} if name == "redis" else {}

        return Store()


def resource(name="store", kind="state.in-memory", *metadata, **more):
    spec = ComponentSpec(
        type=kind,
        metadata=metadata,
        ignore_errors=more.pop("ignore_errors", None),
        init_timeout_s=more.pop("init_timeout_s", None),
    )
    return ComponentResource(name=name, spec=spec, **more)


def item(name, value=None, **more):
    return MetadataItem(name=name, value=value, **more)


@pytest.fixture
def opened():
    return Opened()


@pytest.fixture
async def components(opened):
    made = Components(opened.drivers(), variables={"REGION": "eu", "DAPR_X": "no"}, pod_name="host-1")
    yield made
    await made.close()


async def test_get_opens_once_for_calls_side_by_side(components, opened):
    components.sync([resource()])

    first, second = await asyncio.gather(*(components.get("state", A, "store") for _ in range(2)))

    assert first is second
    assert len(opened.ports) == 1


async def test_get_of_another_category_or_scope_is_none(components):
    components.sync([resource(scopes=("b",))])

    assert await components.get("state", A, "store") is None
    assert await components.get("pubsub", B, "store") is None
    assert await components.get("state", B, "store") is not None


async def test_namespace_of_the_app_goes_before_none(components):
    components.sync([resource(namespace="shop"), resource()])

    port = await components.get("state", App(app_id="a", namespace="shop"), "store")
    other = await components.get("state", A, "store")

    assert (port.component.namespace, other.component.namespace) == ("shop", "default")


async def test_templates_and_variables_are_filled_in(components):
    items = [
        item("id", "{appID}-{namespace}-{podName}"),
        item("two", "{uuid} {uuid}"),
        item("region", env_ref="REGION"),
        item("n", 3),
    ]
    components.sync([resource("store", "state.in-memory", *items)])

    port = await components.get("state", A, "store")
    again = await components.component(A, "store")

    metadata = port.component.metadata
    first, second = metadata["two"].split()
    assert (metadata["id"], metadata["region"], metadata["n"]) == ("a-default.a-host-1", "eu", "3")
    assert first != second
    assert again.metadata == metadata


async def test_reserved_variable_is_refused(components):
    components.sync([resource("store", "state.in-memory", item("x", env_ref="DAPR_X"))])

    with pytest.raises(ComponentError, match="may not be read"):
        await components.get("state", A, "store")


def test_variables_are_limited_by_the_list_of_names():
    assert is_variable_allowed("A", {})
    assert not is_variable_allowed("APP_API_TOKEN", {})
    assert is_variable_allowed("A", {"DAPR_ENV_KEYS": "A B"})
    assert not is_variable_allowed("C", {"DAPR_ENV_KEYS": "A B"})


async def test_secret_comes_from_the_named_store(components):
    reference = item("password", secret_key_ref=SecretKeyRef(name="redis", key="password"))
    components.sync(
        [
            resource("store", "state.in-memory", reference, secret_store="vault"),
            resource("vault", "secretstores.x"),
        ]
    )

    port = await components.get("state", A, "store")

    assert port.component.metadata == {"password": "p-w"}


async def test_missing_secret_key_and_missing_store_are_told(components):
    reference = item("password", secret_key_ref=SecretKeyRef(name="other", key="password"))
    components.sync([resource("store", "state.in-memory", reference, secret_store="vault")])
    with pytest.raises(ComponentError, match="no secret store 'vault'"):
        await components.get("state", A, "store")

    components.sync(
        [
            resource("store", "state.in-memory", reference, secret_store="vault"),
            resource("vault", "secretstores.x"),
        ]
    )
    with pytest.raises(ComponentError, match="no such key"):
        await components.get("state", A, "store")


async def test_platform_secret_is_asked_for_without_a_store(opened):
    async def secrets(namespace, name):
        return {"key": "v"} if (namespace, name) == ("default", "s") else None

    components = Components(opened.drivers(), secrets=secrets)
    components.sync(
        [
            resource("one", "state.in-memory", item("x", secret_key_ref=SecretKeyRef(name="s", key="key"))),
            resource("two", "state.in-memory", item("x", secret_key_ref=SecretKeyRef(name="t"))),
        ]
    )

    assert (await components.get("state", A, "one")).component.metadata == {"x": "v"}
    with pytest.raises(ComponentError, match="no Secret 't'"):
        await components.get("state", A, "two")
    await components.close()


async def test_platform_is_a_secret_store_of_its_own_name(opened):
    async def secrets(_namespace, _name):
        return {"key": "v"}

    reference = item("x", secret_key_ref=SecretKeyRef(name="s", key="key"))
    alone, platform = Components(opened.drivers()), Components(opened.drivers(), secrets=secrets)
    for components in (alone, platform):
        components.sync([resource("store", "state.in-memory", reference, secret_store="kubernetes")])

    assert (await platform.get("state", A, "store")).component.metadata == {"x": "v"}
    with pytest.raises(ComponentError, match="no secret store 'kubernetes'"):
        await alone.get("state", A, "store")
    await platform.close()
    await alone.close()


async def test_unknown_type_names_the_known_ones(components):
    components.sync([resource("store", "state.etcd")])

    with pytest.raises(ComponentError, match="no component type") as raised:
        await components.get("state", A, "store")

    assert "state.in-memory" in raised.value.hint


async def test_unknown_version_names_the_known_ones(components, opened):
    components.sync([ComponentResource(name="s", spec=ComponentSpec(type="state.in-memory", version="v9"))])

    with pytest.raises(ComponentError, match="no version 'v9'; there is v1"):
        await components.get("state", A, "s")
    assert opened.ports == []


async def test_denied_type_is_not_opened(components):
    components.sync([resource()])
    app = App(
        app_id="a", configuration=DaprConfiguration(name="c", denied_components=("state.in-memory/v1",))
    )

    with pytest.raises(ComponentError, match="denied"):
        await components.get("state", app, "store")


async def test_backend_that_comes_later_is_found(components, opened):
    components.sync([resource("bus", "pubsub.redis")])
    opened.away.add("pubsub.redis")
    with pytest.raises(DeliveryError):
        await components.get("pubsub", A, "bus")

    opened.away.clear()

    assert await components.get("pubsub", A, "bus") is opened.ports[0]


async def test_start_that_takes_too_long_ends(components, opened):
    opened.slow = asyncio.Event()
    components.sync([resource(init_timeout_s=0.01)])

    with pytest.raises(DeliveryError, match=r"did not start within 0\.01 s"):
        await components.get("state", A, "store")


async def test_check_tells_of_all_problems_and_which_are_tolerated(components, opened):
    opened.away.add("pubsub.redis")
    components.sync(
        [resource(), resource("bus", "pubsub.redis", ignore_errors=True), resource("odd", "state.etcd")]
    )

    problems = await components.check(A)

    assert [(each.name, each.tolerated, each.is_away) for each in problems] == [
        ("bus", True, True),
        ("odd", False, False),
    ]


async def test_change_opens_anew_and_the_old_one_ends(components, opened):
    components.sync([resource()])
    old = await components.get("state", A, "store")
    heard: list[frozenset[str]] = []
    components.listen(heard.append)

    same = components.sync([resource()])
    changed = components.sync([resource("store", "state.in-memory", item("x", "1"))])
    new = await components.get("state", A, "store")
    await components.close()

    assert (set(same), set(changed), [set(names) for names in heard]) == (set(), {"store"}, [{"store"}])
    assert new is not old
    assert old.closed and new.closed


async def test_change_while_opening_gives_the_new_one(components, opened):
    opened.slow = asyncio.Event()
    components.sync([resource()])
    waiting = asyncio.create_task(components.get("state", A, "store"))
    await asyncio.sleep(0)

    components.sync([resource("store", "state.in-memory", item("x", "1"))])
    opened.slow.set()

    assert (await waiting).component.metadata == {"x": "1"}


async def test_removed_component_is_none(components):
    components.sync([resource()])
    await components.get("state", A, "store")

    components.sync([])

    assert await components.get("state", A, "store") is None


async def test_apps_share_a_driver_until_the_last_one_is_gone(components, opened):
    components.sync([resource(), resource("own", "state.in-memory", item("id", "{appID}"))])

    first, second = await components.get("state", A, "store"), await components.get("state", B, "store")
    own = [await components.get("state", app, "own") for app in (A, B)]
    components.forget(A)
    await components.close()

    assert first is second
    assert own[0] is not own[1]
    assert [port.closed for port in opened.ports] == [True, True, True]


async def test_failed_opening_is_not_kept_for_the_other_app(components, opened):
    components.sync([resource("bus", "pubsub.redis")])
    opened.away.add("pubsub.redis")
    failures = await asyncio.gather(
        *(components.get("pubsub", app, "bus") for app in (A, B)), return_exceptions=True
    )
    opened.away.clear()

    assert [type(failure) for failure in failures] == [DeliveryError, DeliveryError]
    assert await components.get("pubsub", B, "bus") is opened.ports[0]


async def test_failure_that_goes_on_is_logged_once(components, opened, caplog):
    components.sync([resource("bus", "pubsub.redis")])
    opened.away.add("pubsub.redis")
    for _ in range(3):
        with pytest.raises(DeliveryError):
            await components.get("pubsub", A, "bus")

    assert len([record for record in caplog.records if "pubsub.redis is away" in record.getMessage()]) == 1
