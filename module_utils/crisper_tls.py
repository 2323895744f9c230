"""The certificate of the front door: read, judged, made, put in place.

Standard library, the command ``openssl``, and Python 3.8. Role ``tls`` also installs this file on
the server, where an ACME client runs it after a renewal: ``crisper_tls.py <settings.json>``.
Everything that nginx reads is one file, ``front.pem`` (certificate, chain, key): it is replaced
whole, so that certificate and key always fit each other.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FRONT = "front.pem"
# How certificates that were made here are known again.
MARK = "O=crisper self-signed"
DAY = 86400.0
BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n.+?\n-----END \1-----", re.DOTALL)
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
    """There is no certificate to work with, and why."""


@dataclass(frozen=True)
class Certificate:
    """What of a certificate counts here; moments in seconds since 1970."""

    names: tuple[str, ...]
    begins: float
    ends: float
    subject: str
    issuer: str

    @property
    def made_here(self) -> bool:
        """Whether it is a self-signed one of this module."""
        return self.subject == self.issuer and MARK in self.subject

    def covers(self, name: str) -> bool:
        """Whether a browser takes it for `name` (RFC 6125: `*` stands for one whole label)."""
        wanted = canonical(name)
        return any(
            own == wanted or (own.startswith("*.") and own[2:] == wanted.partition(".")[2])
            for own in map(canonical, self.names)
        )


def canonical(name: str) -> str:
    """A name or address as two spellings of it compare equal."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower().rstrip(".")


def parse(text: str) -> Certificate:
    """A certificate in the words of ``openssl x509 -subject -issuer -dates -ext …``.

    Raises:
        ValueError: the text is something else.
    """
    facts = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    alternatives = text.partition("Subject Alternative Name:")[2]
    names = re.findall(r"(?:DNS|IP Address):([^\s,]+)", alternatives)
    try:
        return Certificate(
            names=tuple(names),
            begins=float(ssl.cert_time_to_seconds(facts["notBefore"])),
            ends=float(ssl.cert_time_to_seconds(facts["notAfter"])),
            subject=facts["subject"],
            issuer=facts["issuer"],
        )
    except KeyError as error:
        raise ValueError(f"no {error.args[0]} in what openssl says") from error


def blocks(pem: str) -> tuple[list[str], list[str]]:
    """Certificates and private keys of a PEM text, in their order; all else is left out."""
    found = [(m[1], m[0] + "\n") for m in BLOCK.finditer(pem.replace("\r\n", "\n"))]
    certificates = [text for kind, text in found if kind == "CERTIFICATE"]
    return certificates, [text for kind, text in found if kind.endswith("PRIVATE KEY")]


def judge(chain: Sequence[Certificate], names: Iterable[str], now: float, where: str) -> list[str]:
    """What is wrong with a certificate and its chain, one sentence each, with the remedy."""
    leaf = chain[0]
    problems = []
    if leaf.ends <= now:
        problems.append(f"{where} expired on {day(leaf.ends)}: renew it.")
    if leaf.begins > now:
        problems.append(
            f"{where} is valid from {day(leaf.begins)} only: wait, or set the server's clock."
        )
    missing = [name for name in names if not leaf.covers(name)]
    if missing:
        problems.append(
            f"{where} is for {', '.join(leaf.names) or 'no name'}, not for {', '.join(missing)}:"
            " have it made for every name of stack_server_names, or correct those."
        )
    for number in range(1, len(chain)):
        if chain[number - 1].issuer != chain[number].subject:
            problems.append(
                f"{where}: its certificate {number} is not issued by number {number + 1}: put the"
                " server's own first, then each one's issuer, as a file fullchain.pem has them."
            )
    return problems


def wanted(
    source: str,
    installed: Certificate | None,
    given: bool,
    names: Iterable[str],
    now: float,
    renew_days: float,
) -> str:
    """What becomes of the installed certificate: ``given``, ``make`` a self-signed one, ``keep``.

    Until an ACME client has brought a certificate (`given`), a self-signed one stands in, unless
    a real one is there from before.
    """
    if given:
        return "given"
    if installed is None:
        return "make"
    if not installed.made_here:
        return "keep" if source == "acme" else "make"
    fresh = installed.begins <= now and installed.ends - now > renew_days * DAY
    return "keep" if fresh and all(map(installed.covers, names)) else "make"


def day(moment: float) -> str:
    """A moment as people read it: its UTC date."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


# --- The outside: openssl and files --------------------------------------------------------


def openssl(*arguments: str, data: str = "") -> str:
    """What an openssl command says.

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
    """One certificate (PEM).

    Raises:
        TlsError: openssl cannot read it.
    """
    shown = ("-noout", "-nameopt", "RFC2253", "-subject", "-issuer", "-dates")
    return parse(openssl("x509", *shown, "-ext", "subjectAltName", data=certificate))


def fits(pem: str) -> str:
    """Why a server cannot use certificate and key of a PEM text; empty when it can."""
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
    """Certificate and key of somebody else as one PEM text, and what it says.

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
    unfit = fits(pem)
    if unfit:
        problems.append(f"{where}: {unfit}.")
    if problems:
        raise TlsError(" ".join(problems))
    return pem, chain[0]


def self_signed(names: Sequence[str], days: int) -> str:
    """A new certificate with its key, PEM; ECDSA on P-256, for all the names."""
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
    """What nginx reads (PEM, with the key); empty when there is nothing yet."""
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


# --- The hook of an ACME client ---------------------------------------------------------------


def renewed(settings: Mapping[str, Any]) -> str:
    """Take what the ACME client has brought and let nginx read it; what is told of it.

    Raises:
        TlsError: it is unfit (nothing was changed), or nginx did not read it.
    """
    where = settings["certificate_file"]
    try:
        certificate = Path(where).read_text()
        key = Path(settings["key_file"]).read_text()
    except OSError as error:
        raise TlsError(f"{error.filename}: {error.strerror}; see stack_tls_certificate.") from error
    pem, leaf = pair(certificate, key, settings["names"], time.time(), where)
    folder = Path(settings["folder"])
    told = f"{', '.join(leaf.names)} until {day(leaf.ends)}"
    if installed(folder) == pem:
        return f"unchanged: {told}"
    install(folder, pem, settings["uid"])
    done = subprocess.run(
        settings["reload"], cwd=settings["project"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise TlsError(f"nginx did not read {where}: {(done.stderr or done.stdout).strip()[-500:]}")
    return f"in force: {told}"


def main() -> int:
    """Run once, with the settings named on the command line."""
    try:
        print(renewed(json.loads(Path(sys.argv[1]).read_text())))
    except TlsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
