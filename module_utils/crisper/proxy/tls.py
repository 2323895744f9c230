"""The certificate of the front door: read, judged, made, put in place.

Standard library, the command ``openssl``, and Python 3.8. Role ``tls`` also installs this file on
the server, where an ACME client runs it after a renewal: ``python3 -m crisper.proxy.tls
<settings.json>``.
Everything that nginx reads is one file, ``front.pem`` (certificate, chain, key): it is replaced
whole, so that certificate and key always fit each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from ..lock import LockedError, take
    from ..process import Captured, capture
    from ..text import quote_output
except ImportError:  # in the folder of the hook, which is no package
    from ..lock import LockedError, take
    from ..process import Captured, capture
    from ..text import quote_output

FRONT = "front.pem"
# How certificates that were made here are known again.
MARK = "O=crisper self-signed"
DAY = 86400.0
# Exit code of the reload command when nginx refuses its configuration.
REFUSED = 3
# Seconds of one attempt to reload nginx.
RELOAD_SECONDS = 120.0
# Seconds between two looks at the lock of a deploy, and between two attempts to reload nginx.
PAUSE = 5.0
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
    """The reason why there is no certificate to work with."""


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
        raise ValueError(f"no {error.args[0]} in what openssl says") from error


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


def find_concerns(
    leaf: Certificate,
    source: str,
    now: float,
    renew_days: float,
    warn_days: float,
    certificate_file: str = "",
    newer: Certificate | None = None,
) -> list[str]:
    """Return what an operator must do about the installed certificate, one sentence each.

    Args:
        leaf: the installed certificate.
        source: value of ``stack_tls``.
        now: seconds since 1970.
        renew_days: days before its end at which the operator of an own certificate is warned.
        warn_days: the same for one of an ACME client, which renews earlier than that by itself.
        certificate_file: where the ACME client writes its certificate.
        newer: the certificate in that file, when it is not the installed one.
    """
    if newer is not None:
        return [
            f"nginx does not serve the certificate in {certificate_file} (until"
            f" {day(newer.ends)}): the hook of the ACME client did not run, or failed. Run the"
            " hook tls/renewed of the stack's folder, or deploy."
        ]
    if leaf.made_here and source == "acme":
        return [
            "A self-signed certificate serves, because no ACME client has written"
            f" {certificate_file}: run the client on the server (docs/SECURITY.md)."
        ]
    # A short-lived one is renewed in its last third, and overdue in its last sixth.
    days, part = (warn_days, 6) if source == "acme" else (renew_days, 3)
    days_left = (leaf.ends - now) / DAY
    if leaf.made_here or days_left >= min(days, (leaf.ends - leaf.begins) / DAY / part):
        return []
    what = f"The certificate for {', '.join(leaf.names)}"
    when = f"{'expires' if days_left > 0 else 'expired'} on {day(leaf.ends)}"
    when += f", in {days_left:.0f} days" if days_left > 0 else ""
    if source == "acme":
        return [
            f"{what} {when}, and the ACME client has not renewed it: look for the reason in its"
            " log (certbot: /var/log/letsencrypt), and run it (certbot renew)."
        ]
    return [f"{what} {when}: renew it."]


def day(moment: float) -> str:
    """Return a moment as people read it: its UTC date."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


# --- The outside: openssl and files --------------------------------------------------------


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


# --- The hook of an ACME client ---------------------------------------------------------------


@contextlib.contextmanager
def between_deploys(root: Path, patience: float) -> Iterator[None]:
    """Keep deploys of the stack in `root` from beginning, after the present one has ended.

    A deploy trusts the certificates it knows, and would count an unknown one as failed requests.
    A renewal is worth more than such a count: after `patience` seconds it goes on nevertheless.
    The two files are those of ``crisper.journal``.
    """
    deadline = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        while True:
            remaining = deadline - time.monotonic()
            try:
                guard = take(root / ".lock", fcntl.LOCK_EX, max(0.0, remaining))
            except LockedError as error:
                print(
                    f"The lock of deploys was not waited for any longer: {error}.", file=sys.stderr
                )
                break
            if remaining <= 0 or not deploying(root / "lock"):
                stack.enter_context(guard)
                break
            guard.close()
            time.sleep(PAUSE)
        yield


def deploying(lock: Path) -> bool:
    """Return whether a deploy holds the lock and counts as alive."""
    try:
        return float(json.loads(lock.read_text())["until"]) > time.time()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def reload_nginx(settings: Mapping[str, Any]) -> Captured:
    """Let nginx read its files again; repeat it for as long as nginx cannot be reached.

    Of what the container prints a megabyte is read: it may be compromised.

    An ACME client calls its hook once for each renewal. An engine that restarts in that very
    moment must not cost the certificate.
    """
    deadline = time.monotonic() + settings["reload_timeout"]
    while True:
        try:
            done = capture(settings["reload"], "", RELOAD_SECONDS, settings["project"], 1 << 20)
        except subprocess.TimeoutExpired:
            done = Captured(124, "", f"no end within {RELOAD_SECONDS:g} s")
        if done.returncode in (0, REFUSED) or time.monotonic() >= deadline:
            return done
        time.sleep(PAUSE)


def renewed(settings: Mapping[str, Any]) -> str:
    """Take what the ACME client has brought and let nginx read it; return what is in force.

    Raises:
        TlsError: it is unfit, or nginx refuses it (the one from before stays); or nginx could not
            be reached (it reads the new one when it starts).
    """
    where = settings["certificate_file"]
    try:
        certificate = Path(where).read_text()
        key = Path(settings["key_file"]).read_text()
    except OSError as error:
        raise TlsError(f"{error.filename}: {error.strerror}; see stack_tls_certificate.") from error
    pem, leaf = pair(certificate, key, settings["names"], time.time(), where)
    folder = Path(settings["folder"])
    with between_deploys(Path(settings["root"]), settings["patience"]):
        before = installed(folder)
        if before != pem:
            install(folder, pem, settings["uid"])
        # Also when nothing changed: whoever put it there may have failed to reload nginx.
        done = reload_nginx(settings)
        output = quote_output((done.stderr or done.stdout).strip()[-500:])
        if done.returncode == REFUSED and before:
            install(folder, before, settings["uid"])
            raise TlsError(f"nginx refuses {where}; the certificate from before stays. {output}")
    if done.returncode != 0:
        raise TlsError(f"nginx did not read {where}: start it, or run this hook again. {output}")
    return f"in force: {', '.join(leaf.names)} until {day(leaf.ends)}"


def main() -> int:
    """Run once, with the settings named on the command line."""
    try:
        print(renewed(json.loads(Path(sys.argv[1]).read_text())))
    except (TlsError, OSError) as error:
        print(f"The new certificate is not in force: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
