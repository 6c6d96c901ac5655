"""Dapr: the runtime that apps call and that calls apps, one for any number of them."""
