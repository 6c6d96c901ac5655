"""KEDA's scalers without their input and output: metadata read into settings, raw numbers into values.

One file per scaler. `table.py` finds the reader of a type, `parameters.py` looks parameters up,
`authentication.py` and `environment.py` gather them from other objects, `joined.py` brings what was read to
`autoscale/keda.py`. Connections are made by the drivers. Pure.

Source: contracts, autoscaling section 4.
"""
