"""The embedded Kubernetes-shaped API server."""
