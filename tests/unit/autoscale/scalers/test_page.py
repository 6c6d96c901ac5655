"""The reference page names every parameter that a reader asks for."""

from pathlib import Path

import pytest

from pelton.autoscale.scalers.parameters import Parameters
from pelton.autoscale.scalers.table import READERS
from pelton.model.scaler import ScalerTrigger

PAGE = (Path(__file__).parents[4] / "docs/reference/scalers.md").read_text()
VARIANTS: tuple[dict[str, str], ...] = (
    {},
    {"sasl": "plaintext", "tls": "enable", "topic": "t"},
    {"sasl": "oauthbearer"},
    {"authModes": "basic,tls,custom", "authMode": "apiKey"},
    {"authModes": "bearer"},
    {"authModes": "oauth"},
    {"consumerGroup": "g", "lagCount": "1"},
    {"consumerGroup": "g"},
    {"mode": "QueueLength", "value": "1"},
    {"connection": "c"},
)


class Spy(Parameters):
    asked: set[str]

    def text(self, *names, default=""):
        self.asked.update(names)
        return super().text(*names, default=default)


@pytest.mark.parametrize("kind", READERS)
def test_every_parameter_is_on_the_page(kind):
    for metadata in VARIANTS:
        found = Spy(ScalerTrigger(name="s0", type=kind, metadata=dict(metadata)))
        found.asked = set()
        READERS[kind](found)

        missing = {name for name in found.asked if f"`{name}`" not in PAGE}
        assert not missing - {"token", "scope"}, kind
    assert f"`{kind}`" in PAGE
