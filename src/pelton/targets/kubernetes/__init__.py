"""Kubernetes as a place for functions: manifests in, objects of Knative, KEDA, Dapr and Shipwright out."""
