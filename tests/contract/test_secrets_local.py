import json

import pytest

from pelton.clock import SystemClock
from pelton.drivers.secrets_local import EnvironmentSecrets, FileSecrets
from pelton.errors import ComponentError, NotFoundError
from pelton.model.desired import Component
from tests.contract.secrets import SecretContract

TREE = {
    "token": "t0k",
    "database": {"user": "shop", "password": "ä:1"},
    "deep": {"list": ["x", {"y": 2}], "yes": True},
}


def component(kind="secretstores.local.file", **metadata):
    return Component(namespace="shop", name="vault", type=kind, metadata=metadata)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps(TREE))
    return path


def store_of(file, **metadata):
    return FileSecrets(component(secretsFile=str(file), **metadata), clock=SystemClock())


class TestMultiValuedFile(SecretContract):
    @pytest.fixture
    def store(self, file):
        return store_of(file, multiValued="true")

    async def test_what_is_nested_further_is_flattened_within_the_secret(self, store):
        assert await store.get("deep") == {"list:0": "x", "list:1:y": "2", "yes": "true"}


async def test_nested_objects_are_secrets_of_joined_names(file):
    store = store_of(file)

    assert set(await store.get_all()) == {
        "token",
        "database:user",
        "database:password",
        "deep:list:0",
        "deep:list:1:y",
        "deep:yes",
    }
    assert await store.get("database:password") == {"database:password": "ä:1"}
    with pytest.raises(NotFoundError):
        await store.get("database")


async def test_separator_is_the_components(file):
    assert await store_of(file, nestedSeparator=".").get("deep.list.0") == {"deep.list.0": "x"}


async def test_file_that_changes_is_read_again(file):
    store = store_of(file)
    assert await store.get("token") == {"token": "t0k"}
    file.with_suffix(".new").write_text('{"token": "other"}')
    file.with_suffix(".new").replace(file)

    assert await store.get("token") == {"token": "other"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        ('{"a": "s3cret', "is no JSON"),
        ('["s3cret"]', "no JSON object"),
        ("[" * 100_000, "is no JSON"),
    ],
    ids=["absent", "torn", "list", "deep"],
)
async def test_file_that_cannot_be_used_is_an_error_that_shows_nothing_of_it(file, content, reason):
    if content is None:
        file.unlink()
    else:
        file.write_text(content)

    with pytest.raises(ComponentError, match=reason) as caught:
        await store_of(file).get("token")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None or "s3cret" not in str(caught.value.__cause__)


async def test_environment_hands_out_what_is_not_daprs_own():
    variables = {"A": "1", "SHOP_B": "2", "DAPR_API_TOKEN": "x", "APP_API_TOKEN": "y", "SHOP_": "3"}
    plain = EnvironmentSecrets(component("secretstores.local.env"), clock=SystemClock(), variables=variables)
    prefixed = EnvironmentSecrets(
        component("secretstores.local.env", prefix="SHOP_"), clock=SystemClock(), variables=variables
    )

    assert await plain.get("A") == {"A": "1"}
    assert await plain.get("none") == {"none": ""}
    assert await plain.get("DAPR_API_TOKEN") == {"DAPR_API_TOKEN": ""}
    assert await plain.get("app_api_token") == {"app_api_token": ""}
    assert set(await plain.get_all()) == {"A", "SHOP_B", "SHOP_"}
    assert await prefixed.get("B") == {"B": "2"}
    assert await prefixed.get_all() == {"B": {"B": "2"}, "": {"": "3"}}


async def test_prefix_is_no_way_to_daprs_own():
    store = EnvironmentSecrets(
        component("secretstores.local.env", prefix="DAPR_"),
        clock=SystemClock(),
        variables={"DAPR_API_TOKEN": "x"},
    )

    assert await store.get("API_TOKEN") == {"API_TOKEN": ""}
    assert await store.get_all() == {}
