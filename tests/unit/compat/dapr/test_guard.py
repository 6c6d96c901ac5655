"""Calls to components: deadlines, policies, what is repeated and what is not, and what failures become."""

import asyncio

import pytest

from pelton.compat.dapr import faults
from pelton.compat.dapr.apps import App
from pelton.compat.dapr.guard import Guard
from pelton.compat.dapr.resiliency import Calls
from pelton.errors import ComponentError, ConflictError, DeliveryError
from pelton.model.resiliency import (
    BreakerPolicy,
    ComponentTarget,
    Resiliency,
    ResiliencyTarget,
    RetryPolicy,
)
from pelton.testing.clock import FakeClock

A = App(app_id="a")


def policy(namespace="", scopes=(), **target):
    return Resiliency(
        name="r",
        namespace=namespace,
        scopes=scopes,
        timeouts={"short": 0.01},
        retries={"twice": RetryPolicy(duration_s=0.0, max_retries=2)},
        breakers={"touchy": BreakerPolicy(trip="consecutiveFailures > 0")},
        components={"store": ComponentTarget(outbound=ResiliencyTarget(**target))},
    )


@pytest.fixture
def guard():
    return Guard(Calls(FakeClock(), lambda: 0.5))


class Attempts:
    """Fails as often as told, then answers."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.made = 0

    async def __call__(self):
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def run(guard, attempt, app=A):
    return guard.run(app, "store", "Statestore", attempt, lambda why: faults.state_failed("ERR_X", why))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ComponentError("it is full"), "it is full"),
        (DeliveryError("it is away"), "it is away"),
        (ConnectionResetError(), "ConnectionResetError"),
        (TimeoutError(), "component store did not answer in time"),
    ],
)
async def test_what_goes_wrong_becomes_a_fault(guard, error, words):
    with pytest.raises(faults.Fault, match=words):
        await run(guard, Attempts(error))


async def test_conflict_is_passed_on_and_never_repeated(guard):
    guard.set_policies([policy(retry="twice")])
    attempts = Attempts(ConflictError("other etag"))

    with pytest.raises(ConflictError):
        await run(guard, attempts)

    assert attempts.made == 1


async def test_retry_of_a_policy_repeats_until_it_works(guard):
    guard.set_policies([policy(retry="twice")])
    attempts = Attempts(DeliveryError("1"), DeliveryError("2"))

    assert await run(guard, attempts) == "done"
    assert attempts.made == 3


async def test_timeout_of_a_policy_ends_a_call_that_hangs(guard):
    guard.set_policies([policy(timeout="short")])

    async def hang():
        await asyncio.Event().wait()

    with pytest.raises(faults.Fault, match="in time"):
        await run(guard, hang)


async def test_open_breaker_refuses_without_trying(guard):
    guard.set_policies([policy(breaker="touchy")])
    attempts = Attempts(DeliveryError("1"))
    with pytest.raises(faults.Fault):
        await run(guard, attempts)

    with pytest.raises(faults.Fault, match="circuit breaker is open"):
        await run(guard, attempts)

    assert attempts.made == 1


async def test_policies_hold_for_their_namespace_and_scopes(guard):
    guard.set_policies([policy(namespace="shop", retry="twice"), policy(scopes=("b",), retry="twice")])
    for app, made in ((A, 1), (App(app_id="a", namespace="shop"), 2), (App(app_id="b"), 2)):
        attempts = Attempts(DeliveryError("1"))
        try:
            await run(guard, attempts, app)
        except faults.Fault:
            pass

        assert (app.key, attempts.made) == (app.key, made)


async def test_default_policies_by_kind_are_obeyed(guard):
    guard.set_policies(
        [
            Resiliency(
                name="r",
                retries={
                    "DefaultStatestoreComponentOutboundRetryPolicy": RetryPolicy(
                        duration_s=0.0, max_retries=1
                    )
                },
            )
        ]
    )
    attempts = Attempts(DeliveryError("1"))

    assert await run(guard, attempts) == "done"
