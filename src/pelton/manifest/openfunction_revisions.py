"""Builder and Serving of core.openfunction.io/v1beta2: one build, one revision.

Called through `manifest/kinds`; `controlplane/` makes these objects from Functions, so their parts have the
fields of `manifest/openfunction_fields` and the rules of `manifest/openfunction_rules`, without the prefix
`spec.build` or `spec.serving`. Source: contracts, OpenFunction, section 2.6.
"""

from __future__ import annotations

from pelton.manifest import openfunction_v1beta1
from pelton.manifest.fields import Inlined, Problem
from pelton.manifest.openfunction_fields import BUILD, BUILDER_FIELDS, SERVING, SERVING_FIELDS
from pelton.manifest.openfunction_rules import build_rules, serving_rules
from pelton.manifest.verbs import TableVerbs
from pelton.model.revision import BuilderResource, ServingResource

__all__ = ["API_VERSION", "BUILDER", "SERVING_KIND"]

API_VERSION = "core.openfunction.io/v1beta2"

_BUILDER_SPEC = Inlined(BuilderResource, "build", BUILD, BUILDER_FIELDS)
_SERVING_SPEC = Inlined(ServingResource, "serving", SERVING, SERVING_FIELDS)


def _image(image: str, credentials: str | None) -> list[Problem]:
    problems = [] if image else [Problem("spec.image", "required")]
    if credentials == "":
        problems.append(Problem("spec.imageCredentials.name", "required when spec.imageCredentials is given"))
    return problems


def _builder_rules(builder: BuilderResource) -> list[Problem]:
    problems = [*_image(builder.image, builder.image_credentials), *build_rules(builder.build, "spec")]
    if builder.state not in ("", "Cancelled"):
        problems.append(Problem("spec.state", f'must be Cancelled or absent, found "{builder.state}"'))
    return problems


def _serving_rules(serving: ServingResource) -> list[Problem]:
    return [*_image(serving.image, serving.image_credentials), *serving_rules(serving.serving, "spec")]


BUILDER: TableVerbs[BuilderResource] = TableVerbs(
    API_VERSION,
    "Builder",
    _BUILDER_SPEC,
    rules=_builder_rules,
    required=True,
    older=(openfunction_v1beta1.BUILDER,),
)
"""The verbs of Builder."""

SERVING_KIND: TableVerbs[ServingResource] = TableVerbs(
    API_VERSION,
    "Serving",
    _SERVING_SPEC,
    rules=_serving_rules,
    required=True,
    older=(openfunction_v1beta1.SERVING,),
)
"""The verbs of Serving."""
