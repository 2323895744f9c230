"""Addresses as the kernel writes them in ``/proc/net/tcp`` and ``tcp6``. Python 3.8+."""

from __future__ import annotations

import ipaddress


def socket_address(text: str) -> tuple[str, int]:
    """Return ('127.0.0.1', 5432) of '0100007F:1538': words of 32 bits, in little endian order.

    An IPv4 address within an IPv6 one is given as itself; Pythons spell it differently.

    Raises:
        ValueError: the text is no such address.
    """
    number, _colon, port = text.rpartition(":")
    words = [bytes.fromhex(number[at : at + 8])[::-1] for at in range(0, len(number), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return str(getattr(address, "ipv4_mapped", None) or address), int(port, 16)
