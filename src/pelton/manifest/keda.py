"""ScaledObject, ScaledJob and TriggerAuthentication (of both scopes) of keda.sh/v1alpha1: tables.

Called through `manifest/kinds`. Triggers and the HPA's behaviour are those of `manifest/scale_fields`; what
values have to fulfil is in `manifest/keda_rules`. Source: contracts, autoscaling, sections 1.1 to 1.4.
"""

from __future__ import annotations

from pelton.manifest.fields import Field, Integer, Items, Kept, Mapped, Only, Raw, Record, Text
from pelton.manifest.keda_rules import authentication_rules, scaled_job_rules, scaled_object_rules
from pelton.manifest.scale_fields import (
    COOLDOWN,
    FAILED_JOBS,
    HPA_CONFIG,
    KEDA_TRIGGER,
    POLLING,
    RESTORE,
    SUCCESSFUL_JOBS,
)
from pelton.manifest.verbs import TableVerbs
from pelton.model import keda as model
from pelton.model.function import ScalingStrategy

__all__ = [
    "API_VERSION",
    "CLUSTER_TRIGGER_AUTHENTICATION",
    "SCALED_JOB",
    "SCALED_OBJECT",
    "TRIGGER_AUTHENTICATION",
]

API_VERSION = "keda.sh/v1alpha1"

_TEXT = Text()
_COUNT = Integer(minimum=0)
_TRIGGERS = Field(
    "triggers",
    "triggers",
    Items(KEDA_TRIGGER, min_items=1),
    required=True,
    doc="What the number of instances follows.",
)

# ----------------------------------------------------------------------------------------------- ScaledObject

_SCALED_OBJECT_SPEC = Record(
    model.ScaledObjectResource,
    (
        Field(
            "scaleTargetRef",
            "target",
            Record(
                model.ScaleTarget,
                (
                    Field("name", "name", Text(min_length=1), required=True, doc="Name of the object."),
                    Field("apiVersion", "api_version", _TEXT, doc="Its version; default apps/v1."),
                    Field(
                        "kind", "kind", _TEXT, doc="Its kind, with a scale subresource; default Deployment."
                    ),
                    Field(
                        "envSourceContainerName",
                        "env_container",
                        _TEXT,
                        doc="Container whose variables triggers may read; default the first.",
                    ),
                ),
            ),
            required=True,
            doc="What is scaled.",
        ),
        POLLING._replace(shape=Integer(minimum=1), limits=None),
        COOLDOWN._replace(shape=_COUNT, limits=None),
        Field(
            "initialCooldownPeriod",
            "initial_cooldown_period_s",
            _COUNT,
            doc="Seconds from creation to zero while no trigger has been active; default 0.",
        ),
        Field(
            "idleReplicaCount",
            "idle_replicas",
            _COUNT,
            doc="Instances while nothing is active; less than minReplicaCount.",
        ),
        Field("minReplicaCount", "min_replicas", _COUNT, doc="Fewest instances; default 0."),
        Field("maxReplicaCount", "max_replicas", Integer(minimum=1), doc="Most instances; default 100."),
        Field(
            "advanced",
            "advanced",
            Record(
                model.KedaAdvanced,
                (
                    RESTORE,
                    Field(
                        "horizontalPodAutoscalerConfig",
                        "horizontal_pod_autoscaler_config",
                        HPA_CONFIG,
                        doc="Settings of the HorizontalPodAutoscaler behind it.",
                    ),
                    Field(
                        "scalingModifiers",
                        "scaling_modifiers",
                        Record(
                            model.ScalingModifiers,
                            (
                                Field("formula", "formula", _TEXT, doc="Expression over names of triggers."),
                                Field("target", "target", _TEXT, doc="Wanted value of the formula, > 0."),
                                Field(
                                    "activationTarget",
                                    "activation_target",
                                    _TEXT,
                                    doc="Value above which something runs; default 0.",
                                ),
                                Field(
                                    "metricType",
                                    "metric_type",
                                    Text(choices=("AverageValue", "Value")),
                                    doc="Whether target is per instance (the default) or in all.",
                                ),
                            ),
                        ),
                        doc="One metric in place of those of all triggers.",
                    ),
                ),
            ),
            doc="Rarely needed settings.",
        ),
        _TRIGGERS,
        Field(
            "fallback",
            "fallback",
            Record(
                model.KedaFallback,
                (
                    Field(
                        "failureThreshold",
                        "failure_threshold",
                        _COUNT,
                        required=True,
                        doc="Failures in a row after which it begins.",
                    ),
                    Field("replicas", "replicas", _COUNT, required=True, doc="Instances to run meanwhile."),
                    Field(
                        "behavior",
                        "behavior",
                        Text(
                            choices=(
                                "static",
                                "currentReplicas",
                                "currentReplicasIfHigher",
                                "currentReplicasIfLower",
                                "scalingModifiers",
                            )
                        ),
                        doc="How replicas is put together with the present number.",
                        default="static",
                    ),
                ),
            ),
            doc="What runs while the triggers cannot be read.",
        ),
    ),
)
SCALED_OBJECT: TableVerbs[model.ScaledObjectResource] = TableVerbs(
    API_VERSION, "ScaledObject", _SCALED_OBJECT_SPEC, rules=scaled_object_rules, required=True
)
"""The verbs of ScaledObject."""

