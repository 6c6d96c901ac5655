"""Pelton: event-driven functions on one machine and on Kubernetes with the same manifests."""

__version__ = "0.1.0"
