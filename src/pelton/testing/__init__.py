"""Shipped test tools: clocks, in-memory platform, contract suites."""
