"""Files of a set, written and read: plain, or through age or gpg, never plain on the disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .free_space import Roomy
from .manifest import BackupError

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
def _commands(tool: str, key: str) -> Iterator[Callable[[list[str]], list[str]]]:
    """Yield what fills in a command's key and its own keyring, gone afterwards with its agent."""
    if shutil.which(tool) is None:
        package = "gnupg" if tool == "gpg" else tool
        raise BackupError(f"{tool} is not installed on the server: apt-get install {package}")
    if not Path(key).is_file():
        raise BackupError(f"The key file for {tool} is not there: {key or 'none was given'}.")
    home = tempfile.mkdtemp(prefix="crisper-")
    try:
        yield lambda template: [piece.format(key=key, home=home) for piece in template]
    finally:
        if tool == "gpg":
            end = ["gpgconf", "--homedir", home, "--kill", "all"]
            subprocess.run(end, capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def written(path: Path, tool: str, key: str) -> Iterator[IO[bytes]]:
    """Open a stream into a new file that only root reads; on the disk when it is left.

    It ends before the disk is full.

    Args:
        tool: "", "age" or "gpg".
        key: file with the recipient's public key.

    Raises:
        BackupError: the tool is missing or refuses.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        if tool:
            with _commands(tool, key) as filled, tempfile.TemporaryFile() as errors:
                command = filled(ENCRYPT[tool])
                running = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=file, stderr=errors
                )
                assert running.stdin is not None  # noqa: S101 (for the type)
                early = False
                try:
                    yield Roomy(running.stdin, path.parent)  # type: ignore[misc]
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
            yield Roomy(file, path.parent)  # type: ignore[misc]
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def opened(path: Path, tool: str, key: str) -> Iterator[IO[bytes]]:
    """Open a stream out of a file of a set; what it says counts when it was read to its end.

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
    with (
        _commands(tool, key) as filled,
        tempfile.TemporaryFile() as errors,
        path.open("rb") as file,
    ):
        command = filled(DECRYPT[tool])

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
        with _read_from(running, failed) as stream:
            yield stream


@contextmanager
def _read_from(
    running: subprocess.Popen[bytes], failed: Callable[[], BackupError]
) -> Iterator[IO[bytes]]:
    """Yield the stream out of a tool that decrypts; raise what `failed` returns if that fails."""
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
    """Return the size in bytes and SHA-256 (hex) of a file; None when it is missing."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
                size += len(piece)
    except FileNotFoundError:
        return None
    return size, digest.hexdigest()
