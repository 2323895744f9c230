"""The stack as data: judge the operator's variables and derive what the templates need.

Everything here is a pure function of plain data; nothing touches a server.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")
POOL = re.compile(r"[a-z0-9][a-z0-9-]{0,29}\Z")
HOST = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.?)+\Z", re.IGNORECASE)
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*\Z")
QUEUE = re.compile(r"[A-Za-z0-9_.:-]{1,100}\Z")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[bkmg])b?\Z", re.IGNORECASE)
UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
UNITS = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
MINIMUM_MEMORY = 6 * 1024**2  # the engine refuses less
SECRETS = ("postgres_password", "redis_password", "qdrant_api_key", "secret_key")
TLS_SOURCES = ("none", "own", "self_signed", "acme")
HSTS = "Strict-Transport-Security"
MARIADB_SECRETS = ("mariadb_password", "mariadb_root_password")
HOOK_POINTS = (
    "before_migrate",
    "after_migrate",
    "before_switch",
    "after_switch",
    "after_rollback",
)
# Names this repository writes itself; an application that sets them would break its own wiring.
RESERVED_ENV = frozenset(
    {
        "CELERY_BROKER_URL",
        "CELERY_DRAIN_TIMEOUT",
        "CELERY_HEARTBEAT_FILE",
        "CELERY_RESULT_BACKEND",
        "CELERY_TASK_SOFT_TIME_LIMIT",
        "CELERY_TASK_TIME_LIMIT",
        "CELERY_VISIBILITY_TIMEOUT",
        "DATABASE_URL",
        "MARIADB_URL",
        "QDRANT_API_KEY",
        "QDRANT_URL",
        "REDIS_URL",
        "RELEASE",
        "SECRET_KEY",
    }
)


def size_bytes(value: Any) -> int | None:
    """Bytes of a Docker memory size such as ``512m`` or ``1g``; None when it is not one."""
    match = SIZE.match(str(value).strip()) if value is not None else None
    if match is None:
        return None
    return int(float(match["number"]) * UNITS[match["unit"].lower()])


def compose_value(value: Any) -> str:
    """A value as it stands in a compose file: JSON (which is YAML), ``$`` doubled.

    Compose interpolates ``$NAME`` in every value; ``$$`` is its escape. What YAML takes for a
    line break or for unprintable is escaped; the rest stands as it is, because YAML knows no
    surrogate pairs (JSON's ASCII form of what lies beyond the basic plane).
    """
    text = json.dumps(value, ensure_ascii=False).replace("$", "$$")
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def env_file_line(name: str, value: Any) -> str:
    """``NAME=value`` for Compose's ``env_file``, so that the container sees exactly `value`.

    Booleans become ``true``/``false``, lists and mappings JSON. Everything stands in double
    quotes with the escapes of compose-go's dotenv parser, the only form that can hold
    newlines, quotes and dollar signs together.

    Raises:
        ValueError: the name is not a variable name, or the value holds NUL.
    """
    if not ENV_NAME.match(name):
        raise ValueError(f"environment variable {name!r}: not a valid name")
    if value is None:
        text = ""
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, (Mapping, list, tuple)):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value)
    if "\0" in text:
        raise ValueError(f"environment variable {name}: a value cannot hold a NUL character")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    escaped = escaped.replace("\n", "\\n").replace("\r", "\\r")
    return f'{name}="{escaped}"'


def nginx_value(value: Any) -> str:
    """A text as one word of an nginx configuration; ``$`` cannot be escaped there (see checks)."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def style_hashes(page: str) -> str:
    """What a Content-Security-Policy must say for a page's inline styles: ``'sha256-…' …``."""
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digests = (b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in styles)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def pool_service(name: str) -> str:
    """Compose service of a worker pool; the pool ``default`` is ``celery-worker``."""
    return "celery-worker" if name == "default" else f"celery-worker-{name}"


def required_secrets(values: Mapping[str, Any]) -> list[str]:
    """Names of the secrets this stack cannot run without."""
    names = list(SECRETS)
    if values.get("mariadb_enabled"):
        names += MARIADB_SECRETS
    app = _mapping(values.get("stack_app"))
    for name in _mapping(app.get("secret_environment")).values():
        if name not in names:
            names.append(str(name))
    return names


def find_problems(values: Mapping[str, Any]) -> list[str]:
    """Everything wrong with the stack's variables, one sentence each, with the remedy.

    Args:
        values: the shared variables of role ``stack`` by name.
    """
    return [
        *_identity_problems(values),
        *_front_problems(values),
        *_app_problems(values),
        *_pool_problems(values),
        *_limit_problems(values),
        *_budget_problems(values),
        *_secret_problems(values),
        *_hook_problems(values),
    ]


def _identity_problems(values: Mapping[str, Any]) -> Iterator[str]:
    name = str(values.get("stack_name", ""))
    if not NAME.match(name):
        yield (
            f"stack_name is {name!r}: use lower-case letters, digits, '-' and '_',"
            " starting with a letter or digit, at most 40."
        )
    root = str(values.get("stack_root", ""))
    if not re.match(r"/[A-Za-z0-9._/-]+\Z", root) or ".." in root.split("/"):
        yield f"stack_root is {root!r}: give an absolute path of plain characters: /opt/app."
    if not re.match(r"\d+[kmg]?\Z", str(values.get("stack_max_body_size", "")), re.IGNORECASE):
        yield (
            f"stack_max_body_size is {values.get('stack_max_body_size')!r}:"
            " give nginx a size such as 10m."
        )
    source = values.get("image_source")
    if str(source) not in ("auto", "registry", "local"):
        yield f"image_source is {source!r}: choose auto, registry or local."


def _front_problems(values: Mapping[str, Any]) -> Iterator[str]:
    source = str(values.get("stack_tls", "none"))
    if source not in TLS_SOURCES:
        yield f"stack_tls is {source!r}: choose {', '.join(TLS_SOURCES)}."
        return
    secure = source != "none"
    ports = ["stack_http_port", *(["stack_https_port"] if secure else [])]
    for name in ports:
        port = _integer(values.get(name))
        if port is None or not 1 <= port <= 65535:
            yield f"{name} is {values.get(name)!r}: give a port from 1 to 65535."
    if len({str(values.get(name)) for name in ports}) < len(ports):
        yield (
            f"stack_http_port and stack_https_port are both {values.get('stack_https_port')}:"
            " give each its own."
        )
    address = values.get("stack_bind_address", "")
    if address != "" and not _is_address(address):
        yield f"stack_bind_address is {address!r}: give an IP address, or '' for all."
    yield from _name_problems(values.get("stack_server_names") or [], secure)
    files = ("stack_tls_certificate", "stack_tls_key")
    for name in files:
        value = str(values.get(name) or "")
        if source in ("own", "acme") and not value:
            yield f"{name} is not set: stack_tls '{source}' needs it (docs/SECURITY.md)."
        elif value and source not in ("own", "acme"):
            yield f"{name} is {value!r}, but stack_tls is '{source}': remove it, or set own."
        elif value and not value.startswith("/"):
            yield f"{name} is {value!r}: give an absolute path."
    seconds = _integer(values.get("stack_hsts_seconds", 0))
    if seconds is None or seconds < 0:
        yield f"stack_hsts_seconds is {values.get('stack_hsts_seconds')!r}: give seconds, or 0."
    elif seconds and not secure:
        yield f"stack_hsts_seconds is {seconds}, but stack_tls is 'none': browsers ignore it there."
    yield from _header_problems(values.get("stack_security_headers") or {})


def _name_problems(names: Any, secure: bool) -> Iterator[str]:
    if not isinstance(names, Sequence) or isinstance(names, str):
        yield f"stack_server_names is {names!r}: give a list of host names."
        return
    if secure and not names:
        yield "stack_server_names is empty: TLS needs the names that browsers ask for."
    for name in names:
        if not _is_address(name) and not HOST.match(str(name)):
            yield f"stack_server_names: {name!r} is neither a host name nor an address."


def _header_problems(headers: Any) -> Iterator[str]:
    if not isinstance(headers, Mapping):
        yield f"stack_security_headers is {headers!r}: give a mapping of headers to values."
        return
    for name, value in headers.items():
        where = f"stack_security_headers.{name}"
        if not HEADER.match(str(name)):
            yield f"{where}: this is no name of a header (letters, digits, '-')."
        elif str(name).lower() == HSTS.lower():
            yield f"{where} is set: stack_hsts_seconds is its place."
        if "$" in str(value) or not str(value).isprintable():
            yield f"{where} is {value!r}: use printable characters without '$'."


def _app_problems(values: Mapping[str, Any]) -> Iterator[str]:
    app = values.get("stack_app")
    if not isinstance(app, Mapping) or not app:
        yield "stack_app is not set: describe the application (docs/DEPLOYMENT.md)."
        return
    for part, keys in {"web": ("command", "port", "health_path"), "celery": ("app",)}.items():
        section = app.get(part)
        if not isinstance(section, Mapping):
            yield f"stack_app.{part} is missing: it needs {', '.join(keys)}."
            continue
        for key in keys:
            if not section.get(key):
                yield f"stack_app.{part}.{key} is missing (docs/DEPLOYMENT.md shows an example)."
    yield from _image_problems("stack_app", app)
    if app.get("frontend"):
        yield from _image_problems("stack_app.frontend", _mapping(app["frontend"]))
    for where, command in {
        "stack_app.web.command": _mapping(app.get("web")).get("command"),
        "stack_app.migrate.command": _mapping(app.get("migrate")).get("command"),
    }.items():
        if command and (isinstance(command, str) or not isinstance(command, Sequence)):
            yield f"{where} is {command!r}: give a list, one argument each (no shell is used)."
    for part in ("environment", "secret_environment"):
        for name, value in _mapping(app.get(part)).items():
            if not ENV_NAME.match(str(name)):
                yield f"stack_app.{part}: {name!r} is not an environment variable name."
            elif name in RESERVED_ENV:
                yield (
                    f"stack_app.{part}.{name} is set, but the deploy writes {name} itself:"
                    " remove it, or give your application another name."
                )
            elif "\0" in str(value):
                yield f"stack_app.{part}.{name} holds a NUL character: no process can receive it."


def _image_problems(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    if not section.get("image") and not _mapping(section.get("build")).get("context"):
        yield f"{where} has neither image nor build.context: set one of them."


def _pool_problems(values: Mapping[str, Any]) -> Iterator[str]:
    pools = values.get("celery_workers")
    if not isinstance(pools, Sequence) or isinstance(pools, str) or not pools:
        yield "celery_workers is empty: without a pool no task runs; define at least one."
        return
    names = Counter(str(pool.get("name")) for pool in pools if isinstance(pool, Mapping))
    for name, count in names.items():
        if count > 1:
            yield f"celery_workers: {count} pools are named {name!r}: give each its own name."
    for index, pool in enumerate(pools):
        where = f"celery_workers[{index}]"
        if not isinstance(pool, Mapping):
            yield f"{where} is {pool!r}: give a mapping with name, queues and concurrency."
            continue
        if not POOL.match(str(pool.get("name", ""))):
            yield (
                f"{where}.name is {pool.get('name')!r}:"
                " use lower-case letters, digits and '-', at most 30."
            )
        queues = pool.get("queues")
        if not isinstance(queues, Sequence) or isinstance(queues, str) or not queues:
            yield f"{where}.queues is {queues!r}: give a list with at least one queue name."
        else:
            for queue in queues:
                if not QUEUE.match(str(queue)):
                    yield f"{where}.queues: {queue!r} is not a queue name (letters, digits, _.:-)."
        for key in ("concurrency", "replicas"):
            number = _integer(pool.get(key, 1))
            if number is None or not 1 <= number <= 512:
                yield f"{where}.{key} is {pool.get(key)!r}: give a whole number from 1 to 512."
        yield from _resource_problems(where, pool)


def _limit_problems(values: Mapping[str, Any]) -> Iterator[str]:
    for service, limit in _mapping(values.get("stack_limits")).items():
        if isinstance(limit, Mapping):
            yield from _resource_problems(f"stack_limits.{service}", limit)
        else:
            yield f"stack_limits.{service} is {limit!r}: give a mapping with memory and cpus."
    yield from _resource_problems(
        "stack_app.web", _mapping(_mapping(values.get("stack_app")).get("web"))
    )


def _resource_problems(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    if "memory" in section:
        size = size_bytes(section["memory"])
        if size is None:
            yield (
                f"{where}.memory is {section['memory']!r}:"
                " give a number and a unit, such as 512m or 1g."
            )
        elif size < MINIMUM_MEMORY:
            yield f"{where}.memory is {section['memory']!r}: the engine accepts no less than 6m."
    if "cpus" in section:
        cpus = _number(section["cpus"])
        if cpus is None or cpus < 0.01:
            yield f"{where}.cpus is {section['cpus']!r}: give a number of CPUs, such as 0.5."


def _budget_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """The shutdown budget: each limit must leave room for the one below it."""
    names = (
        "celery_task_soft_time_limit",
        "celery_task_time_limit",
        "celery_drain_timeout",
        "celery_stop_grace_period",
        "celery_visibility_timeout",
    )
    seconds: dict[str, int] = {}
    for name in names:
        number = _integer(values.get(name))
        if number is None or number < 1:
            yield f"{name} is {values.get(name)!r}: give a whole number of seconds, 1 or more."
        else:
            seconds[name] = number
    for low, high, why in (
        (names[0], names[1], "a task must get its soft limit before it is killed"),
        (names[2], names[3], "Docker would kill the worker before it has put its tasks back"),
        (names[1], names[4], "a task that still runs would be started a second time"),
    ):
        if low in seconds and high in seconds and seconds[low] >= seconds[high]:
            yield (f"{low} ({seconds[low]} s) must be less than {high} ({seconds[high]} s): {why}.")


def _secret_problems(values: Mapping[str, Any]) -> Iterator[str]:
    secrets = _mapping(values.get("stack_secrets"))
    generate = bool(values.get("stack_secrets_generate"))
    for name in required_secrets(values):
        value = secrets.get(name)
        if value is None or value == "":
            if not generate:
                yield (
                    f"stack_secrets.{name} is missing: set vault_{name} with"
                    " `ansible-vault edit` (inventories/example shows how),"
                    " or stack_secrets_generate: true."
                )
        elif any(ord(character) < 32 for character in str(value)):
            yield f"stack_secrets.{name} holds a control character: use printable characters only."


def _hook_problems(values: Mapping[str, Any]) -> Iterator[str]:
    for name in ("celery_allow_unknown_tasks", "rollout_ledger"):
        if not isinstance(values.get(name, False), bool):
            yield f"{name} is {values[name]!r}: give true or false."
    hooks = values.get("rollout_hooks") or {}
    if not isinstance(hooks, Mapping):
        yield f"rollout_hooks is {hooks!r}: give a mapping of points to lists of commands."
        return
    for point, commands in hooks.items():
        if point not in HOOK_POINTS:
            yield f"rollout_hooks.{point}: there is no such point; choose {', '.join(HOOK_POINTS)}."
            continue
        if not isinstance(commands, Sequence) or isinstance(commands, str):
            yield f"rollout_hooks.{point} is {commands!r}: give a list of commands."
            continue
        for index, hook in enumerate(commands):
            where = f"rollout_hooks.{point}[{index}]"
            command = _mapping(hook).get("command")
            if not command or isinstance(command, str) or not isinstance(command, Sequence):
                yield f"{where}.command is {command!r}: give a list, one argument each."
            timeout = _mapping(hook).get("timeout", 600)
            if (_integer(timeout) or 0) < 1:
                yield f"{where}.timeout is {timeout!r}: give seconds, 1 or more."


def _hooks(values: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        str(point): [
            {
                "name": str(hook.get("name") or " ".join(map(str, hook["command"]))),
                "command": [str(word) for word in hook["command"]],
                "timeout": int(hook.get("timeout", 600)),
            }
            for hook in commands
        ]
        for point, commands in (values.get("rollout_hooks") or {}).items()
    }


def stack_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates and roles read: names and numbers derived from checked variables.

    Returns:
        ``pools`` (each with service, memory, cpus, replicas …), ``front`` (how browsers reach it:
        ``tls`` (its source, or empty), ``scheme``, ``port``, ``names``, ``host`` (the first name as
        URLs have it), ``headers``), ``limits`` (by service),
        ``data_services``, ``services``, ``volumes``, ``memory_bytes`` (sum of all limits),
        ``required_secrets``, ``queues`` (sorted, unique), ``rollout`` (how each service is
        replaced, see crisper_rollout), ``celery`` (what its workers must be like). The model is
        kept in the release's manifest: a release that is put back is judged by its own.
    """
    app = values["stack_app"]
    limits = {name: dict(limit) for name, limit in values["stack_limits"].items()}
    web = app["web"]
    limits["backend"].update({key: web[key] for key in ("memory", "cpus") if web.get(key)})
    pools = [
        {
            "name": pool["name"],
            "service": pool_service(pool["name"]),
            "queues": list(pool["queues"]),
            "concurrency": int(pool.get("concurrency", 1)),
            "replicas": int(pool.get("replicas", 1)),
            "memory": str(pool.get("memory", "1g")),
            "cpus": float(pool.get("cpus", 1.0)),
        }
        for pool in values["celery_workers"]
    ]
    data = ["postgres", "redis", "qdrant", *(["mariadb"] if values["mariadb_enabled"] else [])]
    beat = ["celery-beat"] if app["celery"].get("beat") else []
    front = ["frontend"] if app.get("frontend") else []
    counted = {
        "nginx": 1,
        "backend": int(web.get("replicas", 1)),
        **dict.fromkeys([*front, *beat, *data], 1),
    }
    memory = sum((size_bytes(limits[name]["memory"]) or 0) * n for name, n in counted.items())
    memory += sum((size_bytes(pool["memory"]) or 0) * pool["replicas"] for pool in pools)
    return {
        "pools": pools,
        "front": _front(values),
        "limits": limits,
        "data_services": data,
        "services": [*counted, *(pool["service"] for pool in pools)],
        "rollout": {
            **{name: {"kind": "fixed"} for name in (*data, "nginx")},
            **{name: {"kind": "web"} for name in front},
            "backend": {"kind": "web", "replicas": counted["backend"]},
            **{p["service"]: {"kind": "worker", "replicas": p["replicas"]} for p in pools},
            **{name: {"kind": "single"} for name in beat},
        },
        "memory_bytes": memory,
        "volumes": [*data, *(["beat"] if beat else [])],
        "required_secrets": required_secrets(values),
        "celery": {
            "app": app["celery"]["app"],
            "canary_task": app["celery"].get("canary_task") or "",
            "expected_tasks": list(app["celery"].get("expected_tasks") or []),
            "time_limit": int(values["celery_task_time_limit"]),
            "soft_time_limit": int(values["celery_task_soft_time_limit"]),
        },
        "hooks": _hooks(values),
        "queues": sorted({queue for pool in pools for queue in pool["queues"]}),
    }


def _front(values: Mapping[str, Any]) -> dict[str, Any]:
    source = str(values.get("stack_tls", "none"))
    secure = source != "none"
    names = [str(name).lower() for name in values.get("stack_server_names") or []]
    given = values.get("stack_security_headers") or {}
    headers = {str(name): str(value) for name, value in given.items() if value}
    seconds = int(values.get("stack_hsts_seconds", 0))
    if seconds:
        headers[HSTS] = f"max-age={seconds}"
    return {
        "tls": source if secure else "",
        "scheme": "https" if secure else "http",
        "port": int(values["stack_https_port" if secure else "stack_http_port"]),
        "names": names,
        "host": url_host(names[0]) if names else "",
        "headers": headers,
    }


def url_host(name: str) -> str:
    """A host name or address as URLs have it: IPv6 in brackets."""
    return f"[{name}]" if ":" in name else name


def host_name(inventory_name: str) -> str:
    """An inventory name as it stands in a Celery node name: no ``@``, ``%``, ``$`` or space."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", inventory_name)


def url_secret(value: str) -> str:
    """A secret as it stands in the user-info part of a URL (RFC 3986)."""
    return quote(value, safe="")


def short_digest(text: str) -> str:
    """First 12 hex digits of the SHA-256 of `text`: enough to tell two contents apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _mapping(value: Any) -> Mapping[str, Any]:
    """The value when it is a mapping, else an empty one: the type itself is judged elsewhere."""
    return value if isinstance(value, Mapping) else {}


def _is_address(value: Any) -> bool:
    try:
        ipaddress.ip_address(str(value))
    except ValueError:
        return False
    return True


def _integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return int(str(value))
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(str(value))
    except ValueError:
        return None
