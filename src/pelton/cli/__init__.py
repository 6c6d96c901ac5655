"""One file per process or command: the only place that wires parts together."""
