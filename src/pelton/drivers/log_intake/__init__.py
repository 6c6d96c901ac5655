"""`bindings.logs`: log files and what log shippers send; `records.py` says what a record is."""

from pelton.drivers.log_intake.bus import LogsBus

__all__ = ["LogsBus"]
