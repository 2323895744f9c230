"""Certificates for tests: as data, as a CA or an ACME client brings them, and as installed."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tls_certificate
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate import (
    DAY,
    MARK,
    Certificate,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st

NOW = time.time()
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


def subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def issued(*names: str, days: float = 90, begins: float = -1, by: str = "") -> tuple[str, str]:
    """Return a certificate and its key (PEM), as a CA would issue it."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject(names[0] if names else "nobody"))
        .issuer_name(subject(by or "Test CA"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=days))
    )
    if names:
        spelled = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        made = made.add_extension(spelled, critical=False)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    return pem, key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def put(run_module: Any, path: Path, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Install a certificate for a.example by the module; return what it returns."""
    options = {"path": str(path), "state": "present", "names": ["a.example"], **arguments}
    return run_module(tls_certificate, check_mode=check, **options)


def leaf(*names: str, begins: float = NOW - 1, ends: float = NOW + 90 * DAY, here=False):
    who = f"CN=x,{MARK}" if here else "CN=x"
    return Certificate(names, begins, ends, who, who if here else "CN=Test CA")


def client_files(tmp_path: Path) -> dict[str, str]:
    """Return the files of an ACME client, not yet written, as arguments of the module."""
    folder = tmp_path / "client"
    folder.mkdir()
    files = {"certificate_file": str(folder / "chain"), "key_file": str(folder / "key")}
    return {"source": "acme", **files}


def bring(acme: dict[str, str], *pair: str) -> None:
    """Have the ACME client write a certificate and its key."""
    Path(acme["certificate_file"]).write_text(pair[0])
    Path(acme["key_file"]).write_text(pair[1])
