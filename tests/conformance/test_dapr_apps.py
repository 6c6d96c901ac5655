"""Apps on Dapr's unmodified Python SDK beside `pelton daprd` and `pelton dapr run`: events, calls, bindings.

The apps are in tests/fixtures/dapr; each is a process of its own, as is each runtime.
"""
