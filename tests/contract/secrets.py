"""What every `SecretStore` keeps to; subclasses bring `store`, which has `database` and `token`."""

import pytest

from pelton.errors import NotFoundError


class SecretContract:
    async def test_secret_is_returned_by_its_name(self, store):
        assert await store.get("database") == {"user": "shop", "password": "ä:1"}
        assert await store.get("token") == {"token": "t0k"}

    async def test_unknown_secret_is_not_found(self, store):
        with pytest.raises(NotFoundError, match="nothing"):
            await store.get("nothing")

    async def test_all_secrets_are_returned_by_name(self, store):
        found = await store.get_all()

        assert found["database"] == {"user": "shop", "password": "ä:1"}
        assert found["token"] == {"token": "t0k"}

    async def test_close_is_safe_twice_and_before_use(self, store):
        await store.close()
        await store.close()
