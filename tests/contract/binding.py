"""What every `Binding` keeps to; subclasses bring `binding`, and `unreachable` whose other side is away."""

import pytest

from pelton.errors import ComponentError, DeliveryError


class BindingContract:
    operation = "create"
    request: dict[str, str] = {}

    async def test_unknown_operation_is_refused_and_the_known_ones_are_named(self, binding):
        with pytest.raises(ComponentError, match="frobnicate") as caught:
            await binding.invoke("frobnicate", b"", self.request)
        assert self.operation in caught.value.hint

    async def test_close_is_safe_twice_and_before_use(self, binding):
        await binding.close()
        await binding.close()

    async def test_other_side_that_is_away_is_a_delivery_error_and_no_hang(self, unreachable):
        with pytest.raises(DeliveryError):
            await unreachable.invoke(self.operation, b"x", self.request)
