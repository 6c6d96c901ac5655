"""Scalers `external` and `external-push`: ask a user's own scaler over gRPC. Implements `ports.PushScaler`.

Each reading asks for values and for activity; activity is never derived from values. Settings are in
`autoscale/scalers/external.py`, messages in `proto/`.
Source: contracts, autoscaling section 4.9.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Final, TypeVar

import grpc
from grpc import aio

from pelton.autoscale.scalers.external import ExternalScaling, chosen
from pelton.clock import Clock
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading
from pelton.proto import externalscaler_pb2 as pb

__all__ = ["ExternalScaler", "newest"]

_SERVICE: Final = "/externalscaler.ExternalScaler/"
_ANSWER_S: Final = 3.0
_T = TypeVar("_T")


class ExternalScaler:
    """One trigger of a user's scaler.

    Args:
        settings: Of the trigger.
        clock: Unused; deadlines are gRPC's.
        where: For messages.
    """

    def __init__(self, settings: ExternalScaling, *, clock: Clock, where: str) -> None:
        del clock
        self._settings = settings
        self._where = where
        self._channel: aio.Channel | None = None
        self._reference = pb.ScaledObjectRef(
            name=settings.name, namespace=settings.namespace, scalerMetadata=settings.metadata
        )

    async def read(self) -> Sequence[ScalerReading]:
        """Return the scaler's metrics; see `ports.Scaler`."""
        specs = (await self._call("GetMetricSpec", self._reference, pb.GetMetricSpecResponse)).metricSpecs
        if not specs:
            raise ScalerError(
                f"the scaler at {self._settings.address} names no metric",
                where=self._where,
                hint="let GetMetricSpec return one at least",
            )
        values = []
        for spec in specs:
            asked = pb.GetMetricsRequest(scaledObjectRef=self._reference, metricName=spec.metricName)
            answer = await self._call("GetMetrics", asked, pb.GetMetricsResponse)
            # Names in the answer do not count: the value is the one of the metric that was asked for.
            found = [chosen(one.metricValue, one.metricValueFloat) for one in answer.metricValues]
            values.append(found[0] if found else 0.0)
        active = (await self._call("IsActive", self._reference, pb.IsActiveResponse)).result
        return [
            ScalerReading(
                metric=spec.metricName,
                value=value,
                target=self._target(spec),
                active=active,
            )
            for spec, value in zip(specs, values, strict=True)
        ]

    async def activity(self) -> AsyncIterator[bool]:
        """Iterate over what the scaler tells by itself; see `ports.PushScaler`."""
        method: Any = self._opened().unary_stream(
            f"{_SERVICE}StreamIsActive",
            request_serializer=pb.ScaledObjectRef.SerializeToString,
            response_deserializer=pb.IsActiveResponse.FromString,
        )
        stream = method(self._reference)
        try:
            async for answer in newest(stream):
                yield answer.result
        except aio.AioRpcError as error:
            raise self._failed("StreamIsActive", error) from error
        finally:
            stream.cancel()

    async def close(self) -> None:
        """Close the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def _target(self, spec: Any) -> float:
        target = chosen(spec.targetSize, spec.targetSizeFloat)
        if target <= 0:
            raise ScalerError(
                f"the scaler at {self._settings.address} gives the target {target:g} for {spec.metricName}",
                where=self._where,
                hint="let targetSizeFloat of GetMetricSpec be greater than 0",
            )
        return target

    async def _call(self, name: str, request: Any, answer: Any) -> Any:
        method: Any = self._opened().unary_unary(
            f"{_SERVICE}{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return await method(request, timeout=_ANSWER_S)
        except aio.AioRpcError as error:
            raise self._failed(name, error) from error

    def _opened(self) -> aio.Channel:
        if self._channel is None:
            settings = self._settings
            # A server that comes back is to be found at the next look, not after two minutes.
            options = [("grpc.max_reconnect_backoff_ms", 2000), ("grpc.enable_http_proxy", 0)]
            if not settings.tls:
                self._channel = aio.insecure_channel(settings.address, options=options)
            else:
                if not settings.verify:
                    raise ScalerError(
                        "unsafeSsl cannot be used here: the gRPC library always checks certificates",
                        where=self._where,
                        hint="give the scaler's own certificate or its CA as caCert of the authentication",
                    )
                credentials = grpc.ssl_channel_credentials(
                    root_certificates=settings.ca.encode() or None,
                    private_key=settings.key.encode() or None,
                    certificate_chain=settings.certificate.encode() or None,
                )
                self._channel = aio.secure_channel(settings.address, credentials, options=options)
        return self._channel

    def _failed(self, name: str, error: aio.AioRpcError) -> ScalerError:
        code, details = error.code().name, error.details() or "no details"
        hints = {
            "UNAVAILABLE": "check that it runs and that scalerAddress is right",
            "UNIMPLEMENTED": "let it implement the service externalscaler.ExternalScaler",
            "DEADLINE_EXCEEDED": f"let it answer within {_ANSWER_S:g} s",
        }
        return ScalerError(
            f"{name} of the scaler at {self._settings.address} failed: {code}, {details}",
            where=self._where,
            hint=hints.get(code, "see the scaler's own log"),
        )


async def newest(stream: AsyncIterator[_T]) -> AsyncGenerator[_T, None]:
    """Iterate over what a stream said last, whenever it was asked: what came meanwhile is passed over.

    Scalers may tell of activity several times a second; all of it would be asked about after the fact.
    """
    waiting: list[_T] = []
    came = asyncio.Event()

    async def listen() -> None:
        try:
            async for one in stream:
                waiting[:] = [one]
                came.set()
        finally:
            came.set()

    listening = asyncio.create_task(listen(), name="activity of an external scaler")
    try:
        while waiting or not listening.done():
            await came.wait()
            came.clear()
            if waiting:
                yield waiting.pop()
        await listening
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
