"""Who may call a Function that is an app, by whichever of its names it is called."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from pelton.compat.dapr.callbacks import Learned
from pelton.model.dapr_app import DaprApp, DaprPorts
from pelton.model.desired import Desired, Route, Scaling, Workload
from pelton.plan.dapr_access import allows
from tests.unit.cli.dapr_platforms import bare

RULES = {
    "apiVersion": "dapr.io/v1alpha1",
    "kind": "Configuration",
    "metadata": {"name": "rules", "namespace": "default"},
    "spec": {
        "accessControl": {
            "defaultAction": "deny",
            "policies": [{"appId": "friend", "defaultAction": "allow"}],
        }
    },
}


def app() -> Desired:
    return Desired(
        workload=Workload(namespace="default", name="orders", revision="orders-1", bundle="/b"),
        scaling=Scaling(),
        route=Route(namespace="default", name="orders"),
        dapr=DaprApp(
            app_id="shop",
            ports=DaprPorts(http=1, grpc=2, inner=3, token="t"),
            configuration="rules",
        ),
    )


def may_call(target: Any, caller: str) -> bool:
    return allows(target.access, caller=caller, namespace="default", method="/x", verb="GET")


async def test_access_control_counts_for_the_functions_own_name_as_well(tmp_path: Path) -> None:
    served = bare(tmp_path)
    served.resources([RULES], [])
    served._desired["default/orders"] = app()

    target = await served._find("default", "orders")

    assert target is not None
    assert not may_call(target, "stranger")
    assert may_call(target, "friend")


async def test_app_without_the_configuration_that_it_names_is_not_served(tmp_path: Path, caplog: Any) -> None:
    served = bare(tmp_path)

    await served.apply(app())

    assert served._main.find("default/shop") is None
    assert "rules" in caplog.text
    target = await served._find("default", "orders")
    assert target is not None
    assert not may_call(target, "friend")


def two_of_an_id() -> tuple[Desired, Desired]:
    one = app()
    assert one.dapr is not None
    free = replace(one.dapr, configuration="", ports=DaprPorts(http=0, grpc=0, inner=0, token="t"))
    one = replace(one, dapr=free)
    return one, replace(one, workload=replace(one.workload, name="copy", revision="copy-1"))


async def test_second_function_of_an_app_id_says_whose_it_is_and_is_served_when_that_one_goes(
    tmp_path: Path,
) -> None:
    async with bare(tmp_path) as served:
        first, second = two_of_an_id()
        await served.apply(first)
        await served.apply(second)

        assert served.unserved() == [
            {
                "namespace": "default",
                "function": "copy",
                "trouble": "the app id shop is that of the Function default/orders",
            }
        ]
        await served.remove("default", "orders")
        async with asyncio.timeout(30):
            while served.unserved():
                await asyncio.sleep(0.01)
        assert served._main.find("default/shop") is not None
        assert served._ids == {"default/shop": "default/copy"}


async def test_function_that_was_the_app_is_it_again_after_a_restart(tmp_path: Path) -> None:
    first, second = two_of_an_id()
    bare(tmp_path)._book.put("default/shop", first.revision, Learned())

    async with bare(tmp_path) as served:
        await served.sync([second, first])

        assert [each["function"] for each in served.unserved()] == ["copy"]
