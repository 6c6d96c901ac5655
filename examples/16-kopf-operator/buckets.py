"""An operator for buckets: a mutating and a validating webhook, and a handler that fills in the status."""

import os
from pathlib import Path

import kopf

# tls.crt, tls.key and ca.crt for the webhooks; `pelton api` prints where it has some for localhost.
CERTS = Path(os.environ["WEBHOOK_CERTS"])
QUOTA_GIB = 100


@kopf.on.login()
def login(**kwargs):
    return kopf.login_with_kubeconfig(**kwargs)


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_):
    settings.admission.server = kopf.WebhookServer(
        addr="127.0.0.1",
        certfile=CERTS / "tls.crt",
        pkeyfile=CERTS / "tls.key",
        cafile=CERTS / "ca.crt",
    )
    settings.admission.managed = "storage.example.com"


@kopf.on.mutate("buckets", operations=["CREATE"])
def owner(patch, userinfo, labels, **_):
    if "storage.example.com/owner" not in labels:
        patch.metadata.labels["storage.example.com/owner"] = userinfo["username"]


@kopf.on.validate("buckets", operations=["CREATE", "UPDATE"])
def quota(spec, warnings, **_):
    if spec["sizeGiB"] > QUOTA_GIB:
        raise kopf.AdmissionError(f"{spec['sizeGiB']} GiB are over the quota of {QUOTA_GIB}", code=403)
    if spec["sizeGiB"] > QUOTA_GIB * 0.8:
        warnings.append(f"more than 80% of the quota of {QUOTA_GIB} GiB")


@kopf.on.create("buckets")
@kopf.on.update("buckets", field="spec")
def provision(spec, patch, **_):
    patch.status["phase"] = "Ready"
    patch.status["capacityGiB"] = spec["sizeGiB"]
