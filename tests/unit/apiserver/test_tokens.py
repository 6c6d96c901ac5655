"""Tokens, roles, and the questions about oneself."""

from datetime import timedelta

import pytest

from pelton.apiserver.authorization import Asked, may
from pelton.apiserver.calls import User
from pelton.apiserver.tokens import TokenFile, either, fixed
from pelton.errors import HomeError, NotFoundError, UsageError
from pelton.testing.asgi_client import AsgiClient
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore
from tests.contract import api
from tests.contract.store import FUNCTIONS, function

ROOT = "/apis/core.openfunction.io/v1beta2"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def tokens(tmp_path, clock):
    return TokenFile(tmp_path / "tokens.json", clock)


def test_token_names_its_user_role_and_namespace(tokens):
    _, text = tokens.create(role="edit", namespace="a", name="ci")

    user = tokens.authenticate(text)

    assert (user.name, user.role, user.namespace) == ("pelton:token:ci", "edit", "a")
    assert user.groups == ("system:authenticated",)


def test_file_is_private_and_has_no_token_in_it(tokens, tmp_path):
    _, text = tokens.create(role="admin")
    file = tmp_path / "tokens.json"

    assert file.stat().st_mode & 0o777 == 0o600
    assert text.split("_", 2)[2] not in file.read_text()


@pytest.mark.parametrize(
    "change", [lambda t: t + "x", lambda t: t[:-1], lambda t: t[1:], lambda t: "", str.upper]
)
def test_token_that_differs_is_nobodys(tokens, change):
    _, text = tokens.create(role="admin")

    assert tokens.authenticate(change(text)) is None


async def test_expired_and_revoked_tokens_are_nobodys_at_once(tokens, clock, tmp_path):
    _, short = tokens.create(role="view", ttl=timedelta(minutes=1))
    _, long = tokens.create(role="view", name="long")
    elsewhere = TokenFile(tmp_path / "tokens.json", clock)
    before = [tokens.authenticate(text) is not None for text in (short, long)]

    await clock.advance(61)
    after = [tokens.authenticate(text) is not None for text in (short, long)]
    elsewhere.revoke("long")

    assert (before, after) == ([True, True], [False, True])
    assert tokens.authenticate(long) is None
    assert [token.name for token in tokens.all() if not token.expired(clock.now())] == []


async def test_expired_tokens_make_room(tokens, clock):
    tokens.create(role="view", ttl=timedelta(seconds=1))
    await clock.advance(2)
    tokens.create(role="view", name="new")

    assert [token.name for token in tokens.all()] == ["new"]


@pytest.mark.parametrize("bad", [{"role": "root"}, {"role": "view", "ttl": timedelta(0)}])
def test_bad_wishes_are_refused(tokens, bad):
    with pytest.raises(UsageError):
        tokens.create(**bad)
    assert tokens.all() == []


def test_unknown_token_cannot_be_revoked(tokens):
    with pytest.raises(NotFoundError):
        tokens.revoke("none")


def test_damaged_file_is_an_error_and_not_an_open_door(tokens, tmp_path):
    (tmp_path / "tokens.json").write_text("[{")

    with pytest.raises(HomeError):
        tokens.authenticate("pelton_a_b")


def test_either_takes_the_first_that_knows(tokens):
    admin = User(name="root")
    _, text = tokens.create(role="view")
    find = either(fixed({"t": admin}), tokens.authenticate)

    assert find("t") is admin
    assert (found := find(text)) is not None and found.role == "view"
    assert find("x") is None


def asked(verb, resource="functions", group="core.openfunction.io", **more):
    return Asked(verb=verb, group=group, resource=resource, **more)


IN_A, IN_B = {"namespace": "a"}, {"namespace": "b"}
NAMESPACES = {"resource": "namespaces", "group": "", "namespaced": False}


@pytest.mark.parametrize(
    ("role", "namespace", "question", "expected"),
    [
        ("view", "", asked("list"), True),
        ("view", "", asked("list", "secrets", ""), False),
        ("view", "", asked("get", "secrets", "", **IN_A), False),
        ("view", "", asked("create", **IN_A), False),
        ("view", "", asked("create", "selfsubjectaccessreviews", "authorization.k8s.io"), True),
        ("edit", "", asked("create", **IN_A), True),
        ("edit", "", asked("get", "secrets", "", **IN_A), True),
        ("edit", "", asked("create", **NAMESPACES), False),
        ("edit", "", asked("list", **NAMESPACES), True),
        ("edit", "", asked("create", "serviceaccounts", "", subresource="token", **IN_A), False),
        ("admin", "", asked("delete", **NAMESPACES), True),
        ("edit", "a", asked("patch", **IN_A), True),
        ("edit", "a", asked("patch", **IN_B), False),
        ("edit", "a", asked("list"), False),
        ("admin", "a", asked("create", "serviceaccounts", "", subresource="token", **IN_A), True),
        ("admin", "a", asked("get", name="a", **NAMESPACES), True),
        ("admin", "a", asked("delete", name="a", **NAMESPACES), False),
        ("admin", "a", asked("get", name="b", **NAMESPACES), False),
        ("nobody", "", asked("get", **IN_A), False),
    ],
)
def test_role_says_what_may_be_done(role, namespace, question, expected):
    assert may(User(name="u", role=role, namespace=namespace), question) is expected


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


