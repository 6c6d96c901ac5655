"""Parameters out of a TriggerAuthentication, and which objects it takes them from.

Sources that a machine without a cloud can read: environment of the target, ConfigMaps, Secrets, a file, an
OAuth2 client. Others are refused by name. Pure: what exists comes in as arguments.

Source: KEDA, pkg/scaling/resolver (contracts, autoscaling section 1.4).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from pelton.autoscale.scalers.environment import Entries
from pelton.errors import ScalerError
from pelton.model.keda import TriggerAuthentication

__all__ = ["file_parameters", "parameters_of"]

Variables = Callable[[str], Mapping[str, str]]
"""Container ("" for the first) -> its variables."""


def parameters_of(
    authentication: TriggerAuthentication,
    *,
    entries: Entries,
    variables: Variables,
    file: Callable[[str], str],
) -> dict[str, str]:
    """Return parameter -> value; later sources overwrite earlier ones. What is missing is empty text.

    Args:
        authentication: Of either scope.
        entries: Looks up Secrets and ConfigMaps where this object takes them from.
        variables: Environment of the target's containers.
        file: Returns the text of a file of parameters.

    Raises:
        ScalerError: It names a source that cannot be read here, or a file that is no map of texts.
    """
    if authentication.file_path:
        return file_parameters(file(authentication.file_path), authentication.file_path)
    _refuse(authentication)
    made: dict[str, str] = {}
    for item in authentication.env:
        made[item.parameter] = variables(item.container).get(item.name, "")
    for kind, targets in (
        ("ConfigMap", authentication.config_map_targets),
        ("Secret", authentication.secret_targets),
    ):
        for target in targets:
            made[target.parameter] = (entries(kind, target.name) or {}).get(target.key, "")
    if authentication.oauth2:
        made |= _oauth2(authentication.oauth2, entries)
    return made


def _refuse(authentication: TriggerAuthentication) -> None:
    identity = authentication.pod_identity or {}
    sources: Sequence[tuple[str, Any]] = (
        ("hashiCorpVault", authentication.vault),
        ("azureKeyVault", authentication.azure_key_vault),
        ("gcpSecretManager", authentication.gcp_secret_manager),
        ("awsSecretManager", authentication.aws_secret_manager),
        ("boundServiceAccountToken", authentication.service_account_tokens),
        ("podIdentity", identity.get("provider", "none") not in ("", "none")),
    )
    asked = [name for name, given in sources if given]
    if asked:
        raise ScalerError(
            f"spec.{asked[0]} is for a cluster and cannot be read on this machine",
            where=f"TriggerAuthentication {authentication.name}",
            hint="use secretTargetRef, configMapTargetRef, env or oauth2 here",
        )


def _oauth2(oauth2: Mapping[str, Any], entries: Entries) -> dict[str, str]:
    reference = ((oauth2.get("clientSecret") or {}).get("valueFrom") or {}).get("secretKeyRef") or {}
    secret = entries("Secret", str(reference.get("name") or "")) or {}
    extra = oauth2.get("tokenUrlParams") or {}
    return {
        "oauthTokenURI": str(oauth2.get("tokenUrl") or ""),
        "clientID": str(oauth2.get("clientId") or ""),
        "clientSecret": secret.get(str(reference.get("key") or ""), ""),
        "scopes": ",".join(str(one) for one in oauth2.get("scopes") or ()),
        "endpointParams": urlencode(extra),
    }


def file_parameters(text: str, path: str) -> dict[str, str]:
    """Return the parameters in a file, a JSON map of texts.

    Raises:
        ScalerError: It is another thing.
    """
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise ScalerError(f"{path} is no JSON map of texts", hint='write {"parameter": "value"} into it')
    return data
