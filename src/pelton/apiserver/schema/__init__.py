"""Schemas of custom resources: structural rules, defaults, pruning, validation and CEL rules.

`structural.check` and `rules.check_rules` judge a definition; `SchemaChecks` judges its objects. All pure;
the registry and the controller of definitions call this. Source: contracts operator-webhook.md 5.1 and 5.2.
"""

from pelton.apiserver.schema.checks import SchemaChecks
from pelton.apiserver.schema.node import parse
from pelton.apiserver.schema.rules import check_rules
from pelton.apiserver.schema.structural import check, drop_unknown_keywords, unknown_keywords

__all__ = ["SchemaChecks", "check", "check_rules", "drop_unknown_keywords", "parse", "unknown_keywords"]
