"""One machine: supervisor, Envoy, NATS and the local target."""
