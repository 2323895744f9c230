"""Texts that break careless quoting, and an inventory of the example site to put them into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]

# What YAML, Jinja, Compose, dotenv, nginx, Redis, a shell, SQL or a URL would read as their own.
TEXTS = (
    "it's", '"q"', "'", "''' \"\"\"", "$HOME", "${X:-y}", "$$", "$(id)", "`id`", "%(x)s", "%%",
    "100%", "a\nb", "a\\nb", "\\", "\\\\", "\\u0041", "\\$", '\\"', "a\r\nb", "\r", "\n", "\t",
    " lead", "trail ", "", "{{ x }}", "{{", "}}", "{% raw %}", "{%", "{# c #}",
    "{{ lookup('pipe', 'id') }}", "!unsafe x", "!vault |", "# no", "a #b", "a: b", "- a", "&a",
    "*a", "|", ">", "null", "true", "no", "~", "0123", "1e3", "1_000", "=", "a=b", "export A=1",
    "; evil on;", "} server { listen 81; ", "x\"; evil \"", "user:pw@host:6379/0?x#y",
    "../../etc/passwd", "/etc/shadow", "-rf", "--privileged", "a,b", "a;b", "a|b", "a&b", "a>b",
    "*", "?", "[a]", "한국어", "é", "e\u0301", "🦫", "\u200b", "\u202e", "\ufeff", "\ufffe", "\x7f",
    "\x85", "\u2028", "\u2029", "\x01", "\x1b[31m", "\x0b\x0c", "\x1c=x", "a" * 1000,
    "x" * 100_000,
)  # fmt: skip
# No process, file or URL carries these.
UNFIT = ("a\0b", "\ud800", "x" * 131_072, "한" * 44_000, "x" * 1_000_000)

PASSWORDS = {
    "postgres_password": "p@ss'w\"rd #1 %41 \\ /:?&=+ {{ x }} 한국어",
    "redis_password": "r\"e'd #i\\x41s %$$@/: {% x %} é",
    "qdrant_api_key": "q\"d'r #a $HOME {{n}} \\t",
    "secret_key": " s3cr3t $(id) `id` 한국어 \U0001f9ab ",
}


def example() -> dict[str, Any]:
    """The example site's inventory, its secrets given, without what is built from sources."""
    path = ROOT / "inventories/example/group_vars/all/stack.yml"
    values = yaml.safe_load(path.read_text())
    values["stack_secrets"] = {**PASSWORDS, "admin_password": "hunter2hunter2"}
    return values


class Unsafe(str):
    """A text that is written with ``!unsafe``: no template, whatever it holds."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


# In double quotes, the only form that holds every line break of YAML as it is.
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)
_Dumper.add_representer(
    Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style='"')
)


def unsafe(value: Any) -> Any:
    """The value with every text that holds a brace written as ``!unsafe``; keys are no templates.

    Only those: Ansible reads ``!unsafe "0123"`` as the number 83.
    """
    if isinstance(value, dict):
        return {key: unsafe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unsafe(item) for item in value]
    return Unsafe(value) if isinstance(value, str) and "{" in value else value


def written(values: dict[str, Any]) -> str:
    """An inventory file as an operator would write it."""
    return yaml.dump(values, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=10**9)
