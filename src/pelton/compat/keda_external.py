"""KEDA's external scaler as a server: a KEDA elsewhere scales on what Pelton's functions and routes do.

`cli/control_plane.py` starts one where `pelton up --external-scaler` asks for it; what the numbers are is
said by `controlplane/external_metrics.py`, which is handed in. The service is `externalscaler.ExternalScaler`
with all five calls, and gRPC's health service with `liveness` and `readiness`.
Source: contracts, autoscaling sections 4.9 and 5.6.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from math import ceil
from typing import Any, Final

import grpc
from grpc import aio

from pelton.clock import Clock
from pelton.errors import NotFoundError, PeltonError
from pelton.model.scaler import ScalerReading
from pelton.proto import externalscaler_pb2 as pb
from pelton.proto import health_pb2

__all__ = ["STREAM_S", "ExternalScalerServer", "Measurement"]

STREAM_S: Final = 0.2
"""Between two messages of a stream of activity."""
_SPEC_S: Final = 1.0
_SERVICE: Final = "/externalscaler.ExternalScaler/"
_HEALTH: Final = "/grpc.health.v1.Health/"
_PROBES: Final = ("", "liveness", "readiness")


Measurement = Callable[[str, str, Mapping[str, str]], Awaitable[Sequence[ScalerReading]]]
"""(name and namespace of the ScaledObject, its metadata) -> metrics; raises NotFoundError, PeltonError."""


class ExternalScalerServer:
    """Answers KEDA.

    Args:
        measure: Returns what a ScaledObject asks for.
        healthy: Whether what it returns is fresh.
        clock: Paces streams.
    """

    def __init__(self, measure: Measurement, *, healthy: Callable[[], bool], clock: Clock) -> None:
        self._measure = measure
        self._healthy = healthy
        self._clock = clock
        self._server: aio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises PeltonError when the address cannot be had."""
        server = aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((_Methods(self._handlers()),))
        try:
            bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise PeltonError(
                f"--external-scaler: {host}:{port} cannot be listened on",
                hint="choose another port, or end the process that has it",
            ) from error
        await server.start()
        self._server = server
        return int(bound)

    async def close(self) -> None:
        """End all calls; safe after a failed start."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    def _handlers(self) -> dict[str, Any]:
        unary: dict[str, tuple[Any, Any]] = {
            f"{_SERVICE}IsActive": (pb.ScaledObjectRef, self._is_active),
            f"{_SERVICE}GetMetricSpec": (pb.ScaledObjectRef, self._metric_spec),
            f"{_SERVICE}GetMetrics": (pb.GetMetricsRequest, self._metrics),
            f"{_HEALTH}Check": (health_pb2.HealthCheckRequest, self._check),
        }
        streams: dict[str, tuple[Any, Any]] = {
            f"{_SERVICE}StreamIsActive": (pb.ScaledObjectRef, self._stream_active),
            f"{_SERVICE}StreamMetricSpec": (pb.ScaledObjectRef, self._stream_spec),
        }
        made: dict[str, Any] = {}
        for table, handler in (
            (unary, grpc.unary_unary_rpc_method_handler),
            (streams, grpc.unary_stream_rpc_method_handler),
        ):
            for path, (request, method) in table.items():
                made[path] = handler(
                    method,
                    request_deserializer=request.FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                )
        return made

    async def _read(self, reference: Any, context: Any) -> Sequence[ScalerReading]:
        """Return the metrics; ends the call with a status of gRPC where there are none."""
        try:
            return await self._measure(reference.name, reference.namespace, dict(reference.scalerMetadata))
        except NotFoundError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, error.message)
        except PeltonError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)
        raise AssertionError("abort raises")

    async def _is_active(self, request: Any, context: Any) -> Any:
        found = await self._read(request, context)
        return pb.IsActiveResponse(result=any(one.active for one in found))

    async def _stream_active(self, request: Any, context: Any) -> AsyncIterator[Any]:
        while True:
            yield await self._is_active(request, context)
            await self._clock.sleep(STREAM_S)

    async def _metric_spec(self, request: Any, context: Any) -> Any:
        found = await self._read(request, context)
        return pb.GetMetricSpecResponse(
            metricSpecs=[
                pb.MetricSpec(
                    metricName=one.metric, targetSize=max(1, ceil(one.target)), targetSizeFloat=one.target
                )
                for one in found
            ]
        )

    async def _stream_spec(self, request: Any, context: Any) -> AsyncIterator[Any]:
        told: Any = None
        while True:
            spec = await self._metric_spec(request, context)
            if spec != told:
                told = spec
                yield spec
            await self._clock.sleep(_SPEC_S)

    async def _metrics(self, request: Any, context: Any) -> Any:
        found = await self._read(request.scaledObjectRef, context)
        wanted = request.metricName
        chosen = [one for one in found if wanted in ("", one.metric)]
        if not chosen:
            names = ", ".join(one.metric for one in found)
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no metric {wanted}; there are: {names}")
        return pb.GetMetricsResponse(
            metricValues=[
                pb.MetricValue(metricName=one.metric, metricValue=ceil(one.value), metricValueFloat=one.value)
                for one in chosen
            ]
        )

    async def _check(self, request: Any, context: Any) -> Any:
        if request.service not in _PROBES:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service}")
        status = health_pb2.HealthCheckResponse.ServingStatus
        fine = request.service == "liveness" or self._healthy()
        return health_pb2.HealthCheckResponse(status=status.SERVING if fine else status.NOT_SERVING)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Path -> handler."""

    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call; None for a method that is not implemented."""
        return self._handlers.get(handler_call_details.method)
