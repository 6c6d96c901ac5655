"""Real servers for tests, demos and benchmarks, started on free ports and ended with the caller."""
