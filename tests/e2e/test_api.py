"""`pelton api`: the API server alone, with and without a directory."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.connected, pytest.mark.timeout(60)]
KUBECTL = os.path.join(os.path.dirname(sys.executable), "kubectl")


class Api:
    """A running `pelton api`."""

    def __init__(self, *flags):
        command = [sys.executable, "-m", "pelton.cli.main", "api", "--listen", "127.0.0.1:0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(3)]
        self.kubeconfig = lines[1].strip().partition("KUBECONFIG=")[2]
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert self.process.wait(20) == 0
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.stopped_in_s = time.monotonic() - began

    def kubectl(self, *args):
        done = subprocess.run(
            [KUBECTL, "--kubeconfig", self.kubeconfig, *args], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def test_directory_keeps_objects_over_a_restart(tmp_path):
    with Api("--directory", str(tmp_path)) as api:
        api.kubectl("create", "configmap", "kept", "--from-literal=a=1")

    with Api("--directory", str(tmp_path)) as api:
        assert "kept" in api.kubectl("get", "configmaps", "-o", "name")


def test_without_a_directory_nothing_is_left():
    with Api() as api:
        directory = os.path.dirname(api.kubeconfig)
        assert "namespace/default" in api.kubectl("get", "namespaces", "-o", "name")

    assert not os.path.exists(directory)
    assert api.stopped_in_s < 10
