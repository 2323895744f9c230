"""Files of a set, written and read: plain, or through age or gpg, never plain on the disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .crisper_backup import BackupError

ENCRYPT = {
    "age": ["age", "--encrypt", "--recipients-file", "{key}"],
    "gpg": [
        *("gpg", "--batch", "--no-tty", "--quiet", "--homedir", "{home}"),
        *("--trust-model", "always", "--recipient-file", "{key}", "--encrypt"),
    ],
}
DECRYPT = {
    "age": ["age", "--decrypt", "--identity", "{key}"],
    "gpg": ["gpg", "--batch", "--no-tty", "--quiet", "--homedir", "{home}", "--decrypt"],
}


@contextmanager
def _home(tool: str) -> Iterator[str]:
    """A keyring of its own for gpg, gone afterwards with its agent."""
    home = tempfile.mkdtemp(prefix="crisper-")
    try:
        yield home
    finally:
        if tool == "gpg":
            subprocess.run(
                ["gpgconf", "--homedir", home, "--kill", "all"], capture_output=True, check=False
            )
        shutil.rmtree(home, ignore_errors=True)


def _command(template: list[str], key: str, home: str) -> list[str]:
    if shutil.which(template[0]) is None:
        raise BackupError(
            f"{template[0]} is not installed on the server: apt-get install"
            f" {'gnupg' if template[0] == 'gpg' else template[0]}"
        )
    if not Path(key).is_file():
        raise BackupError(
            f"The key file for {template[0]} is not there: {key or 'none was given'}."
        )
    return [piece.format(key=key, home=home) for piece in template]


@contextmanager
def written(path: Path, tool: str, key: str) -> Iterator[IO[bytes]]:
    """A stream into a new file that only root reads; on the disk when it is left.

    Args:
        tool: "", "age" or "gpg".
        key: file with the recipient's public key.

    Raises:
        BackupError: the tool is missing or refuses.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        if tool:
            with _home(tool) as home, tempfile.TemporaryFile() as errors:
                command = _command(ENCRYPT[tool], key, home)
                running = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=file, stderr=errors
                )
                assert running.stdin is not None  # noqa: S101 (for the type)
                early = False
                try:
                    yield running.stdin
                except BrokenPipeError:
                    early = True
                finally:
                    try:
                        running.stdin.close()
                    except BrokenPipeError:
                        early = True
                    running.wait()
                if running.returncode != 0 or early:
                    errors.seek(0)
                    why = errors.read().decode(errors="replace").strip()[-500:]
                    raise BackupError(f"{tool} could not encrypt with {key}: {why}")
        else:
            yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def opened(path: Path, tool: str, key: str) -> Iterator[IO[bytes]]:
    """A stream out of a file of a set; what it says counts when it was read to its end.

    Args:
        tool: "", "age" or "gpg".
        key: file with the private key.

    Raises:
        BackupError: the tool is missing or cannot decrypt it.
    """
    if not tool:
        with path.open("rb") as file:
            yield file
        return
    with _home(tool) as home, tempfile.TemporaryFile() as errors, path.open("rb") as file:
        command = _command(DECRYPT[tool], key, home)

        def failed() -> BackupError:
            errors.seek(0)
            why = errors.read().decode(errors="replace").strip()[-500:]
            return BackupError(f"{path.name} cannot be decrypted by {tool} with {key}: {why}")

        if tool == "gpg":
            quiet = command[: command.index("--decrypt")]
            if subprocess.run(
                [*quiet, "--import", key], stdout=subprocess.DEVNULL, stderr=errors, check=False
            ).returncode:
                raise failed()
        running = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=errors)
        assert running.stdout is not None  # noqa: S101 (for the type)
        try:
            yield running.stdout
            # What is behind the part that was needed is authenticated too.
            while running.stdout.read(1 << 20):
                pass
        except BaseException as error:
            # A stream that broke off because it could not be decrypted is told as that.
            try:
                broken = running.wait(timeout=1) != 0
            except subprocess.TimeoutExpired:
                broken = False
                running.kill()
            if broken and isinstance(error, Exception):
                raise failed() from error
            raise
        finally:
            running.stdout.close()
            running.wait()
        if running.returncode != 0:
            raise failed()


def measured(path: Path) -> tuple[int, str] | None:
    """Size in bytes and SHA-256 (hex) of a file; None when it is missing."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
                size += len(piece)
    except FileNotFoundError:
        return None
    return size, digest.hexdigest()
