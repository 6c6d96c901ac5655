"""Scalers `external` and `external-push`: ask a user's own scaler over gRPC. Implements `ports.PushScaler`.

Each reading asks for values and for activity; activity is never derived from values. Settings are in
`autoscale/scalers/external.py`, messages in `proto/`.
Source: contracts, autoscaling section 4.9.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc import aio

from pelton.autoscale.scalers.external import ExternalScaling, chosen
from pelton.clock import Clock
from pelton.drivers.scalers.http import tls_context
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading
from pelton.proto import externalscaler_pb2 as pb

__all__ = ["ExternalScaler", "newest"]

_SERVICE: Final = "/externalscaler.ExternalScaler/"
_ANSWER_S: Final = 3.0
_TLS_PORT: Final = 443
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
        channel = await self._opened()
        method: Any = channel.unary_stream(
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
        channel = await self._opened()
        method: Any = channel.unary_unary(
            f"{_SERVICE}{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return await method(request, timeout=_ANSWER_S)
        except aio.AioRpcError as error:
            raise self._failed(name, error) from error

    async def _opened(self) -> aio.Channel:
        if self._channel is None:
            settings = self._settings
            # A server that comes back is to be found at the next look, not after two minutes.
            options: list[tuple[str, int | str]] = [
                ("grpc.max_reconnect_backoff_ms", 2000),
                ("grpc.enable_http_proxy", 0),
            ]
            if not settings.tls:
                self._channel = aio.insecure_channel(settings.address, options=options)
            else:
                roots = settings.ca.encode() or None
                if not settings.verify:
                    # The library always checks: let it find what the scaler shows.
                    roots, name = await asyncio.to_thread(self._shown)
                    options.append(("grpc.ssl_target_name_override", name))
                credentials = grpc.ssl_channel_credentials(
                    root_certificates=roots,
                    private_key=settings.key.encode() or None,
                    certificate_chain=settings.certificate.encode() or None,
                )
                self._channel = aio.secure_channel(settings.address, credentials, options=options)
        return self._channel

    def _shown(self) -> tuple[bytes, str]:
        """Return the certificate that the scaler shows, and a name in it. Blocks; raises ScalerError."""
        settings = self._settings
        context = tls_context(
            verify=False, ca="", certificate=settings.certificate, key=settings.key, where=self._where
        )
        context.set_alpn_protocols(["h2"])
        parts = urlsplit(f"//{settings.address}")
        try:
            place = (parts.hostname or "", parts.port or _TLS_PORT)
            with (
                socket.create_connection(place, _ANSWER_S) as raw,
                context.wrap_socket(raw, server_hostname=parts.hostname) as connection,
            ):
                data = connection.getpeercert(binary_form=True) or b""
            certificate = x509.load_der_x509_certificate(data)
        except (OSError, ValueError) as error:
            raise ScalerError(
                f"the scaler at {settings.address} shows no certificate: {type(error).__name__}",
                where=self._where,
                hint="check that it runs, that it speaks TLS and that scalerAddress is right",
            ) from error
        return certificate.public_bytes(serialization.Encoding.PEM), _name_in(certificate)

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


def _name_in(certificate: x509.Certificate) -> str:
    """Return a host name or address that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return str(common[0].value) if common else ""
    hosts = [name.replace("*", "any", 1) for name in names.get_values_for_type(x509.DNSName)]
    return next(iter([*hosts, *map(str, names.get_values_for_type(x509.IPAddress))]), "")


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
