"""Who may call what (contract, Dapr components, section 1)."""

from __future__ import annotations

import pytest

from pelton.model.dapr import AccessControl, AccessOperation, AccessPolicy
from pelton.plan.dapr_access import allows

CONTROL = AccessControl(
    default_action="deny",
    policies=(
        AccessPolicy(
            app_id="a",
            default_action="deny",
            operations=(
                AccessOperation(name="/orders/*", verbs=("GET", "post"), action="allow"),
                AccessOperation(name="/files/**", verbs=("*",), action="allow"),
                AccessOperation(name="/Exact", action="allow"),
            ),
        ),
        AccessPolicy(app_id="b", default_action="allow"),
        AccessPolicy(app_id="c", default_action="allow", trust_domain="elsewhere"),
        AccessPolicy(app_id="d", default_action="allow", namespace="other"),
    ),
)


@pytest.mark.parametrize(
    ("caller", "method", "verb", "allowed"),
    [
        ("a", "orders/7", "GET", True),
        ("a", "/orders/7", "POST", True),
        ("a", "/orders/7", "DELETE", False),
        ("a", "/orders/7/lines", "GET", False),
        ("a", "/orders", "GET", False),
        ("a", "/files/a/b/c", "PUT", True),
        ("a", "/files", "GET", True),
        ("a", "/filesystem", "GET", False),
        ("a", "exact", "PATCH", True),
        ("a", "orders/7", "", True),
        ("b", "anything", "GET", True),
        ("c", "anything", "GET", False),
        ("d", "anything", "GET", False),
        ("nobody", "anything", "GET", False),
    ],
)
def test_allows_by_caller_operation_and_verb(caller: str, method: str, verb: str, allowed: bool) -> None:
    assert allows(CONTROL, caller=caller, namespace="default", method=method, verb=verb) is allowed


def test_allows_all_without_rules_and_denies_strangers_where_there_are_policies() -> None:
    def strangers(control: AccessControl | None) -> bool:
        return allows(control, caller="x", namespace="default", method="m", verb="GET")

    assert strangers(None)
    assert strangers(AccessControl())
    assert not strangers(AccessControl(policies=(AccessPolicy(app_id="a"),)))


@pytest.mark.parametrize(
    "method",
    [
        "/secret",
        "/%73ecret",
        "/SECRET",
        "secret?x=1",
        "/secret%3Fx=1",
        "secret#top",
        "/open/%2e%2e/secret",
        "/open/..%2Fsecret",
        "//secret/",
    ],
)
def test_denied_method_is_denied_however_it_is_spelt(method):
    control = AccessControl(
        default_action="allow",
        policies=(
            AccessPolicy(
                app_id="a",
                default_action="allow",
                operations=(AccessOperation(name="/secret", action="deny"),),
            ),
        ),
    )
    assert not allows(control, caller="a", namespace="default", method=method, verb="GET")
    assert allows(control, caller="a", namespace="default", method="/open", verb="GET")


def test_encoded_dots_lead_out_of_what_is_allowed():
    assert not allows(
        CONTROL, caller="a", namespace="default", method="/files/x%2F..%2F..%2Fsecret", verb="GET"
    )
