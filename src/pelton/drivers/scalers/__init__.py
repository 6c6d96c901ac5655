"""Scalers that need no client library of their own: over HTTP, over gRPC, and the clock.

Implement `ports.Scaler`; what their numbers mean is said in `autoscale/scalers`, which type has which class
in `cli/tables.py`. Scalers of Kafka, Redis, AMQP and PostgreSQL are with the drivers that own the libraries.
"""
