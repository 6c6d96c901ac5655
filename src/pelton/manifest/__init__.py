"""How it is written: YAML and JSON to model and back, one file per API group."""
