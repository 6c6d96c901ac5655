"""What `pelton up` prints when it is ready."""

from __future__ import annotations

from pelton.cli.home import Endpoints, Home

__all__ = ["announcement"]


def announcement(home: Home, endpoints: Endpoints) -> str:
    """Return the lines, each with its end: where things are, and what to do next."""
    lines = (
        f"Pelton is up on {home.path}",
        f"  gateway     {endpoints.gateway}" + (f"   {endpoints.https}" if endpoints.https else ""),
        f"  api         {endpoints.api}",
        f"  alerts      {endpoints.notify}/api/v2/alerts",
        f"  kubectl     kubectl --kubeconfig {endpoints.kubeconfig} get functions",
        "  next        pelton init hello && pelton deploy hello && pelton invoke hello",
    )
    return "".join(f"{line}\n" for line in lines)
