"""The control plane inside `up`: store, API server, reconciler, wired together.

Apart from `cli/up.py` because importing all of this takes a third of a second, which passes while the other
processes start.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pelton import __version__
from pelton.apiserver import certificates, manifest_kinds
from pelton.apiserver.builtin import namespaces
from pelton.apiserver.calls import User
from pelton.apiserver.server import ApiServer
from pelton.apiserver.service import ApiService
from pelton.apiserver.store import SqliteStore
from pelton.apiserver.tokens import either, fixed
from pelton.builders.build import build
from pelton.builders.collect import BUNDLE_GRACE_S, Collector
from pelton.cli import kafka_topics, metrics
from pelton.cli.dapr_feed import DaprFeed, SecretEntries
from pelton.cli.dapr_ports import AppPortBook
from pelton.cli.home import Home, Settings
from pelton.cli.input_status import InputStatus
from pelton.cli.jobs import JobMirror
from pelton.cli.log_rule_status import LogRuleStatus, RuleState
from pelton.cli.pods import PodMirror, logs_of, replicas_of
from pelton.cli.receiver_status import Problems, ReceiverStatus
from pelton.cli.receivers import ConfigMaps, ReceiverFeed, Secrets
from pelton.cli.tables import (
    CONVENTIONS,
    OUTPUT_TYPES,
    STATES,
    TRIGGER_TYPES,
    resolve_convention,
    resolve_secret_store,
)
from pelton.cli.token import token_file
from pelton.clock import Clock
from pelton.controlplane.decisions import DecisionLog
from pelton.controlplane.event_framework import EventFrameworkController
from pelton.controlplane.external_metrics import ExternalMetrics
from pelton.controlplane.http_scaling import HttpTargets
from pelton.controlplane.kafka_topics import KafkaTopics
from pelton.controlplane.reconciler import Reconciler
from pelton.controlplane.routes import Routes
from pelton.controlplane.scaled_jobs import ScaledJobs
from pelton.controlplane.services import ServiceKeeper
from pelton.controlplane.tls import pair_of_files
from pelton.controlplane.trigger_targets import TriggerTargets
from pelton.log import get
from pelton.manifest import kinds
from pelton.model.build import BuildResult
from pelton.model.desired import BuildRun, Component, ScaledBy
from pelton.model.event_framework import EventPlan
from pelton.model.function import Function
from pelton.plan.aliases import Aliases
from pelton.plan.attachment import Pair
from pelton.plan.eventing import Facts
from pelton.plan.function import asked_convention
from pelton.plan.gateways import NAMESPACE
from pelton.ports import SecretStore
from pelton.targets.local.target import LocalTarget

__all__ = ["ControlPlane"]

_ADMINS = ("system:masters", "system:authenticated")
_BUSY_S = 10.0
"""Seconds until the next try to clean up while Functions are being worked on."""
_log = get(__name__)


class ControlPlane:
    """Resources: where they are kept, how they are served, and who makes them real.

    Args:
        home: Paths.
        settings: What `up` decided.
        token: Bearer token of the administrator.
        target: Where desired state goes.
        clock: Time.
        receivers_changed: Called with all Receivers, their Secrets and ConfigMaps, at the start and after
            changes.
        receiver_problems: Returns what is in the way of notifications, as the runtime knows it.
        rule_states: Returns how rules on logs fare there.
        event_counters: Returns how events fare there, by subscription.
        dapr_changed: The same for resources of Dapr.
        events_changed: Takes what EventSources and Triggers need of the runtime.
        event_states: Returns how they fare there.
        observe: Returns what `pelton status` is made of, for `/metrics`.
    """

    def __init__(
        self,
        *,
        home: Home,
        settings: Settings,
        token: str,
        target: LocalTarget,
        clock: Clock,
        receivers_changed: Callable[[list[dict[str, Any]], Secrets, ConfigMaps], Awaitable[None]],
        receiver_problems: Callable[[], Awaitable[Problems]],
        rule_states: Callable[[], Awaitable[Sequence[RuleState]]],
        event_counters: Callable[[], Awaitable[Mapping[str, Any]]],
        dapr_changed: Callable[[list[dict[str, Any]], SecretEntries], Awaitable[None]],
        events_changed: Callable[[EventPlan], Awaitable[None]],
        event_states: Callable[[], Awaitable[dict[str, dict[str, Any]]]],
        observe: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._home = home
        self._settings = settings
        self._token = token
        self._target = target
        self._clock = clock
        self._receivers_changed = receivers_changed
        self._receiver_problems = receiver_problems
        self._rule_states = rule_states
        self._event_counters = event_counters
        self._dapr_changed = dapr_changed
        self._events_changed = events_changed
        self._event_states = event_states
        self._observe = observe
        self._freed = asyncio.Event()
        self._store: SqliteStore | None = None

    @asynccontextmanager
    async def serving(self, sock: socket.socket, host: str) -> AsyncIterator[str]:
        """Run while the context lasts; yields the API's URL."""
        certs = certificates.ensure(self._home.pki, hosts=[host], now=self._clock.now())
        async with SqliteStore(
            self._home.store, durability=self._settings.durability, clock=self._clock
        ) as store:
            tokens = token_file(self._home)
            service = ApiService(
                store,
                manifest_kinds.rows(kinds.KINDS, replicas=replicas_of(store)),
                authenticate=either(
                    fixed({self._token: User(name="pelton:admin", groups=_ADMINS)}), tokens.authenticate
                ),
                issue=tokens.issue,
                read_log=logs_of(store, self._home.logs, self._clock),
                version=__version__,
                log=get("pelton.apiserver"),
                clock=self._clock,
                metrics=lambda: metrics.text(
                    self._observe, store, admin_socket=str(Path(self._settings.run) / "admin.sock")
                ),
            )
            async with service, ApiServer(service.app, sock, certs.cert, certs.key) as server:
                certificates.write_private(
                    self._home.kubeconfig,
                    certificates.kubeconfig(
                        server=server.url, ca_pem=certs.ca.read_bytes(), token=self._token
                    ).encode(),
                )
                await namespaces.ensure(store, [NAMESPACE])
                self._store = store
                reconciler, targets, triggers = self._reconciler(store)
                # Before the first pass, which else would apply options that an object replaces.
                await targets.begin()
                await triggers.begin()
                tasks = [
                    asyncio.create_task(reconciler.run(), name="reconciler"),
                    asyncio.create_task(self._routes(store).run(), name="routes"),
                    asyncio.create_task(
                        ReceiverFeed(store, self._receivers_changed, self._clock).run(), name="receivers"
                    ),
                    asyncio.create_task(
                        ReceiverStatus(store, self._receiver_problems, self._clock).run(),
                        name="status of receivers",
                    ),
                    asyncio.create_task(
                        LogRuleStatus(store, self._rule_states, self._clock).run(),
                        name="status of rules on logs",
                    ),
                    asyncio.create_task(
                        InputStatus(store, self._event_counters, self._clock).run(), name="status of inputs"
                    ),
                    asyncio.create_task(DaprFeed(store, self._dapr_changed, self._clock).run(), name="dapr"),
                    asyncio.create_task(
                        PodMirror(store, self._target.instances, self._clock).run(), name="pods"
                    ),
                    asyncio.create_task(self._services(store).run(), name="services"),
                    asyncio.create_task(
                        EventFrameworkController(
                            store=store,
                            push=self._events_changed,
                            states=self._event_states,
                            clock=self._clock,
                            aliases=Aliases(self._settings.aliases),
                        ).run(),
                        name="event sources and triggers",
                    ),
                    asyncio.create_task(self._collect(reconciler), name="collector"),
                    asyncio.create_task(targets.run(), name="intercepted workloads"),
                    asyncio.create_task(triggers.run(), name="triggers"),
                    asyncio.create_task(self._scaled_jobs(store).run(), name="scaled jobs"),
                    asyncio.create_task(
                        JobMirror(store, self._target.jobs, self._clock, self._kept_jobs).run(),
                        name="jobs of functions",
                    ),
                    asyncio.create_task(self._kafka_topics(store).run(), name="Kafka topics"),
                ]
                try:
                    yield server.url
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def answering_keda(self, host: str, port: int) -> AsyncIterator[str]:
        """Serve values to a KEDA elsewhere while the context lasts, within `serving`; yields host:port.

        Raises:
            PeltonError: The address cannot be had.
        """
        # Read by the library when it starts: this process starts others, and has nothing to do after a fork.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        from pelton.compat.keda_external import ExternalScalerServer

        if self._store is None:
            raise RuntimeError("the store is not open")
        metrics = ExternalMetrics(
            store=self._store,
            intercepted=self._target.intercepted,
            load=self._target.load,
            desired=self._target.applied,
            clock=self._clock,
        )
        server = ExternalScalerServer(metrics.measure, healthy=metrics.healthy, clock=self._clock)
        task = asyncio.create_task(metrics.run(), name="external metrics")
        try:
            bound = await server.start(host, port)
            yield f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.close()

    def _kept_jobs(self, key: str) -> tuple[int, int] | None:
        desired = self._target.applied(key)
        rules = desired.scaling.jobs if desired is not None else None
        return (rules.kept_succeeded, rules.kept_failed) if rules is not None else None

    def _scaled_jobs(self, store: SqliteStore) -> ScaledJobs:
        letters = "bcdfghjklmnpqrstvwxz2456789"
        return ScaledJobs(
            store=store,
            rounds=self._target.scalers,
            clock=self._clock,
            suffix=lambda: "".join(random.choices(letters, k=5)),  # noqa: S311 -- names are no secrets
            variables=os.environ,
            files=self._home.trigger_files,
        )

    def _secret_store(self, component: Component) -> SecretStore:
        """Make the driver of a secret store; one that names no API server means this one."""
        made = resolve_secret_store(component.type)
        own = {"kubeconfig": self._home.kubeconfig} if component.type == "secretstores.kubernetes" else {}
        store: SecretStore = made(component, clock=self._clock, **own)
        return store

    def _services(self, store: SqliteStore) -> ServiceKeeper:
        gateway = (self._settings.gateway_host, self._settings.gateway_port)
        return ServiceKeeper(store, gateway=gateway, clock=self._clock)

    def _reconciler(self, store: SqliteStore) -> tuple[Reconciler, HttpTargets, TriggerTargets]:
        facts = Facts(
            variables=dict(os.environ),
            trigger_types=TRIGGER_TYPES,
            output_types=OUTPUT_TYPES,
            state_types=frozenset(STATES),
            aliases=Aliases(self._settings.aliases),
        )
        gateway = f"http://{self._settings.gateway_host}:{self._settings.gateway_port}"

        def kick(namespace: str, name: str) -> None:
            reconciler.kick(namespace, name)

        triggers = TriggerTargets(
            store=store,
            rounds=self._target.scalers,
            functions=self._target.read_for,
            clock=self._clock,
            decisions=DecisionLog(self._home.decisions, self._clock.now),
            changed=kick,
            variables=os.environ,
            files=self._home.trigger_files,
        )
        targets = HttpTargets(
            store=store,
            counts=self._target.intercepted,
            clock=self._clock,
            changed=kick,
            beside=triggers.beside,
        )
        reconciler = Reconciler(
            store=store,
            build=self._build,
            check=self._target.check,
            target=self._target,
            clock=self._clock,
            gateway=lambda: gateway,
            internal=lambda: f"http://127.0.0.1:{self._settings.internal_port}",
            facts=facts,
            built=_still_there,
            pruned=self._freed.set,
            dapr=AppPortBook(self._home).of,
            trigger_files=self._home.trigger_files,
            secret_store=self._secret_store,
            scaled_by=lambda key: _both(targets.of(key), triggers.of(key)),
        )
        return reconciler, targets, triggers

    async def _collect(self, reconciler: Reconciler) -> None:
        """Remove what dropped revisions needed, some time later; costs nothing while none was dropped."""
        collector = Collector(self._home.bundles, self._home.environments, self._clock)
        while True:
            await self._freed.wait()
            self._freed.clear()
            while True:
                needed = await reconciler.paths()
                if needed is None:
                    await self._clock.sleep(_BUSY_S)
                    continue
                await collector.sweep(needed)
                if not collector.waiting_for_bundles:
                    break
                await self._clock.sleep(BUNDLE_GRACE_S)

    def _kafka_topics(self, store: SqliteStore) -> KafkaTopics:
        ensure = kafka_topics.asking(self._target.ask_runtime)
        aliases = Aliases(self._settings.aliases)
        return KafkaTopics(store, ensure, aliases=aliases, clock=self._clock)

    def _routes(self, store: SqliteStore) -> Routes:
        settings = self._settings
        return Routes(
            store=store,
            push=self._target.route,
            functions=self._target.routes,
            clock=self._clock,
            addresses=[settings.gateway_host],
            https_port=settings.https_port,
            default_pair=self._default_pair if settings.https_port else None,
        )

    def _default_pair(self) -> Pair:
        """Return the certificate for names that no Gateway has: the given one, else one of our own."""
        settings = self._settings
        if settings.tls_cert:
            return pair_of_files(Path(settings.tls_cert), Path(settings.tls_key))
        files = certificates.ensure(
            self._home.pki,
            hosts=[settings.https_host, "*.localhost", "*.default.localhost", "*.default.svc.cluster.local"],
            now=self._clock.now(),
            leaf="gateway",
        )
        return pair_of_files(files.cert, files.key)

    async def _build(self, run: BuildRun, function: Function) -> BuildResult:
        return await build(
            run,
            convention=asked_convention(function),
            conventions={name: resolve_convention(name) for name in CONVENTIONS},
            bundles_dir=self._home.bundles,
            environments_dir=self._home.environments,
        )


def _still_there(result: BuildResult) -> bool:
    """Tell whether what a recorded build left behind still exists."""
    return Path(result.bundle).is_dir() and (not result.environment or Path(result.environment).is_dir())


def _both(requests: ScaledBy | None, triggers: ScaledBy | None) -> ScaledBy | None:
    """Join what one ScaledObject says by requests and by other triggers."""
    if requests is None or triggers is None or requests.owner != triggers.owner:
        return requests or triggers
    return replace(requests, triggered=triggers.triggered, scalers=triggers.scalers)
