"""What should exist for a Function: its build and, once built, its revision, scaling, route and events.

`controlplane/reconciler` calls `plan` with a Function whose defaults are filled in; `plan/diff` compares the
outcome with what runs. Scaling, eventing, context and unhonoured fields have files of their own. Pure: no
file is read, nothing is raised for what a user wrote; all problems come back together.

Source: contracts, OpenFunction, sections 6 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import quote

from pelton.model.build import BuildResult
from pelton.model.convention import ALIASES, DEFERRED, serial_limit
from pelton.model.dapr_app import DaprApp
from pelton.model.desired import BATCH_SIZE, EVENTS_PER_JOB, BuildRun, Desired, Route, Workload
from pelton.model.function import Build, Function, Serving
from pelton.model.limits import Limits
from pelton.plan import names, rollout, traffic
from pelton.plan.context import DEFAULT_PORT, function_context, to_text
from pelton.plan.dapr_app import app_env, dapr_app
from pelton.plan.eventing import (
    Facts,
    Link,
    deferred,
    input_links,
    links,
    outputs,
    state_links,
    subscriptions,
)
from pelton.plan.fronts import fronts
from pelton.plan.gateways import DEFAULT_GATEWAY
from pelton.plan.limits import ANNOTATIONS, instance_limits
from pelton.plan.partial import environment_of, only_openfunctions, unhonoured
from pelton.plan.problem import Problem
from pelton.plan.references import resolve_rules
from pelton.plan.scaling import handed_over, job_share, plan_scaling, scaler_notes
from pelton.plan.states import states
from pelton.quantity import parse_bytes, parse_seconds

__all__ = [
    "CONVENTION",
    "REQUEST_TIMEOUT",
    "SOURCE_DIGEST",
    "Facts",
    "Plan",
    "Problem",
    "asked_convention",
    "build_hash",
    "is_remote",
    "plan",
]

CONVENTION = "pelton.dev/convention"
"""Annotation: name in the convention table, where detection should not decide."""
SOURCE_DIGEST = "pelton.dev/source-digest"
"""Annotation: changes when the source directory's content does, so that an unchanged spec is built again."""
REQUEST_TIMEOUT = "pelton.dev/request-timeout"
"""Annotation: limit of one invocation."""
_BODY_LIMIT = "pelton.dev/body-limit"
_MAX_ATTEMPTS = "pelton.dev/max-attempts"
_ORDERING = "pelton.dev/ordering"
_BATCH_SIZE = "pelton.dev/batch-size"
_BATCH_LINGER = "pelton.dev/batch-linger"
_MOST_BATCH, _LONGEST_LINGER_S = 1000, 60.0
_ORDERINGS = ("partition", "key", "none")
_COMMAND = "pelton.dev/command"
_HTTP_PROTOCOL = "networking.knative.dev/http-protocol"
_PREFIX = "pelton.dev/"
_OWN = (
    frozenset({CONVENTION, SOURCE_DIGEST, REQUEST_TIMEOUT, _BODY_LIMIT, _MAX_ATTEMPTS, _ORDERING})
    | {_BATCH_SIZE, _BATCH_LINGER}
    | rollout.OWN
    | ANNOTATIONS.keys()
)
_DEFAULTS = Workload(namespace="", name="", revision="", bundle="")
# The Google builder's names for the same three; the short ones win (contracts, OpenFunction, section 7.4).
_BUILD_ALIASES = {
    "GOOGLE_FUNCTION_TARGET": "FUNC_NAME",
    "GOOGLE_FUNCTION_SOURCE": "FUNC_SRC",
    "GOOGLE_FUNCTION_SIGNATURE_TYPE": "FUNC_TYPE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a Function needs.

    Attributes:
        build: The build to have; None when there is none to do or it cannot be done.
        build_hash: Names the build's content, 64 hex digits; "" without a build.
        desired: What should run; None before the build finished, without serving, or with problems.
        problems: Why something cannot be had; all of them, build before serving.
        serves: Whether the Function asks to be served at all.
        partial: (field path, sentence) of fields that are accepted and not honoured.
        traffic: Revisions that shall share the traffic; empty for all of it to the newest.
        steps: How a new revision takes over; empty for at once.
        history: Revisions to keep beside those in use.
    """

    build: BuildRun | None = None
    build_hash: str = ""
    desired: Desired | None = None
    problems: tuple[Problem, ...] = ()
    serves: bool = True
    partial: tuple[tuple[str, str], ...] = ()
    traffic: tuple[traffic.TrafficTarget, ...] = ()
    steps: tuple[rollout.Step, ...] = ()
    history: int = rollout.DEFAULT_HISTORY


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    request_timeout_s: float
    body_limit_bytes: int
    max_attempts: int | None
    ordering: str
    batch_size: int
    linger_s: float
    instance: Limits


def plan(function: Function, facts: Facts, built: BuildResult | None = None) -> Plan:
    """Plan a Function.

    Args:
        function: With defaults filled in and a namespace.
        facts: Components, secrets and abilities around it.
        built: The finished build of this very content; None before.
    """
    problems: list[Problem] = []
    run = _build_run(function, problems)
    serves = function.serving is not None
    desired, partial = _desired(function, facts, built, problems)
    targets, bad = traffic.read(function)
    steps, more = rollout.read(function)
    history, worse = rollout.history_limit(function)
    if serves:
        problems += [*bad, *more, *worse]
        partial = (*partial, *_undivided(function))
    return Plan(
        build=run,
        build_hash=_build_hash(function, run) if run else "",
        desired=None if problems else desired,
        problems=tuple(problems),
        serves=serves,
        partial=partial,
        traffic=targets,
        steps=steps,
        history=history,
    )


def _undivided(function: Function) -> list[tuple[str, str]]:
    """Return the annotations about shares of a function that has no traffic to share."""
    if function.serving is None or function.serving.triggers is None or function.serving.triggers.http:
        return []
    found = (traffic.annotation(function, name)[1] for name in (traffic.TRAFFIC, rollout.ROLLOUT))
    return [(path, "events are not shared out: they all go to the newest revision") for path in found if path]


def build_hash(function: Function) -> str:
    """Return what `Plan.build_hash` will be, for those who wait for a build of this very content."""
    run = _build_run(function, [])
    return _build_hash(function, run) if run else ""


def _build_hash(function: Function, run: BuildRun) -> str:
    """Name what decides a build's outcome; its time limit does not."""
    notes = {key: function.annotations.get(key, "") for key in (SOURCE_DIGEST, CONVENTION)}
    if _COMMAND in function.annotations:
        notes[_COMMAND] = "process"
    return names.content_hash([run.source_url, run.sub_path, run.env, notes])


def _build_run(function: Function, problems: list[Problem]) -> BuildRun | None:
    build = function.build
    if build is None:
        if function.serving is not None:
            problems.append(
                Problem(
                    reason="ImageNotRunnable",
                    path="spec.image",
                    message=f'the image "{function.image}" cannot run on this machine; give the source in '
                    "spec.build.srcRepo.url, as a file: URL or a path",
                )
            )
        return None
    url = _source_url(build, problems)
    sub_path = build.source.sub_path if build.source else ""
    if sub_path.startswith("/") or ".." in sub_path.split("/"):
        problems.append(
            Problem(
                reason="InvalidSubPath",
                path="spec.build.srcRepo.sourceSubPath",
                message=f'"{sub_path}" leaves the source directory; write a relative path inside it',
                phase="build",
            )
        )
        return None
    if not url:
        return None
    env = dict(build.env)
    for alias, short in _BUILD_ALIASES.items():
        if alias in env:
            env.setdefault(short, env[alias])
    return BuildRun(source_url=url, sub_path=sub_path.strip("/"), env=env, timeout_s=build.timeout_s or 0.0)


def _source_url(build: Build, problems: list[Problem]) -> str:
    """Return the source as a file: URL, or "" with a problem added."""
    source = build.source
    url = source.url if source else ""
    advice = "get the source onto this machine and write its directory as a file: URL or a path"
    path = "spec.build.srcRepo.url"
    if source is not None and source.bundle_image:
        path = "spec.build.srcRepo.bundleContainer"
        message = f'source inside an image ("{source.bundle_image}") cannot be read here; {advice}'
    elif url.startswith("/"):
        return "file://" + quote(url)
    elif url.startswith("file:///"):
        return url
    elif url.startswith("file:/") and not url.startswith("file://"):
        return "file://" + url.removeprefix("file:")
    elif url.startswith("file://localhost/"):
        return "file://" + url.removeprefix("file://localhost")
    elif is_remote(url) or url.startswith("file:"):
        message = f'"{url}" is not on this machine; {advice}'
    else:
        message = (
            f'"{url}" is relative, and relative to what is only known where the manifest is; '
            "apply it with `pelton apply`, which fills in the directory, or write an absolute path"
        )
    problems.append(Problem(reason="SourceNotLocal", path=path, message=message, phase="build"))
    return ""


def is_remote(url: str) -> bool:
    """Tell whether a source is on another machine: `https://...`, `ssh://...`, `git@host:path`."""
    return ("://" in url and not url.startswith("file:")) or ("@" in url and ":" in url)


def _desired(
    function: Function, facts: Facts, built: BuildResult | None, problems: list[Problem]
) -> tuple[Desired | None, tuple[tuple[str, str], ...]]:
    partial = unhonoured(function)
    serving = function.serving
    if serving is None:
        return None, tuple(partial)
    limits = _limits(function, serving, built, problems)
    convention = _convention(function, built)
    scaling, concurrency, bad, more = plan_scaling(
        function,
        serial=serial_limit(convention, {**environment_of(serving.template), **serving.params}),
    )
    scalers = facts.scalers
    if facts.scaled_by is not None:
        scaling = handed_over(scaling, facts.scaled_by)
        scalers = facts.scaled_by.scalers
    elif scaling.triggered is not None:
        partial += scaler_notes(function, facts.scaler_problems)
    problems += bad
    partial += more
    triggers, destinations = links(function, facts)
    stores = state_links(function, facts)
    subscribed, bad = subscriptions(
        function, triggers, facts, max_attempts=limits.max_attempts, ordering=limits.ordering
    )
    problems += bad
    subscribed = tuple(
        replace(each, batch_size=limits.batch_size, linger_s=limits.linger_s) for each in subscribed
    )
    sends, dangling = outputs(function, destinations, facts)
    partial += dangling
    keeps, missing = states(function, stores, facts)
    partial += missing
    if built is None:
        return None, tuple(partial)
    partial += only_openfunctions(serving, convention)
    found = (triggers, input_links(function, facts), destinations, stores)
    app = dapr_app(function, facts.dapr, convention=convention, problems=problems)
    workload = _workload(
        function, serving, built, convention, limits, concurrency, found, app, job_share(scaling)
    )
    subscribed += deferred(function, convention, max_attempts=limits.max_attempts)
    route, left_out = _route(function, serving, limits, workload, facts)
    partial += left_out
    partial += _gateway_missing(serving, facts)
    return (
        Desired(
            workload=workload,
            scaling=scaling,
            route=route,
            subscriptions=subscribed,
            outputs=sends,
            states=keeps,
            scalers=scalers,
            partial=tuple(partial),
            aliases=tuple(
                sorted({each for named in found for link in named.values() for each in link.renamed})
            ),
            dapr=app,
        ),
        tuple(partial),
    )


def _limits(
    function: Function, serving: Serving, built: BuildResult | None, problems: list[Problem]
) -> _Limits:
    """Read limits from annotations, else from what the source itself says (a template's Timeout)."""
    found = built.options if built is not None else {}

    def note(name: str) -> tuple[str, str]:
        for path, mapping in (
            ("spec.serving.annotations", serving.annotations),
            ("metadata.annotations", function.annotations),
        ):
            if name in mapping:
                return mapping[name].strip(), f"{path}[{name}]"
        said = found.get(name.removeprefix(_PREFIX), "").strip()
        return said, f"the source's {name.removeprefix(_PREFIX)}" if said else ""

    def bad(text: str, path: str, say: str) -> None:
        problems.append(Problem(reason="InvalidAnnotation", path=path, message=f'"{text}" is not {say}'))

    timeout_s, body_bytes, attempts = _DEFAULTS.request_timeout_s, _DEFAULTS.body_limit_bytes, None
    text, path = note(REQUEST_TIMEOUT)
    if path:
        try:
            timeout_s = parse_seconds(text)
        except ValueError:
            timeout_s = -1.0
        if timeout_s < 0:
            bad(text, path, 'a duration such as "30s", or "0" for none')
    text, path = note(_BODY_LIMIT)
    if path:
        try:
            body_bytes = parse_bytes(text)
        except ValueError:
            body_bytes = -1
        if body_bytes < 0:
            bad(text, path, 'a size such as "64Mi"')
    text, path = note(_MAX_ATTEMPTS)
    if path:
        attempts = int(text) if text.isdecimal() else 0
        if attempts < 1:
            bad(text, path, "a whole number, 1 or more")
    ordering, path = note(_ORDERING)
    if path and ordering not in _ORDERINGS:
        bad(ordering, path, f"one of {', '.join(_ORDERINGS)}")
    size, linger_s = BATCH_SIZE, 0.0
    text, path = note(_BATCH_SIZE)
    if path:
        size = int(text) if text.isdecimal() else 0
        if not 1 <= size <= _MOST_BATCH:
            bad(text, path, f"a whole number from 1 to {_MOST_BATCH}")
    text, path = note(_BATCH_LINGER)
    if path:
        try:
            linger_s = parse_seconds(text)
        except ValueError:
            linger_s = -1.0
        if not 0 <= linger_s <= _LONGEST_LINGER_S:
            bad(text, path, f'a duration up to {_LONGEST_LINGER_S:g}s, such as "20ms"')
    instance, wrong = instance_limits(function, serving)
    problems += wrong
    return _Limits(
        request_timeout_s=timeout_s,
        body_limit_bytes=body_bytes,
        max_attempts=attempts,
        ordering=ordering or _ORDERINGS[0],
        batch_size=size,
        linger_s=linger_s,
        instance=instance,
    )


def _workload(
    function: Function,
    serving: Serving,
    built: BuildResult,
    convention: str,
    limits: _Limits,
    concurrency: int,
    found: tuple[dict[str, Link], dict[str, Link], dict[str, Link], dict[str, Link]],
    app: DaprApp | None,
    share: str,
) -> Workload:
    context = function_context(function, *found)
    http = serving.triggers.http if serving.triggers else None
    env = {
        "APP_PROTOCOL": "grpc",
        "FUNC_CONTEXT": to_text(context),
        "FUNCTION_TARGET": built.target,
        "FUNCTION_SOURCE": built.source,
        "FUNCTION_SIGNATURE_TYPE": built.signature,
        **environment_of(serving.template),
        **serving.params,
        # Not the user's to change; POD_NAME is set by the instance, which alone knows it.
        "POD_NAMESPACE": function.namespace,
        "PORT": str((http.port if http else None) or DEFAULT_PORT),
        "K_SERVICE": function.name,
        "K_CONFIGURATION": function.name,
    }
    workload = Workload(
        namespace=function.namespace,
        name=function.name,
        revision="",
        bundle=built.bundle,
        environment=built.environment,
        convention=convention,
        source=built.source,
        target=built.target,
        signature=built.signature,
        env=env,
        context=context,
        concurrency=concurrency,
        request_timeout_s=limits.request_timeout_s,
        body_limit_bytes=limits.body_limit_bytes,
        options=_options(function, serving, built, convention, app)
        | ({EVENTS_PER_JOB: share} if share else {}),
        limits=limits.instance,
    )
    # The digest stands for the bundle, so that moving the home directory makes no new revision of it.
    revision = names.revision_name(function.name, replace(workload, bundle=built.digest))
    # Ports and token are this machine's: they make no new revision either.
    told = app_env(app) if app is not None else {}
    return replace(workload, revision=revision, env={**env, **told, "K_REVISION": revision})


def asked_convention(function: Function) -> str:
    """Return the convention that a Function's annotations ask for; "" when the source decides."""
    asked = function.annotations.get(CONVENTION, "").strip()
    return ALIASES.get(asked, asked) or ("process" if _COMMAND in function.annotations else "")


def _convention(function: Function, built: BuildResult | None) -> str:
    return asked_convention(function) or (built.convention if built is not None else "")


def _options(
    function: Function, serving: Serving, built: BuildResult, convention: str, app: DaprApp | None
) -> dict[str, str]:
    """Return how the convention serves it: what detection found, then the annotations that are not ours."""
    found = dict(built.options)
    # Who defers invocations tells their last attempt from the others.
    own = _OWN - {_MAX_ATTEMPTS} if convention in DEFERRED else _OWN
    for notes in (function.annotations, serving.annotations):
        found.update(
            {
                name.removeprefix(_PREFIX): value
                for name, value in notes.items()
                if name.startswith(_PREFIX) and name not in own
            }
        )
    if app is not None and app.protocol == "grpc" and convention == "process":
        found.setdefault("protocol", "h2c")
    return found


def _route(
    function: Function, serving: Serving, limits: _Limits, workload: Workload, facts: Facts
) -> tuple[Route | None, list[tuple[str, str]]]:
    """Return the route, and (path, sentence) for the parts of its rules that are not served."""
    http = serving.triggers.http if serving.triggers else None
    if http is None:
        return None, []
    namespace, name = function.namespace, function.name
    gateway = facts.gateway or DEFAULT_GATEWAY
    given = tuple(host.lower() for host in http.route.hostnames) if http.route else ()
    hosts = [*(given or (gateway.host(namespace, name).lower(),)), names.host(namespace, name)]
    rules, left_out = resolve_rules(http.route.parsed if http.route else ())
    path = "spec.serving.triggers.http.route.rules"
    secure, _ = traffic.annotation(function, _HTTP_PROTOCOL)
    route = Route(
        namespace=namespace,
        name=name,
        hosts=tuple(dict.fromkeys(hosts)),
        path=names.path(namespace, name),
        fronts=fronts(workload.convention, namespace, name),
        h2c=traffic.speaks_h2c(workload),
        timeout_s=limits.request_timeout_s,
        internal=traffic.internal(function),
        internal_hosts=_internal_hosts(gateway.internal_host(namespace, name), name, namespace),
        rules=rules,
        https_only=secure.lower() == "redirected",
        created=facts.created,
    )
    return route, [(f"{path}[{index}]", sentence) for index, sentence in left_out]


def _gateway_missing(serving: Serving, facts: Facts) -> list[tuple[str, str]]:
    http = serving.triggers.http if serving.triggers else None
    wanted = http.route.gateway if http and http.route else None
    default = (DEFAULT_GATEWAY.namespace, DEFAULT_GATEWAY.name)
    if wanted is None or facts.gateway is not None or (wanted.namespace, wanted.name) == default:
        return []
    sentence = f"there is no Gateway {wanted.namespace}/{wanted.name}; the default one names the hosts"
    return [("spec.serving.triggers.http.route.gatewayRef", sentence)]


def _internal_hosts(full: str, name: str, namespace: str) -> tuple[str, ...]:
    """Return the names by which clients inside know a function: the full one, and without its last parts."""
    short = f"{name}.{namespace}"
    return (full, f"{short}.svc") if namespace.isdigit() else (full, f"{short}.svc", short)
