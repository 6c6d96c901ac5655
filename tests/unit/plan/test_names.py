"""Rules of derived names."""

from __future__ import annotations

import re

import pytest

from pelton.model.desired import Scaling
from pelton.plan import names


def test_hash_follows_values_and_not_the_order_of_keys():
    assert names.content_hash({"a": 1, "b": 2}) == names.content_hash({"b": 2, "a": 1})
    assert names.content_hash({"a": 1}) != names.content_hash({"a": 2})
    assert names.content_hash(Scaling()) == names.content_hash(Scaling())


def test_hash_of_something_without_a_canonical_form_is_refused():
    with pytest.raises(TypeError, match="canonical"):
        names.content_hash({"a": object()})


def test_names_of_a_function():
    revision = names.revision_name("hello", {"a": 1})

    assert re.fullmatch(r"hello-[0-9a-f]{10}", revision)
    assert names.instance_name(revision, "x7k2p") == f"{revision}-x7k2p"
    assert names.host("shop", "cart") == "cart.shop.localhost"
    assert names.path("shop", "cart") == "/shop/cart"
    assert names.log_subject("shop", "cart") == "logs.shop.cart"
    assert names.app_id("shop", "cart") == "cart-shop"
