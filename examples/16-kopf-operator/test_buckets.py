"""The operator against a real API: no cluster, no containers."""

import subprocess
from pathlib import Path

import pytest
from kopf.testing import KopfRunner

from pelton.testing.api_server import ApiServer

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def kubectl():
    """Start the API server and the operator; yield a function that runs kubectl."""
    with ApiServer() as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(api.kubeconfig))
        patch.setenv("WEBHOOK_CERTS", str(api.cert.parent))

        def kubectl(*args, given=""):
            command = ["kubectl", *args]
            return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)

        assert kubectl("apply", "-f", HERE / "crd.yaml").returncode == 0
        assert kubectl("wait", "--for=condition=Established", "crd", "--all").returncode == 0
        with KopfRunner(["run", "-A", "--standalone", str(HERE / "buckets.py")], timeout=30):
            hooks = ("wait", "--for=create", "--timeout=30s")
            for kind in ("mutating", "validating"):
                assert kubectl(*hooks, f"{kind}webhookconfiguration/storage.example.com").returncode == 0
            yield kubectl


def bucket(name, **spec):
    return f"""{{"apiVersion": "storage.example.com/v1", "kind": "Bucket",
                 "metadata": {{"name": "{name}"}}, "spec": {str(spec).replace("'", '"')}}}"""


def test_bucket_gets_an_owner_defaults_and_a_status(kubectl):
    created = kubectl("apply", "-f", HERE / "bucket.yaml")
    ready = kubectl("wait", "--for=jsonpath={.status.phase}=Ready", "bucket/photos", "--timeout=30s")
    shown = kubectl("get", "bucket", "photos", "-o", "jsonpath={.metadata.labels}{.spec}{.status.capacityGiB}")

    assert created.returncode == 0, created.stderr
    assert ready.returncode == 0, ready.stderr
    assert shown.stdout == (
        '{"storage.example.com/owner":"kubernetes-admin"}{"class":"hot","sizeGiB":20}20'
    )


def test_bucket_over_the_quota_is_refused_by_the_webhook(kubectl):
    refused = kubectl("apply", "-f", "-", given=bucket("huge", sizeGiB=500))

    assert "500 GiB are over the quota of 100" in refused.stderr


def test_bucket_near_the_quota_brings_a_warning(kubectl):
    created = kubectl("apply", "-f", "-", given=bucket("big", sizeGiB=90))

    assert created.returncode == 0
    assert "Warning: more than 80% of the quota of 100 GiB" in created.stderr


def test_bucket_without_a_size_is_refused_by_the_schema(kubectl):
    refused = kubectl("apply", "-f", "-", given=bucket("odd"))

    assert "spec.sizeGiB: Required value" in refused.stderr


def test_bucket_cannot_shrink(kubectl):
    kubectl("apply", "-f", "-", given=bucket("shrinking", sizeGiB=10))

    refused = kubectl("apply", "-f", "-", given=bucket("shrinking", sizeGiB=5))

    assert "a bucket cannot shrink below 10 GiB" in refused.stderr


def test_deletion_waits_for_the_operator(kubectl):
    kubectl("apply", "-f", "-", given=bucket("short", sizeGiB=1))

    assert kubectl("delete", "bucket", "short", "--timeout=30s").returncode == 0
