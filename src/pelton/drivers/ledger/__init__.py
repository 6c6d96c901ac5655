"""An app's ledger without a platform."""

from pelton.drivers.ledger.bus import SqliteLedger
from pelton.drivers.ledger.file import MAX_BYTES

__all__ = ["MAX_BYTES", "SqliteLedger"]
