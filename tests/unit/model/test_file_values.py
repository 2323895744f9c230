"""Values in the files of a release: what reads them gets back what was given."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.model.file_values import (
    compose_value,
    env_file_line,
    nginx_value,
    style_hashes,
    url_secret,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_nginx_reads_back_what_was_quoted(text):
    quoted = nginx_value(text)
    inner = quoted[1:-1]
    assert re.sub(r"\\(.)", r"\1", inner) == text
    assert re.search(r'(?<!\\)(?:\\\\)*"', inner) is None


def test_inline_styles_are_allowed_by_their_hash():
    assert style_hashes("<p>x</p>") == ""
    # echo -n 'p{}' | openssl dgst -sha256 -binary | base64
    assert (
        style_hashes("<style>p{}</style>")
        == "'sha256-gG2yISYereRMiG2lMXrbiUgi0Ubw9p7QCeWcroOvy9Y='"
    )


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200))
def test_compose_values_are_yaml_that_reads_back(text):
    assert yaml.safe_load(compose_value(text)).replace("$$", "$") == text


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


def test_env_values_come_back_exactly_through_compose(tmp_path):
    """Hundreds of hostile values in one call of the real Compose: each comes back as given."""
    values: list[str] = [
        "it's", '"q"', "$HOME", "${X:-y}", "a\nb", "a\\nb", "\\", "{{ x }}", "# no", "a #b", "$$",
        "한국어", "\t", "\r\n", " lead", "trail ", "", "=", "`id`", "x" * 100_000,
    ]  # fmt: skip

    @given(TEXT)
    def collect(text):
        values.append(text)

    collect()
    (tmp_path / ".env.prod").write_bytes(
        "".join(
            env_file_line(f"V{index}", text) + "\n" for index, text in enumerate(values)
        ).encode()
    )
    (tmp_path / "compose.yml").write_text(
        "services:\n  app:\n    image: none\n    env_file: [.env.prod]\n"
    )
    done = subprocess.run(
        ["docker", "compose", "-f", "compose.yml", "config", "--format", "json"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    seen = json.loads(done.stdout)["services"]["app"]["environment"]
    for index, text in enumerate(values):
        assert (seen[f"V{index}"] or "").replace("$$", "$") == text


@pytest.mark.parametrize(
    ("value", "line"),
    [(True, 'A="true"'), (None, 'A=""'), (3, 'A="3"'), ([1, "x"], 'A="[1, \\"x\\"]"')],
)
def test_env_values_of_other_types(value, line):
    assert env_file_line("A", value) == line


def test_env_refuses_what_no_process_can_receive():
    with pytest.raises(ValueError, match="NUL"):
        env_file_line("A", "a\0b")
    with pytest.raises(ValueError, match="not a valid name"):
        env_file_line("A B", "x")


def test_secrets_in_urls_are_percent_encoded():
    assert url_secret("a/b@c:d%") == "a%2Fb%40c%3Ad%25"
