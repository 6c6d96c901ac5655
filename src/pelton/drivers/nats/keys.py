"""Keys of NATS users: an Ed25519 seed in the server's own writing, for `jwt` and `seedKey`.

Pure but for the library's key object. Called by `link.py`.
Source: NATS' nkeys: base32 of a prefix of two bytes, the seed, and a CRC-16 (XMODEM, little endian).
"""

from __future__ import annotations

import base64
import binascii

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pelton.errors import ComponentError

__all__ = ["signing_key"]


def signing_key(seed: str, *, where: str) -> Ed25519PrivateKey:
    """Return the key of a seed such as `SUAB...`.

    Raises:
        ComponentError: It is none; the message does not show it.
    """
    text = seed.strip()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    # A seed's first five bits are those of "S", the next ones say whose it is.
    if (
        len(raw) != 36
        or raw[0] & 0xF8 != 18 << 3
        or binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little") != raw[-2:]
    ):
        raise ComponentError(
            "metadata `seedKey` is no seed",
            where=where,
            hint="It is the text that begins with SU in a .creds file.",
        ) from None
    return Ed25519PrivateKey.from_private_bytes(raw[2:34])
