"""What the platform tells about itself: `/metrics`."""

import re
import ssl
import urllib.error
import urllib.request

import pytest

from pelton.cli.home import Home

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def hello(shared):
    shared.cli("init", "counted")
    shared.cli("deploy", "counted")
    shared.cli("invoke", "counted")
    return "counted"


def scrape(platform, token=""):
    request = urllib.request.Request(f"{platform.endpoints['api']}/metrics")
    request.add_header("Authorization", f"Bearer {token or Home(platform.home).secrets()['token']}")
    context = ssl.create_default_context(cafile=platform.endpoints["ca"])
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        return answer.headers["content-type"], answer.read().decode()


def test_metrics_count_a_request_in_gateway_and_function(shared, hello):
    media, text = scrape(shared)

    assert media.startswith("text/plain; version=0.0.4")
    of = 'function="counted",namespace="default"'
    assert re.search(rf"^pelton_function_invocations_total{{{of}}} 1.0$", text, re.MULTILINE)
    assert re.search(rf"^pelton_function_cold_starts_total{{{of}}} 1.0$", text, re.MULTILINE)
    assert re.search(rf'^pelton_gateway_requests_total{{{of},revision=""}} 1.0$', text, re.MULTILINE)
    for part in ("up", "nats", "zygote", "node", "envoy", "runtime"):
        assert f'pelton_part_up{{part="{part}"}} 1.0' in text
        assert re.search(rf'^pelton_part_resident_memory_bytes{{part="{part}"}} [1-9]', text, re.MULTILINE)


def test_metrics_are_not_for_strangers(shared, hello):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        scrape(shared, token="wrong")
