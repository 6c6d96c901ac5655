"""Conversion of custom resources between their versions: by rewriting apiVersion, or by a webhook.

`crd_rows.py` makes one converter per definition; `pipeline.py` calls it through the port `Conversion` for
reads, lists, watches and writes. Everything that a list needs goes into one review.
Source: contracts operator-webhook.md section 4.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pelton.apiserver.registry import Row
from pelton.apiserver.rules import Obj, metadata_of
from pelton.apiserver.status import StatusError
from pelton.apiserver.webhooks.caller import Caller, CallError

__all__ = ["KNOWN_VERSIONS", "RewriteVersion", "WebhookConversion", "read_answer"]

KNOWN_VERSIONS = ("v1",)
"""Versions of ConversionReview that this server speaks."""

_GROUP = "apiextensions.k8s.io"
_TIMEOUT_S = 30.0  # there is no field for it; as long as Kubernetes waits
_FREE = ("labels", "annotations")  # of metadata; everything else is restored


class RewriteVersion:
    """Strategy None: the versions differ in name only."""

    async def convert(self, objects: Sequence[Obj], row: Row, /) -> list[Obj]:
        """Rewrite apiVersion."""
        return [{**obj, "apiVersion": row.api_version} for obj in objects]


class WebhookConversion:
    """Strategy Webhook.

    Args:
        client: The clientConfig.
        version: Version of ConversionReview.
        caller: Posts reviews.
    """

    def __init__(self, client: Mapping[str, Any], version: str, caller: Caller) -> None:
        self._client = client
        self._version = version
        self._caller = caller

    async def convert(self, objects: Sequence[Obj], row: Row, /) -> list[Obj]:
        """Return every object in the version of `row`.

        Raises:
            StatusError: 500: the webhook was not reached, refused, or answered nonsense; nothing is
            converted.
        """
        result = [{**obj, "apiVersion": row.api_version} for obj in objects]
        # What has nothing but its identity has nothing to convert.
        sent = [at for at, obj in enumerate(objects) if set(obj) - {"apiVersion", "kind"}]
        if not sent:
            return result
        uid = str(uuid.uuid4())
        request = {
            "uid": uid,
            "desiredAPIVersion": row.api_version,
            "objects": [objects[at] for at in sent],
        }
        review = {"apiVersion": f"{_GROUP}/{self._version}", "kind": "ConversionReview", "request": request}
        try:
            answer = await self._caller.post(self._client, review, timeout_s=_TIMEOUT_S)
        except CallError as error:
            raise _failed(row, error.message + (f" ({error.hint})" if error.hint else "")) from error
        for at, obj in zip(sent, read_answer(answer, uid, [objects[at] for at in sent], row), strict=True):
            result[at] = obj
        return result


def read_answer(answer: Any, uid: str, objects: Sequence[Obj], row: Row) -> list[Obj]:
    """Return the converted objects of an answer, in the order of `objects`, with their metadata restored.

    Args:
        answer: JSON of the answer.
        uid: Of the request.
        objects: What was sent.
        row: The version that was asked for.

    Raises:
        StatusError: 500, with what is wrong with the answer.
    """
    if not isinstance(answer, dict) or (answer.get("apiVersion"), answer.get("kind")) != (
        f"{_GROUP}/v1",
        "ConversionReview",
    ):
        raise _failed(row, "invalid response: not a ConversionReview of apiextensions.k8s.io/v1")
    response = answer.get("response")
    if not isinstance(response, dict):
        raise _failed(row, "no response provided")
    if response.get("uid") != uid:
        raise _failed(row, f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    result = response.get("result")
    status = result.get("status") if isinstance(result, dict) else None
    if status != "Success":
        told = result.get("message") if isinstance(result, dict) else ""
        raise _failed(row, str(told or f"response.result.status was {status!r}, not 'Success'"))
    converted = response.get("convertedObjects")
    if not isinstance(converted, list) or len(converted) != len(objects):
        count = len(converted) if isinstance(converted, list) else 0
        raise _failed(row, f"expected {len(objects)} converted objects, got {count}")
    return [
        _restored(at, old, new, row) for at, (old, new) in enumerate(zip(objects, converted, strict=True))
    ]


def _restored(at: int, old: Obj, new: Any, row: Row) -> Obj:
    place = f"invalid converted object at index {at}"
    if not isinstance(new, dict):
        raise _failed(row, f"{place}: it is no object")
    if new.get("apiVersion") != row.api_version:
        raise _failed(
            row, f"{place}: invalid apiVersion {new.get('apiVersion')!r}, requested {row.api_version!r}"
        )
    if new.get("kind") != old.get("kind"):
        raise _failed(row, f"{place}: invalid kind {new.get('kind')!r}, expected {old.get('kind')!r}")
    before, after = metadata_of(old), new.get("metadata")
    if not isinstance(after, dict):
        raise _failed(row, f"{place}: metadata is missing or no object")
    for key in ("name", "namespace", "uid"):
        if before.get(key) != after.get(key):
            raise _failed(row, f"{place}: metadata.{key} {after.get(key)!r} is not {before.get(key)!r}")
    metadata = {key: value for key, value in before.items() if key not in _FREE}
    for key in _FREE:
        value = after.get(key)
        if value is None:
            continue
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise _failed(row, f"{place}: metadata.{key} is no mapping of strings")
        metadata[key] = value
    return {**new, "metadata": metadata}


def _failed(row: Row, reason: str) -> StatusError:
    message = f"conversion webhook for {row.api_version}, Kind={row.kind} failed: {reason}"
    return StatusError(500, "InternalError", message, details={"causes": [{"message": message}]})
