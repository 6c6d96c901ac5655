"""Scalers `external` and `external-push`: values come from a user's own scaler over gRPC.

`drivers/scalers/external.py` speaks the protocol. Pure.

Source: KEDA, pkg/scalers/external_scaler.go (contracts, autoscaling section 4.9).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelton.autoscale.scalers.parameters import Parameters

__all__ = ["FIRST_RETRY_S", "LAST_RETRY_S", "ExternalScaling", "chosen", "read_external"]

_OWN = ("scalerAddress", "enableTLS", "unsafeSsl", "caCert", "tlsClientCert", "tlsClientKey")
FIRST_RETRY_S = 2.0
LAST_RETRY_S = 60.0
"""Seconds between attempts to open a stream: the first, doubled up to the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalScaling:
    """Settings of one trigger.

    Attributes:
        address: host:port.
        push: Whether the scaler tells of activity by itself.
        name, namespace: Of the object, as the scaler is told.
        metadata: What the scaler is told besides. May be secret.
        tls, verify: Whether the connection is encrypted, and whether its certificate is checked.
        ca, certificate, key: PEM; "" for none.
    """

    address: str
    push: bool
    name: str
    namespace: str
    metadata: dict[str, str] = field(repr=False)
    tls: bool = False
    verify: bool = True
    ca: str = ""
    certificate: str = ""
    key: str = field(default="", repr=False)


def read_external(found: Parameters) -> ExternalScaling:
    """Read a trigger's metadata; problems are left in `found`."""
    trigger = found.trigger
    told: dict[str, str] = {}
    for key, value in trigger.metadata.items():
        if key in _OWN or key.removesuffix("FromEnv") in _OWN:
            continue
        if not key.endswith("FromEnv"):
            told[key] = value
        elif known := trigger.environment.get(value.strip()):
            told[key] = known
    ca, certificate = found.text("caCert"), found.text("tlsClientCert")
    key = found.text("tlsClientKey")
    if bool(certificate) != bool(key):
        found.refuse("tlsClientCert and tlsClientKey have to be given together")
    return ExternalScaling(
        address=found.required("scalerAddress"),
        push=trigger.type == "external-push",
        name=trigger.scaled_object,
        namespace=trigger.namespace,
        metadata=told,
        tls=found.flag("enableTLS") or bool(ca or certificate),
        verify=not found.flag("unsafeSsl"),
        ca=ca,
        certificate=certificate,
        key=key,
    )


def chosen(whole: int, exact: float) -> float:
    """Return the number of a message that has two fields for it: the float wins only when it is above 0."""
    return exact if exact > 0 else float(whole)