# -------------------------------------------------------------------------------------------------- ScaledJob

_SCALED_JOB_SPEC = Record(
    model.ScaledJobResource,
    (
        Field("jobTargetRef", "job", Raw(), required=True, keep=True, doc="Job spec, as in batch/v1."),
        POLLING._replace(shape=_COUNT, limits=None),
        SUCCESSFUL_JOBS._replace(shape=_COUNT, limits=None),
        FAILED_JOBS._replace(shape=_COUNT, limits=None),
        Field("minReplicaCount", "min_replicas", _COUNT, doc="Jobs that always run; default 0."),
        Field("maxReplicaCount", "max_replicas", _COUNT, doc="Most jobs at a time; default 100."),
        Field(
            "rollout",
            "rollout",
            Record(
                model.Rollout,
                (
                    Field(
                        "strategy",
                        "strategy",
                        Text(choices=("immediate", "gradual")),
                        doc="Whether a change ends running jobs (immediate, the default) or not (gradual).",
                    ),
                    Field(
                        "propagationPolicy",
                        "propagation_policy",
                        Text(choices=("background", "foreground")),
                        doc="How they are deleted; default background.",
                    ),
                ),
            ),
            doc="What a change does to running jobs.",
        ),
        Field("rolloutStrategy", "rollout_strategy", _TEXT, doc="Older spelling of rollout.strategy."),
        Field(
            "envSourceContainerName",
            "env_container",
            _TEXT,
            doc="Container whose variables triggers may read; default the first.",
        ),
        _TRIGGERS,
        Field(
            "scalingStrategy",
            "scaling_strategy",
            Record(
                ScalingStrategy,
                (
                    Field(
                        "strategy",
                        "strategy",
                        Text(choices=("default", "custom", "accurate", "eager")),
                        doc="How running and pending jobs are counted.",
                    ),
                    Field(
                        "customScalingQueueLengthDeduction",
                        "queue_length_deduction",
                        Integer(),
                        doc="For custom: jobs taken off the queue length; default 0.",
                    ),
                    Field(
                        "customScalingRunningJobPercentage",
                        "running_job_percentage",
                        _TEXT,
                        doc='For custom: share of running jobs taken off, such as "0.5".',
                    ),
                    Field(
                        "pendingPodConditions",
                        "pending_pod_conditions",
                        Items(_TEXT),
                        doc="Pod conditions that a job must have so as not to count as pending.",
                    ),
                    Field(
                        "multipleScalersCalculation",
                        "multiple_scalers_calculation",
                        Text(choices=("max", "min", "avg", "sum")),
                        doc="How several triggers are put together; default max.",
                    ),
                ),
            ),
            doc="How many jobs are started.",
        ),
    ),
)
SCALED_JOB: TableVerbs[model.ScaledJobResource] = TableVerbs(
    API_VERSION, "ScaledJob", _SCALED_JOB_SPEC, rules=scaled_job_rules, required=True
)
"""The verbs of ScaledJob."""

# -------------------------------------------------------------------------------------- TriggerAuthentication


def _text(name: str, doc: str, *, required: bool = False) -> Field:
    return Field(name, name, _TEXT, required=required, doc=doc)


