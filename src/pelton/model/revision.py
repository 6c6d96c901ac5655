"""Builder and Serving: the objects that record one build and one revision of a Function.

`manifest/openfunction_revisions` reads and writes them; `controlplane/` makes them from Functions. What a
build or a serving is made of is in `model/function`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelton.model.function import Build, Serving

__all__ = ["BuilderResource", "ServingResource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuilderResource:
    """One build.

    Attributes:
        name, namespace: Which; namespace "" when the manifest does not say.
        labels, annotations: Of the resource itself.
        image: Where the result goes.
        image_credentials: Secret for pushing, or None; "" when the reference names nothing.
        state: `Cancelled` asks to end an unfinished build; "" else.
        build: As in the Function that it was made from.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    image: str = ""
    image_credentials: str | None = None
    state: str = ""
    build: Build = field(default_factory=Build)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingResource:
    """One revision.

    Attributes:
        name, namespace, labels, annotations: As in BuilderResource; labels and annotations of the workload
            are those of `serving`.
        version: `latest` unless the user named one; "" when absent.
        image: What runs.
        image_credentials: Secret for pulling, as in BuilderResource.
        serving: As in the Function that it was made from.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    version: str = ""
    image: str = ""
    image_credentials: str | None = None
    serving: Serving = field(default_factory=Serving)