async def as_user(store, **user):
    app = await api.application(
        store, authenticate=fixed({"t": User(name="ci", **user)}), namespace=("default", "a")
    )
    return AsgiClient(app, headers={"authorization": "Bearer t"})


async def test_refusal_is_the_sentence_of_kubernetes(store):
    client = await as_user(store, role="edit", namespace="a")

    everywhere = await client.request("GET", f"{ROOT}/functions")
    elsewhere = await client.request("DELETE", f"{ROOT}/namespaces/default/functions/f")
    secret = await client.request("GET", "/api/v1/namespaces/default/secrets/s")

    assert (everywhere.status, everywhere.json()["reason"]) == (403, "Forbidden")
    assert everywhere.json()["message"] == (
        'functions.core.openfunction.io is forbidden: User "ci" cannot list resource "functions" in API '
        'group "core.openfunction.io" at the cluster scope'
    )
    assert 'functions.core.openfunction.io "f" is forbidden' in elsewhere.json()["message"]
    assert 'in the namespace "default"' in elsewhere.json()["message"]
    assert (
        'secrets "s" is forbidden: User "ci" cannot get resource "secrets" in API group ""'
        in (secret.json()["message"])
    )


async def test_role_in_its_namespace_works(store):
    client = await as_user(store, role="edit", namespace="a")
    path = f"{ROOT}/namespaces/a/functions"

    created = await client.request("POST", path, function(namespace="a"))
    listed = await client.request("GET", path)

    assert (created.status, len(listed.json()["items"])) == (201, 1)
    assert (await client.request("GET", "/apis")).status == 200


async def test_questions_about_oneself_are_answered_and_not_stored(store):
    client = await as_user(store, role="edit", namespace="a")
    who = await client.request(
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}},
    )
    answers = []
    for namespace, resource in (("a", "functions"), ("b", "functions"), ("a", "namespaces")):
        attributes = {
            "verb": "create",
            "group": "" if resource == "namespaces" else "core.openfunction.io",
            "resource": resource,
            "namespace": namespace,
        }
        answer = await client.request(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            },
        )
        answers.append(answer.json()["status"]["allowed"])

    assert who.status == 201
    assert who.json()["status"]["userInfo"]["username"] == "ci"
    assert answers == [True, False, False]
    assert (await client.request("GET", "/apis/authentication.k8s.io/v1/selfsubjectreviews")).status == 405


async def test_service_account_gets_a_token_of_its_role(store, tokens):
    service = api.service(
        store, authenticate=either(fixed({"t": User(name="r")}), tokens.authenticate), issue=tokens.issue
    )
    async with service:
        client = AsgiClient(service.app, headers={"authorization": "Bearer t"})
        path = "/api/v1/namespaces/default/serviceaccounts"
        await client.request(
            "POST",
            path,
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "robot", "annotations": {"pelton.dev/role": "edit"}},
            },
        )
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = await client.request("POST", f"{path}/robot/token", request)
        short = await client.request(
            "POST", f"{path}/robot/token", {**request, "spec": {"expirationSeconds": 1}}
        )

    user = tokens.authenticate(answer.json()["status"]["token"])
    assert answer.status == 201
    assert (user.name, user.role, user.namespace) == (
        "system:serviceaccount:default:robot",
        "edit",
        "default",
    )
    assert short.status == 422


async def test_scale_shows_and_sets_the_replicas(store):
    await store.create(FUNCTIONS, function(spec={"serving": {"scaleOptions": {"minReplicas": 2}}}))
    client = await as_user(store)
    path = f"{ROOT}/namespaces/default/functions/hello/scale"

    shown = (await client.request("GET", path)).json()
    patched = await client.request(
        "PATCH", path, {"spec": {"replicas": 3}}, headers={"content-type": "application/merge-patch+json"}
    )
    put = await client.request("PUT", path, {**shown, "spec": {"replicas": 5}})
    bad = await client.request("PUT", path, {**patched.json(), "spec": {"replicas": -1}})

    assert (shown["kind"], shown["apiVersion"], shown["spec"]) == ("Scale", "autoscaling/v1", {"replicas": 2})
    assert patched.json()["spec"] == {"replicas": 3}
    assert put.status == 409  # its resourceVersion is from before the patch
    assert bad.status == 422
    stored = await store.get(FUNCTIONS, "default", "hello")
    assert stored["spec"]["serving"]["scaleOptions"] == {"minReplicas": 3}
