import re

import pytest

from pelton.plan.fronts import fronts


def matches(convention, namespace, name, path):
    return any(re.fullmatch(front, path) for front in fronts(convention, namespace, name))


@pytest.mark.parametrize(
    "called",
    [
        "orders",
        "orders:$LATEST",
        "orders%3A%24LATEST",
        "function:orders",
        "arn:aws:lambda:eu-west-1:123456789012:function:orders",
        "arn%3Aaws%3Alambda%3Aeu-west-1%3A123456789012%3Afunction%3Aorders%3Aprod",
        "123456789012:function:orders",
    ],
)
def test_lambda_names_in_all_their_forms_reach_the_function(called):
    assert matches("lambda", "default", "orders", f"/2015-03-31/functions/{called}/invocations")
    assert matches(
        "lambda", "default", "orders", f"/2021-11-15/functions/{called}/response-streaming-invocations"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/2015-03-31/functions/orders",
        "/2015-03-31/functions/my-orders/invocations",
        "/2015-03-31/functions/orders2/invocations",
        "/x/2015-03-31/functions/orders/invocations",
    ],
)
def test_other_names_do_not(path):
    assert not matches("lambda", "default", "orders", path)


def test_functions_of_other_namespaces_carry_them():
    assert matches("lambda", "shop", "orders", "/2015-03-31/functions/shop.orders/invocations")
    assert not matches("lambda", "shop", "orders", "/2015-03-31/functions/orders/invocations")
    assert matches("openwhisk", "shop", "orders", "/api/v1/web/shop/default/orders.json/a/b")
    assert not matches("openwhisk", "shop", "orders", "/api/v1/web/_/default/orders.json")


def test_openwhisk_actions_and_packages_have_their_paths():
    for path in (
        "/api/v1/web/_/default/orders",
        "/api/v1/web/guest/default/orders.http",
        "/api/v1/web/_/orders/read.html/x",
        "/api/v1/namespaces/_/actions/orders",
        "/api/v1/namespaces/default/actions/orders/read",
    ):
        assert matches("openwhisk", "default", "orders", path), path
    assert not matches("openwhisk", "default", "orders", "/api/v1/web/_/default/other")


def test_most_conventions_have_no_fronts():
    assert fronts("gcf", "default", "orders") == ()