_PARAMETER = Field("parameter", "parameter", _TEXT, required=True, doc="Parameter of the trigger.")
_KEY_TARGETS = Items(
    Record(
        model.KeyTarget,
        (
            _PARAMETER,
            Field("name", "name", _TEXT, required=True, doc="Name of the object."),
            Field("key", "key", _TEXT, required=True, doc="Entry in it."),
        ),
    )
)
_SECRET_KEY = Kept(
    (
        Field(
            "valueFrom",
            "valueFrom",
            Only(
                "secretKeyRef",
                Kept(
                    (
                        _text("name", "Name of the Secret.", required=True),
                        _text("key", "Entry in it.", required=True),
                    )
                ),
                required=True,
                doc="The Secret.",
            ),
            required=True,
            doc="Where the value is kept.",
        ),
    )
)
_POD_IDENTITY = Kept(
    (
        Field(
            "provider",
            "provider",
            Text(choices=("none", "azure-workload", "gcp", "aws", "aws-eks")),
            required=True,
            doc="Cloud whose identity is used.",
        ),
        _text("identityId", "Azure: client id."),
        _text("identityTenantId", "Azure: tenant."),
        _text("identityAuthorityHost", "Azure: authority."),
        _text("roleArn", "AWS: role to assume."),
        _text("externalID", "AWS: external id of the role."),
        Field(
            "identityOwner",
            "identityOwner",
            Text(choices=("keda", "workload")),
            doc="AWS: whose identity it is.",
        ),
    )
)
_POD_IDENTITY_FIELD = Field("podIdentity", "podIdentity", _POD_IDENTITY, doc="Identity to use.")
_VAULT = Kept(
    (
        _text("address", "URL of the server.", required=True),
        Field(
            "authentication",
            "authentication",
            Text(choices=("token", "kubernetes")),
            required=True,
            doc="How to log in.",
        ),
        _text("namespace", "Vault namespace."),
        _text("role", "Role to log in with."),
        _text("mount", "Path of the login method."),
        Field(
            "credential",
            "credential",
            Kept(
                (
                    _text("token", "Token to log in with."),
                    _text("serviceAccount", "File with the token of a service account."),
                    _text("serviceAccountName", "Service account whose token is asked for."),
                )
            ),
            doc="What to log in with.",
        ),
        Field(
            "secrets",
            "secrets",
            Items(
                Kept(
                    (
                        _PARAMETER,
                        _text("path", "Path of the secret.", required=True),
                        _text("key", "Entry in it.", required=True),
                        Field(
                            "type",
                            "type",
                            Text(choices=("", "secretV2", "secret", "pki")),
                            doc="Kind of secret; default: found out.",
                        ),
                        Field(
                            "pkiData",
                            "pkiData",
                            Kept(
                                tuple(
                                    _text(name, "Field of the certificate.")
                                    for name in (
                                        "commonName",
                                        "altNames",
                                        "ipSans",
                                        "uriSans",
                                        "otherSans",
                                        "ttl",
                                        "format",
                                    )
                                )
                            ),
                            doc="For pki: what the certificate says.",
                        ),
                    )
                )
            ),
            required=True,
            doc="Parameters and where they are.",
        ),
    )
)
_AZURE = Kept(
    (
        _text("vaultUri", "URL of the vault.", required=True),
        Field(
            "secrets",
            "secrets",
            Items(Kept((_PARAMETER, _text("name", "Name.", required=True), _text("version", "Version.")))),
            required=True,
            doc="Parameters and where they are.",
        ),
        Field(
            "credentials",
            "credentials",
            Kept(
                (
                    _text("clientId", "Client.", required=True),
                    _text("tenantId", "Tenant.", required=True),
                    Field("clientSecret", "clientSecret", _SECRET_KEY, required=True, doc="Its secret."),
                )
            ),
            doc="What to log in with.",
        ),
        _POD_IDENTITY_FIELD,
        Field(
            "cloud",
            "cloud",
            Kept(
                (
                    _text("type", "Cloud, or Private.", required=True),
                    _text("keyVaultResourceURL", "For Private: resource."),
                    _text("activeDirectoryEndpoint", "For Private: login."),
                )
            ),
            doc="Which Azure it is.",
        ),
    )
)
_GCP = Kept(
    (
        Field(
            "secrets",
            "secrets",
            Items(Kept((_PARAMETER, _text("id", "Name.", required=True), _text("version", "Version.")))),
            required=True,
            doc="Parameters and where they are.",
        ),
        Field(
            "credentials",
            "credentials",
            Kept((Field("clientSecret", "clientSecret", _SECRET_KEY, required=True, doc="Its secret."),)),
            doc="What to log in with.",
        ),
        _POD_IDENTITY_FIELD,
    )
)
_AWS = Kept(
    (
        Field(
            "secrets",
            "secrets",
            Items(
                Kept(
                    (
                        _PARAMETER,
                        _text("name", "Name.", required=True),
                        _text("versionId", "Version."),
                        _text("versionStage", "Stage."),
                        _text("secretKey", "Entry in it."),
                    )
                )
            ),
            required=True,
            doc="Parameters and where they are.",
        ),
        Field(
            "credentials",
            "credentials",
            Kept(
                (
                    Field("accessKey", "accessKey", _SECRET_KEY, required=True, doc="Access key."),
                    Field(
                        "accessSecretKey", "accessSecretKey", _SECRET_KEY, required=True, doc="Its secret."
                    ),
                    Field("accessToken", "accessToken", _SECRET_KEY, doc="Session token."),
                )
            ),
            doc="What to log in with.",
        ),
        _POD_IDENTITY_FIELD,
        _text("region", "Region."),
    )
)
_OAUTH2 = Kept(
    (
        Field(
            "type",
            "type",
            Text(choices=("clientCredentials",)),
            doc="Grant; default clientCredentials.",
            default="clientCredentials",
        ),
        _text("clientId", "Client.", required=True),
        Field("clientSecret", "clientSecret", _SECRET_KEY, required=True, doc="Its secret."),
        _text("tokenUrl", "URL that gives tokens.", required=True),
        Field("scopes", "scopes", Items(_TEXT), doc="Scopes to ask for."),
        Field("tokenUrlParams", "tokenUrlParams", Mapped(_TEXT), doc="Further parameters of the request."),
    )
)
_SOURCES = (
    Field("podIdentity", "pod_identity", _POD_IDENTITY, doc="Identity to use."),
    Field(
        "env",
        "env",
        Items(
            Record(
                model.EnvTarget,
                (
                    _PARAMETER,
                    Field("name", "name", _TEXT, required=True, doc="Variable."),
                    Field("containerName", "container", _TEXT, doc="Container; default the first."),
                ),
            )
        ),
        doc="Parameters from variables of the target.",
    ),
    Field("configMapTargetRef", "config_map_targets", _KEY_TARGETS, doc="Parameters from ConfigMaps."),
    Field("secretTargetRef", "secret_targets", _KEY_TARGETS, doc="Parameters from Secrets."),
    Field("hashiCorpVault", "vault", _VAULT, doc="Parameters from HashiCorp Vault."),
    Field("azureKeyVault", "azure_key_vault", _AZURE, doc="Parameters from Azure Key Vault."),
    Field("gcpSecretManager", "gcp_secret_manager", _GCP, doc="Parameters from GCP Secret Manager."),
    Field("awsSecretManager", "aws_secret_manager", _AWS, doc="Parameters from AWS Secrets Manager."),
    Field(
        "boundServiceAccountToken",
        "service_account_tokens",
        Items(Kept((_PARAMETER, _text("serviceAccountName", "Service account.", required=True)))),
        doc="Parameters that are tokens of service accounts.",
    ),
    Field("oauth2", "oauth2", _OAUTH2, doc="A token from an OAuth 2 server."),
)
TRIGGER_AUTHENTICATION: TableVerbs[model.TriggerAuthentication] = TableVerbs(
    API_VERSION,
    "TriggerAuthentication",
    Record(model.TriggerAuthentication, _SOURCES),
    rules=authentication_rules,
    required=True,
)
"""The verbs of TriggerAuthentication."""

CLUSTER_TRIGGER_AUTHENTICATION: TableVerbs[model.TriggerAuthentication] = TableVerbs(
    API_VERSION,
    "ClusterTriggerAuthentication",
    Record(
        model.TriggerAuthentication,
        (
            *_SOURCES,
            Field(
                "filePath",
                "file_path",
                _TEXT,
                doc="File with a JSON map of parameters, relative; replaces all other sources.",
            ),
        ),
    ),
    rules=authentication_rules,
    required=True,
)
"""The verbs of ClusterTriggerAuthentication."""
