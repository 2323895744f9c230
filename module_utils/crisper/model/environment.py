"""Environment of the application's containers: variables and proxies (no I/O)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..backup.signature import SECRET as BACKUP_SECRET
from .secrets import SECRET_NAME
from .validators import ENV_NAME, MAX_ENVIRONMENT, MAX_WORD, as_mapping, env_text, quoted

# What the Docker client writes into containers, in both cases.
PROXY_NAMES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
# Names this repository writes itself, by variables of their own. Addresses of services
# (DATABASE_URL, CELERY_BROKER_URL, REDIS_URL …) are written unless the application sets them.
RESERVED_ENV = frozenset(
    {
        "CELERY_DRAIN_TIMEOUT",
        "CELERY_HEARTBEAT_FILE",
        "CELERY_TASK_SOFT_TIME_LIMIT",
        "CELERY_TASK_TIME_LIMIT",
        "CELERY_VISIBILITY_TIMEOUT",
        "CELERY_WORKER_QUEUES",
        "RELEASE",
    }
)
# Parts of stack_app that have variables.
PARTS = ("environment", "environment_templates", "secret_environment")


def proxy_environment(
    proxies: Mapping[str, str], services: Sequence[str], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return every proxy variable of the application's containers, upper and lower case.

    The Docker client writes the proxies of its own configuration into each container it creates;
    only a variable that is set, be it empty, keeps them out. Clients differ in which case they
    read, so both always say the same.

    Args:
        proxies: stack_container_proxy.
        services: names that are reached without a proxy.
        own: the application's own environment; what it says of proxies counts, in either case.
    """
    defaults = {name: proxies.get(name) or "" for name in PROXY_NAMES}
    if defaults["http_proxy"] or defaults["https_proxy"]:
        inner = ["localhost", "127.0.0.1", "::1", *services]
        outer = [name.strip() for name in defaults["no_proxy"].split(",") if name.strip()]
        defaults["no_proxy"] = ",".join(dict.fromkeys([*outer, *inner]))
    else:
        defaults["no_proxy"] = ""
    found: dict[str, Any] = {}
    for name, value in defaults.items():
        upper = name.upper()
        either = own.get(upper, own.get(name, value))
        found |= {upper: own.get(upper, either), name: own.get(name, either)}
    return found


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the variables of the application, with the remedy."""
    app, secrets = as_mapping(values.get("stack_app")), as_mapping(values.get("stack_secrets"))
    sections = {part: as_mapping(app.get(part)) for part in PARTS}
    sizes = []
    for part, section in sections.items():
        for name, value in section.items():
            if not isinstance(name, str) or not ENV_NAME.match(name):
                yield (
                    f"stack_app.{part}: {quoted(name)} is not an environment variable name"
                    " (letters, digits and _; quote what YAML takes for something else, such as"
                    " NO)."
                )
                continue
            where = f"stack_app.{part}.{name}"
            if name in RESERVED_ENV:
                yield (
                    f"{where} is set, but the deploy writes {name} itself:"
                    " remove it, or give your application another name."
                )
            try:
                secret = part == "secret_environment"
                text = _secret_text(value, secrets) if secret else env_text(value)
            except ValueError as error:
                yield f"{where} {error}"
                continue
            sizes.append(len(f"{name}={text}".encode(errors="replace")))
            yield from size_problems(where, sizes[-1])
    yield from _doubled(sections)
    if sum(sizes) > MAX_ENVIRONMENT >= max(sizes):
        yield (
            f"stack_app.environment is {sum(sizes)} bytes long with the secrets: the kernel gives a"
            f" process at most {MAX_ENVIRONMENT} safely; put some of it into files of the image."
        )


def _doubled(sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for index, part in enumerate(PARTS):
        for other in PARTS[index + 1 :]:
            for name in sections[part].keys() & sections[other].keys():
                yield f"stack_app.{part}.{name} is in {other} too: remove one of them."


def _secret_text(name: Any, secrets: Mapping[str, Any]) -> str:
    """Return the secret of that name; empty where it is not known yet.

    Raises:
        ValueError: the application may have no such secret; the message is the remedy.
    """
    if not isinstance(name, str) or not SECRET_NAME.match(name):
        # It may be the secret itself: the message does not repeat it.
        raise ValueError("is no name: give that of a secret in stack_secrets.")
    if name == BACKUP_SECRET:
        raise ValueError(
            f"is {name}, which signs backup sets: an application that has it could"
            " sign sets of its own. Give the application a secret of another name."
        )
    secret = secrets.get(name)
    return secret if isinstance(secret, str) else ""


def size_problems(where: str, size: int) -> Iterator[str]:
    """Yield what is wrong with a variable of that many bytes, its name among them."""
    if size >= MAX_WORD:
        yield (
            f"{where} is {size} bytes long with its name: the kernel gives a process"
            f" at most {MAX_WORD - 1} for one; put it into a file of the image."
        )


def validate_proxies(values: Mapping[str, Any], variable: str) -> Iterator[str]:
    """Yield what is wrong with stack_proxy or stack_container_proxy, by its name."""
    proxies = values.get(variable) or {}
    known = ("http_proxy", "https_proxy", "no_proxy")
    if not isinstance(proxies, Mapping) or not all(name in known for name in proxies):
        yield f"{variable} is no mapping of {', '.join(known)}: give nothing else in it."
        return
    for name, value in proxies.items():  # a proxy's URL may hold a password: never quote it
        if not isinstance(value, str) or not value.isprintable():
            yield f"{variable}.{name} is no printable text: give a URL, or a list of hosts."
