"""Files of a set, encrypted and decrypted by the real age and gpg."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.cipher import opened, written
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError

TEXT = os.urandom(100_000)


def age_keys(folder: Path, name: str) -> tuple[str, str]:
    """Return files with a public and a private key."""
    private, public = folder / name, folder / f"{name}.pub"
    subprocess.run(["age-keygen", "-o", str(private)], check=True, capture_output=True)
    with public.open("w") as file:
        subprocess.run(["age-keygen", "-y", str(private)], check=True, stdout=file)
    return str(public), str(private)


def gpg_keys(folder: Path, name: str) -> tuple[str, str]:
    """Return files with a public and a private key."""
    home = folder / f"{name}.home"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--batch", "--quiet", "--homedir", str(home)]
    made = ["--passphrase", "", "--quick-generate-key", f"{name}@example.com", "future-default"]
    subprocess.run([*gpg, *made], check=True, capture_output=True)
    files = []
    for option in ("--export", "--export-secret-keys"):
        files.append(folder / f"{name}{option}")
        with files[-1].open("wb") as file:
            subprocess.run([*gpg, "--armor", option], check=True, stdout=file)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    return str(files[0]), str(files[1])


KEYS = {"age": age_keys, "gpg": gpg_keys}


@pytest.mark.parametrize("tool", KEYS)
def test_what_is_encrypted_comes_back_with_its_key_alone(tool: str, tmp_path: Path) -> None:
    public, private = KEYS[tool](tmp_path, "right")
    _, other = KEYS[tool](tmp_path, "wrong")
    path = tmp_path / "file"

    with written(path, tool, public) as stream:
        stream.write(TEXT)

    assert TEXT[:100] not in path.read_bytes()
    with opened(path, tool, private) as stream:
        assert stream.read() == TEXT
    with pytest.raises(BackupError, match="cannot be decrypted"), opened(path, tool, other) as bad:
        bad.read()
