"""Certificates as files: read and made by ``openssl``, installed where nginx reads them.

Standard library, the command ``openssl``, and Python 3.8: the hook of an ACME client uses this on
the server (``proxy.tls_hook``).
Everything that nginx reads is one file, ``front.pem`` (certificate, chain, key): it is replaced
whole, so that certificate and key always belong to each other.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from .certificate import MARK, Certificate, blocks, judge, parse

FRONT = "front.pem"
# As `openssl req` takes it; Python's strict checks and browsers want these extensions.
REQUEST = """\
[req]
prompt = no
distinguished_name = subject
x509_extensions = extensions
[subject]
{mark}
CN = {name}
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
subjectAltName = {names}
"""


class TlsError(RuntimeError):
    """The reason why there is no certificate to work with."""


def openssl(*arguments: str, data: str = "") -> str:
    """Return what an openssl command prints.

    Raises:
        TlsError: it failed, or there is none.
    """
    try:
        done = subprocess.run(
            ["openssl", *arguments], input=data, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise TlsError("openssl is missing on the server: apt-get install openssl.") from error
    if done.returncode != 0:
        raise TlsError(f"openssl {arguments[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def read(certificate: str) -> Certificate:
    """Return the data of a certificate (PEM).

    Raises:
        TlsError: openssl cannot read it.
    """
    options = ("-noout", "-nameopt", "RFC2253", "-subject", "-issuer", "-dates")
    return parse(openssl("x509", *options, "-ext", "subjectAltName", data=certificate))


def pair_problem(pem: str) -> str:
    """Return why a server cannot use certificate and key of a PEM text; empty if it can."""
    with tempfile.NamedTemporaryFile("w", prefix="crisper-tls-") as stream:  # mode 0600
        stream.write(pem)
        stream.flush()
        try:
            # A password is never asked for: nginx could not give one either.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                stream.name, password=lambda: ""
            )
        except (ssl.SSLError, ValueError, OSError) as error:
            reason = getattr(error, "reason", None) or str(error)
            if reason == "KEY_VALUES_MISMATCH":
                return "the key does not belong to the certificate"
            return f"the key cannot be used ({reason}): it must be PEM without a passphrase"
    return ""


def pair(
    certificate: str, key: str, names: Iterable[str], now: float, where: str
) -> tuple[str, Certificate]:
    """Return certificate and key of somebody else as one PEM text, and the data of it.

    Args:
        certificate: PEM of the certificate and its chain.
        key: PEM of its private key.
        names: what it must be for.
        now: seconds since 1970.
        where: how the two are called in messages.

    Raises:
        TlsError: with every finding.
    """
    certificates, keys = blocks(certificate)[0], blocks(key)[1]
    if not certificates:
        raise TlsError(f"{where}: there is no certificate (PEM) in it.")
    if len(keys) != 1:
        raise TlsError(f"{where}: its key file holds {len(keys)} private keys (PEM), not one.")
    pem = "".join([*certificates, *keys])
    chain = [read(text) for text in certificates]
    problems = judge(chain, names, now, where)
    unfit = pair_problem(pem)
    if unfit:
        problems.append(f"{where}: {unfit}.")
    if problems:
        raise TlsError(" ".join(problems))
    return pem, chain[0]


def self_signed(names: Sequence[str], days: int) -> str:
    """Make a certificate with its key, PEM; ECDSA on P-256, for all the names."""
    spelled = [f"{'IP' if _is_address(name) else 'DNS'}:{name}" for name in names]
    text = REQUEST.format(
        mark=MARK.replace("=", " = "), name=names[0][:64], names=", ".join(spelled)
    )
    with tempfile.TemporaryDirectory(prefix="crisper-tls-") as folder:
        config, key, certificate = (str(Path(folder, name)) for name in ("config", "key", "cert"))
        Path(config).write_text(text)
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        files = ("-config", config, "-keyout", key, "-out", certificate)
        openssl("req", "-x509", "-sha256", *kind, "-days", str(days), *files)
        return Path(certificate).read_text() + Path(key).read_text()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def installed(folder: Path) -> str:
    """Return what nginx reads (PEM, with the key); empty if there is nothing yet."""
    try:
        return (folder / FRONT).read_text()
    except FileNotFoundError:
        return ""


def install(folder: Path, pem: str, uid: int) -> None:
    """Put it in place, whole, for `uid` alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{FRONT}.{os.getpid()}"
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(draft, flags, 0o400), "w") as stream:
        stream.write(pem)
        stream.flush()
        os.fsync(stream.fileno())
    if os.geteuid() == 0:
        os.chown(draft, uid, uid)
        os.chown(folder, uid, uid)
    draft.replace(folder / FRONT)
