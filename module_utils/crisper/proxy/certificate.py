"""A certificate as data: what is wrong with it, and what to do about it.

Pure functions, for Python 3.8: the hook of an ACME client uses them on the server
(``proxy.tls_hook``).
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# How certificates that were made here are known again.
MARK = "O=crisper self-signed"
DAY = 86400.0
BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n.+?\n-----END \1-----", re.DOTALL)


@dataclass(frozen=True)
class Certificate:
    """The parts of a certificate that count here; moments in seconds since 1970."""

    names: tuple[str, ...]
    begins: float
    ends: float
    subject: str
    issuer: str

    @property
    def made_here(self) -> bool:
        """True for a self-signed certificate of this module."""
        return self.subject == self.issuer and MARK in self.subject

    def covers(self, name: str) -> bool:
        """Return whether browsers take it for `name` (RFC 6125: `*` stands for one whole label)."""
        wanted = canonical(name)
        return any(
            own == wanted or (own.startswith("*.") and own[2:] == wanted.partition(".")[2])
            for own in map(canonical, self.names)
        )


def canonical(name: str) -> str:
    """Return a name or address so that two spellings of it compare equal."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower().rstrip(".")


def parse(text: str) -> Certificate:
    """Return a certificate from the words of ``openssl x509 -subject -issuer -dates -ext …``.

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
        raise ValueError(f"the output of openssl has no {error.args[0]}") from error


def blocks(pem: str) -> tuple[list[str], list[str]]:
    """Return certificates and private keys of a PEM text, in their order, and nothing else."""
    found = [(m[1], m[0] + "\n") for m in BLOCK.finditer(pem.replace("\r\n", "\n"))]
    certificates = [text for kind, text in found if kind == "CERTIFICATE"]
    return certificates, [text for kind, text in found if kind.endswith("PRIVATE KEY")]


def judge(chain: Sequence[Certificate], names: Iterable[str], now: float, where: str) -> list[str]:
    """Return what is wrong with a certificate and its chain, one sentence each, with the remedy."""
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


def choose_action(
    source: str,
    installed: Certificate | None,
    supplied: bool,
    names: Iterable[str],
    now: float,
    renew_days: float,
) -> str:
    """Return what to do with the installed certificate: take the ``given``, ``make`` one, ``keep``.

    Until an ACME client has brought a certificate (`supplied`), a self-signed one stands in, unless
    a real one is there from before. An expired one is none: with it no deploy could be verified,
    and without a deploy nginx would answer no challenge.
    """
    if supplied:
        return "given"
    if installed is None:
        return "make"
    if not installed.made_here:
        return "keep" if source == "acme" and installed.ends > now else "make"
    fresh = installed.begins <= now and installed.ends - now > renew_days * DAY
    return "keep" if fresh and all(map(installed.covers, names)) else "make"


@dataclass(frozen=True)
class Renewal:
    """Source and dates of renewal of the installed certificate.

    Attributes:
        source: value of ``stack_tls``.
        renew_days: days before its end at which the operator of an own certificate is warned.
        warn_days: the same for one of an ACME client, which renews earlier than that by itself.
        certificate_file: where the ACME client writes its certificate.
    """

    source: str
    renew_days: float
    warn_days: float
    certificate_file: str = ""


def find_concerns(
    leaf: Certificate, renewal: Renewal, now: float, newer: Certificate | None = None
) -> list[str]:
    """Return what an operator must do about the installed certificate, one sentence each.

    Args:
        leaf: the installed certificate.
        renewal: how it is renewed.
        now: seconds since 1970.
        newer: the certificate in the file of the ACME client, when it is not the installed one.
    """
    if newer is not None:
        return [
            f"nginx does not serve the certificate in {renewal.certificate_file} (until"
            f" {day(newer.ends)}): the hook of the ACME client did not run, or failed. Run the"
            " hook tls/renewed of the stack's folder, or deploy."
        ]
    if leaf.made_here and renewal.source == "acme":
        return [
            "A self-signed certificate serves, because no ACME client has written"
            f" {renewal.certificate_file}: run the client on the server (docs/SECURITY.md)."
        ]
    return [] if leaf.made_here else _expiry_concerns(leaf, renewal, now)


def _expiry_concerns(leaf: Certificate, renewal: Renewal, now: float) -> list[str]:
    """Return the warning of a certificate that ends soon, or has ended."""
    acme = renewal.source == "acme"
    # A short-lived one is renewed in its last third, and overdue in its last sixth.
    days, part = (renewal.warn_days, 6) if acme else (renewal.renew_days, 3)
    days_left = (leaf.ends - now) / DAY
    if days_left >= min(days, (leaf.ends - leaf.begins) / DAY / part):
        return []
    what = f"The certificate for {', '.join(leaf.names)}"
    when = f"{'expires' if days_left > 0 else 'expired'} on {day(leaf.ends)}"
    when += f", in {days_left:.0f} days" if days_left > 0 else ""
    if acme:
        return [
            f"{what} {when}, and the ACME client has not renewed it: look for the reason in its"
            " log (certbot: /var/log/letsencrypt), and run it (certbot renew)."
        ]
    return [f"{what} {when}: renew it."]


def day(moment: float) -> str:
    """Return a moment as people read it: its UTC date."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
