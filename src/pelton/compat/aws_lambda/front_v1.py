"""API Gateway v1 (REST API) and the application load balancer: two older forms of an HTTP event.

Listed in `fronts.py`. Pure but for the clock.
Source: `faas-conventions` contract, section 2.6. Decided where it is silent: header names have the form
`Content-Type` for API Gateway v1 and are lower case for the load balancer; only v1's stage appears in paths.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

from pelton.compat.aws_lambda.answers import strict
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.compat.aws_lambda.front import Front, clf, parameters, text_of
from pelton.model.invocation import Invocation, Reply

__all__ = ["LoadBalancer", "RestApi"]

_ALB_LIMIT_BYTES: Final = 1024 * 1024
_KEPT: Final = 1000
"""Names whose spelling is kept; clients may send any."""


class RestApi(Front):
    """API Gateway v1, a REST API with proxy integration."""

    name = "apigw-v1"
    base64_forms = False

    def __init__(self, info: FunctionInfo) -> None:
        super().__init__(info)
        self._stage = info.options.get("http-stage", "Prod")

    def event(self, invocation: Invocation) -> dict[str, Any]:
        """See Front."""
        path, _, raw_query = invocation.target.decode("latin-1").partition("?")
        headers, multi = _both(invocation, _title)
        domain, prefix, _ = self.domain(headers.get("Host", ""))
        route = self.route(invocation.method, path)
        if route is not None:
            resource, parameters = route[0].partition(" ")[2], route[1]
        elif path == "/":
            resource, parameters = "/", None
        else:
            resource, parameters = "/{proxy+}", {"proxy": unquote(path.lstrip("/"))}
        single, many = _query(raw_query)
        now = time.time()
        body, is_base64 = self.body(invocation) if invocation.body else (None, False)
        return {
            "resource": resource,
            "path": path,
            "httpMethod": invocation.method,
            "headers": headers,
            "multiValueHeaders": multi,
            "queryStringParameters": single,
            "multiValueQueryStringParameters": many,
            "pathParameters": parameters,
            "stageVariables": None,
            "requestContext": {
                "accountId": self.info.account,
                "apiId": prefix,
                "authorizer": None,
                "domainName": domain,
                "domainPrefix": prefix,
                "extendedRequestId": invocation.id,
                "httpMethod": invocation.method,
                "identity": {
                    "accessKey": None,
                    "accountId": None,
                    "caller": None,
                    "cognitoAuthenticationProvider": None,
                    "cognitoAuthenticationType": None,
                    "cognitoIdentityId": None,
                    "cognitoIdentityPoolId": None,
                    "principalOrgId": None,
                    "sourceIp": invocation.client,
                    "user": None,
                    "userAgent": headers.get("User-Agent"),
                    "userArn": None,
                },
                "path": f"/{self._stage}{path}",
                "protocol": f"HTTP/{invocation.http_version}",
                "requestId": invocation.id,
                "requestTime": clf(int(now)),
                "requestTimeEpoch": int(now * 1000),
                "resourceId": "pelton",
                "resourcePath": resource,
                "stage": self._stage,
            },
            "body": body,
            "isBase64Encoded": is_base64,
        }

    def answer(self, value: Any, payload: Callable[[], bytes]) -> Reply:
        """See Front."""
        reply = strict(value, multi=value.get("multiValueHeaders") if isinstance(value, dict) else None)
        if not any(name == b"content-type" for name, _ in reply.headers):
            reply.headers.append((b"content-type", b"application/json"))
        return reply


class LoadBalancer(Front):
    """An application load balancer with a function as its target group."""

    name = "alb"
    limit_bytes = _ALB_LIMIT_BYTES

    def __init__(self, info: FunctionInfo) -> None:
        super().__init__(info)
        self._multi = info.options.get("http-event-multi-value", "").lower() == "true"
        place = f"arn:aws:elasticloadbalancing:{info.region}:{info.account}"
        self._group = f"{place}:targetgroup/{info.name}/0123456789abcdef"

    def event(self, invocation: Invocation) -> dict[str, Any]:
        """See Front."""
        path, _, raw_query = invocation.target.decode("latin-1").partition("?")
        headers, multi = _both(invocation, str)
        # Parameters stay percent-encoded: that is left to the function.
        pairs = [item.partition("=")[::2] for item in raw_query.split("&") if item]
        body, is_base64 = self.body(invocation) if invocation.body else ("", False)
        event: dict[str, Any] = {
            "requestContext": {"elb": {"targetGroupArn": self._group}},
            "httpMethod": invocation.method,
            "path": path,
        }
        if self._multi:
            many: dict[str, list[str]] = {}
            for name, value in pairs:
                many.setdefault(name, []).append(value)
            event["multiValueQueryStringParameters"] = many
            event["multiValueHeaders"] = multi
        else:
            event["queryStringParameters"] = dict(pairs)
            event["headers"] = headers
        event["body"] = body
        event["isBase64Encoded"] = is_base64
        return event

    def answer(self, value: Any, payload: Callable[[], bytes]) -> Reply:
        """See Front. `statusDescription` is accepted; HTTP/1.1 clients get the usual phrase."""
        multi = value.get("multiValueHeaders") if isinstance(value, dict) and self._multi else None
        reply = strict(value, multi=multi, single=not (self._multi and multi))
        if reply.body and not any(name == b"content-type" for name, _ in reply.headers):
            reply.headers.append((b"content-type", b"application/octet-stream"))
        return reply


def _port(host: str, scheme: str) -> str:
    port = host.rpartition(":")[2]
    return port if port.isdecimal() else "443" if scheme == "https" else "80"


_titles: dict[str, str] = {}


def _title(name: str) -> str:
    found = _titles.get(name)
    if found is None:
        found = "-".join(part.capitalize() for part in name.split("-"))
        if len(_titles) < _KEPT:
            _titles[name] = found
    return found


def _both(
    invocation: Invocation, spelled: Callable[[str], str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return headers with their last values, and with all of them."""
    multi: dict[str, list[str]] = {}
    for raw_name, raw_value in invocation.headers:
        multi.setdefault(spelled(raw_name.decode("latin-1")), []).append(text_of(raw_value))
    host = multi.get(spelled("host"), [""])[-1]
    multi.setdefault(spelled("x-forwarded-for"), [invocation.client])
    multi.setdefault(spelled("x-forwarded-proto"), [invocation.scheme])
    multi.setdefault(spelled("x-forwarded-port"), [_port(host, invocation.scheme)])
    return {name: values[-1] for name, values in multi.items()}, multi


def _query(raw_query: str) -> tuple[dict[str, str] | None, dict[str, list[str]] | None]:
    """Return query parameters, decoded: last values, and all values; None for no parameters."""
    many: dict[str, list[str]] = {}
    for name, value in parameters(raw_query):
        many.setdefault(name, []).append(value)
    if not many:
        return None, None
    return {name: values[-1] for name, values in many.items()}, many
