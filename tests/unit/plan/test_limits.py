"""Limits of a Function: resources of its container, annotations over them, every wrong value named."""

from dataclasses import replace

import pytest

from pelton.model.function import Function, Serving
from pelton.model.limits import Limits
from pelton.plan.limits import instance_limits, unhonoured_resources

MIB = 1024 * 1024
PATH = "spec.serving.template.containers[1].resources"


def _limits(resources=None, annotations=None, own=None):
    containers = [{"name": "sidecar"}, {"name": "function", "resources": resources or {}}]
    serving = Serving(template={"containers": containers}, annotations=annotations or {})
    function = Function(namespace="default", name="f", version="v1", image="f", serving=serving)
    return instance_limits(replace(function, annotations=own or {}), serving)


def test_nothing_asked_for_leaves_all_to_the_machine():
    assert _limits() == (Limits(), [])
    function = Function(namespace="d", name="f", version="v", image="f")
    assert instance_limits(function, Serving()) == (Limits(), [])


def test_resources_of_the_function_container_count():
    found, problems = _limits(
        {
            "limits": {"memory": "128Mi", "cpu": "500m", "ephemeral-storage": "1Gi"},
            "requests": {"cpu": "250m", "memory": "64Mi"},
        }
    )

    assert problems == []
    assert found == Limits(memory_bytes=128 * MIB, cpu=0.5, cpu_request=0.25, disk_bytes=1024 * MIB)


def test_numbers_may_be_written_without_quotes():
    assert _limits({"limits": {"cpu": 2, "memory": 134217728}})[0] == Limits(cpu=2.0, memory_bytes=128 * MIB)


def test_annotations_win_over_resources_and_those_of_serving_over_the_functions():
    found, problems = _limits(
        {"limits": {"memory": "128Mi"}},
        {"pelton.dev/limit-memory": "256Mi"},
        {"pelton.dev/limit-memory": "512Mi", "pelton.dev/limit-pids": "64", "pelton.dev/limit-cpu": "1500m"},
    )

    assert problems == []
    assert found == Limits(memory_bytes=256 * MIB, pids=64, cpu=1.5)


@pytest.mark.parametrize(
    ("resources", "annotations", "path", "said"),
    [
        ({"limits": {"memory": "lots"}}, {}, f"{PATH}.limits.memory", '"lots" is not a size of 16Mi or more'),
        ({"limits": {"memory": "1Mi"}}, {}, f"{PATH}.limits.memory", '"1Mi" is not a size of 16Mi or more'),
        ({"limits": {"cpu": "-1"}}, {}, f"{PATH}.limits.cpu", '"-1" is not a number of processors'),
        ({"requests": {"cpu": ""}}, {}, f"{PATH}.requests.cpu", '"" is not a number of processors'),
        (
            {"limits": {"cpu": "100m"}, "requests": {"cpu": 1}},
            {},
            f"{PATH}.requests.cpu",
            '"1" is more than the limit of "100m"',
        ),
        (
            {},
            {"pelton.dev/limit-pids": "7"},
            "spec.serving.annotations[pelton.dev/limit-pids]",
            '"7" is not a whole number, 8 or more',
        ),
        (
            {},
            {"pelton.dev/limit-pids": "10.5"},
            "spec.serving.annotations[pelton.dev/limit-pids]",
            '"10.5" is not a whole number',
        ),
        (
            {},
            {"pelton.dev/limit-disk": "0"},
            "spec.serving.annotations[pelton.dev/limit-disk]",
            '"0" is not a size of 1Mi or more',
        ),
    ],
)
def test_wrong_value_is_a_problem_with_its_path(resources, annotations, path, said):
    _found, problems = _limits(resources, annotations)

    assert [(problem.path, problem.message.startswith(said)) for problem in problems] == [(path, True)]


def test_all_wrong_values_are_named():
    _found, problems = _limits({"limits": {"memory": "x", "cpu": "y"}}, {"pelton.dev/limit-disk": "z"})

    assert len(problems) == 3


def test_resources_without_effect_are_listed():
    resources = {"limits": {"cpu": 1, "gpu": 1}, "requests": {"cpu": 1, "memory": 1}, "claims": []}

    assert [path for path, _said in unhonoured_resources("r", resources)] == [
        "r.claims",
        "r.limits.gpu",
        "r.requests.memory",
    ]
    assert list(unhonoured_resources("r", "nonsense")) == []
