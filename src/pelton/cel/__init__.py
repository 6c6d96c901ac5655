"""The Common Expression Language with the libraries of Kubernetes, typed and with a cost for every step.

`compile_cel` is the entrance; types for its variables are in `types.py`, values that Python lacks in
`values.py`, the authorizer of admission expressions in `policies.py`. Pure, and without a policy of its
own. Source: the CEL language definition, Kubernetes' CEL environment; contracts operator-webhook.md 5.2.
"""

from pelton.cel.estimate import MAX_REQUEST_BYTES
from pelton.cel.policies import AUTHORIZER, Authorizer
from pelton.cel.program import DEFAULT_BUDGET, Program, compile_cel
from pelton.cel.syntax import RESERVED
from pelton.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    UINT,
    Field,
    Type,
    list_of,
    map_of,
    object_of,
    optional_of,
)
from pelton.cel.values import NOTHING, OptionalValue, adapt, needs_adapting

__all__ = [
    "AUTHORIZER",
    "BOOL",
    "BYTES",
    "DEFAULT_BUDGET",
    "DOUBLE",
    "DURATION",
    "DYN",
    "INT",
    "MAX_REQUEST_BYTES",
    "NOTHING",
    "NULL",
    "RESERVED",
    "STRING",
    "TIMESTAMP",
    "UINT",
    "Authorizer",
    "Field",
    "OptionalValue",
    "Program",
    "Type",
    "adapt",
    "compile_cel",
    "list_of",
    "map_of",
    "needs_adapting",
    "object_of",
    "optional_of",
]
