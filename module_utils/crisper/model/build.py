"""The stack as data: judge the operator's variables and derive what the templates need.

Everything here is a pure function of plain data; nothing touches a server.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypedDict
from urllib.parse import quote

from ..backup.signature import MIN_KEY
from ..backup.signature import SECRET as BACKUP_SECRET
from ..host.firewall import validate as validate_host_ports
from ..images.digests import digest_of, find_digest_problems
from ..proxy.entry import entry_model, entry_problems
from ..proxy.public_url import (
    HOST,
    HealthProbe,
    health_probes,
    public_site,
    url_host,
)
from ..proxy.public_url import validate as validate_public_url
from ..text import listed
from .container_limits import (
    PIDS,
    container_limits,
    worker_pids,
)
from .container_limits import validate as validate_limits
from .redis_users import validate as validate_redis_commands
from .validators import (
    BOOLEAN,
    COUNT,
    ENV_NAME,
    FORMS,
    IMAGE,
    MAX_ENVIRONMENT,
    MAX_WORD,
    REGISTRY,
    SECONDS,
    TLS_SOURCES,
    boolean_remedy,
    carried,
    command_problem,
    env_text,
    is_address,
    number,
    printable,
    quoted,
    size_bytes,
    texts,
    whole,
)

# Also a part of an image's name, in which no two separators follow each other.
NAME = re.compile(r"[a-z0-9]+(?:(?:__?|-+)[a-z0-9]+)*\Z")
# Users and databases are named like the stack; these names are the servers' own.
TAKEN = re.compile(r"(?:pg_.*|template[01])\Z")
TAKEN_MARIADB = frozenset({"root", "mysql", "sys", "information_schema", "performance_schema"})
PINNED = re.compile(r"@sha256:[0-9a-f]{64}\Z")
POOL = re.compile(r"[a-z0-9][a-z0-9-]{0,29}\Z")
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*\Z")
QUEUE = re.compile(r"[A-Za-z0-9_.:-]{1,100}\Z")
SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")
UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
MINIMUM_MEMORY = 6 * 1024**2  # the engine refuses less
SECRETS = ("postgres_password", "redis_password", "qdrant_api_key", "secret_key")
# No client outside the stack has them: the server makes those that nobody gives.
OWN_SECRETS = ("postgres_superuser_password",)
RESOURCES = ("memory", "cpus", "pids", "tmp")
HSTS = "Strict-Transport-Security"
MARIADB_SECRETS = ("mariadb_password", "mariadb_root_password")
# Longer ones do not fit every client: they stand in URLs, prompts and HTTP headers.
MAX_SECRET = 1024
# What the Docker client writes into containers, in both cases.
PROXY_NAMES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
# Keys of registry_logins, and what each holds.
LOGIN = {
    "registry": "a host name",
    "username": "the name of the account",
    "password": "its password or access token, from the vault",
}
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
        "CELERY_WORKER_QUEUES",
        "DATABASE_URL",
        "MARIADB_URL",
        "QDRANT_API_KEY",
        "QDRANT_URL",
        "REDIS_URL",
        "RELEASE",
        "SECRET_KEY",
    }
)


def compose_value(value: Any) -> str:
    """Return a value as it stands in a compose file: JSON (which is YAML), ``$`` doubled.

    Compose interpolates ``$NAME`` in every value; ``$$`` is its escape. What YAML takes for a
    line break or for unprintable is escaped; the rest stands as it is, because YAML knows no
    surrogate pairs (JSON's ASCII form of what lies beyond the basic plane).
    """
    text = json.dumps(value, ensure_ascii=False).replace("$", "$$")
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def env_file_line(name: str, value: Any) -> str:
    """Return ``NAME=value`` for Compose's ``env_file``: the container sees exactly `value`.

    Booleans become ``true``/``false``, lists and mappings JSON. Everything stands in double
    quotes with the escapes of compose-go's dotenv parser, the only form that can hold
    newlines, quotes and dollar signs together.

    Raises:
        ValueError: the name is not a variable name, or no process can receive the value.
    """
    if not ENV_NAME.match(name):
        raise ValueError(f"environment variable {name!r}: not a valid name")
    text = env_text(value)
    if problem := carried(text):
        raise ValueError(f"environment variable {name} {problem}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    escaped = escaped.replace("\n", "\\n").replace("\r", "\\r")
    return f'{name}="{escaped}"'


def nginx_value(value: Any) -> str:
    """Return a text as one word of nginx's configuration; ``$`` cannot be escaped (see checks)."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def style_hashes(page: str) -> str:
    """Return what a Content-Security-Policy says for a page's inline styles: ``'sha256-…' …``."""
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digests = (b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in styles)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def pool_service(name: str) -> str:
    """Return the Compose service of a worker pool; the pool ``default`` is ``celery-worker``."""
    return "celery-worker" if name == "default" else f"celery-worker-{name}"


def required_secrets(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the secrets this stack cannot run without."""
    names = [*SECRETS, *OWN_SECRETS]
    if values.get("mariadb_enabled"):
        names += MARIADB_SECRETS
    app = _mapping(values.get("stack_app"))
    for name in _mapping(app.get("secret_environment")).values():
        if isinstance(name, str) and SECRET_NAME.match(name) and name not in names:
            names.append(name)
    own_key = _mapping(values.get("stack_secrets")).get(BACKUP_SECRET)
    if BACKUP_SECRET not in names and (own_key or values.get("stack_secrets_generate") is True):
        names.append(BACKUP_SECRET)
    return names


def validate(values: Mapping[str, Any]) -> list[str]:
    """Return everything wrong with the stack's variables, one sentence each, with the remedy.

    Args:
        values: the shared variables of role ``stack`` by name.
    """
    found = [
        *_text_problems(values),
        *_form_problems(values),
        *_identity_problems(values),
        *_front_problems(values),
        *validate_public_url(values),
        *_app_problems(values),
        *entry_problems(values),
        *validate_host_ports(values),
        *_environment_problems(values),
        *_reference_problems(values),
        *_pinning_problems(values),
        *_registry_problems(values),
        *_proxy_problems(values, "stack_proxy"),
        *_proxy_problems(values, "stack_container_proxy"),
        *_pool_problems(values),
        *_limit_problems(values),
        *_budget_problems(values),
        *_secret_problems(values),
        *_hook_problems(values),
        *validate_redis_commands(values),
    ]
    return [printable(finding) for finding in found]


def _text_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield texts that no file, process or URL can carry, wherever they stand."""
    for name, value in values.items():
        for where, text in texts(value, name):
            if problem := carried(text):
                yield f"{where} {problem}"


def _form_problems(values: Mapping[str, Any]) -> Iterator[str]:
    for name, form in FORMS.items():
        *parents, last = name.split(".")
        section: Any = values
        for parent in parents:
            section = _mapping(section.get(parent))
        if last in section and not form.matches(section[last]):
            # On the command line a value within a mapping is given as a whole.
            is_option = form is BOOLEAN and not parents
            remedy = boolean_remedy(name, section[last]) if is_option else form.remedy
            yield f"{name} is {quoted(section[last])}: {remedy}"


def _identity_problems(values: Mapping[str, Any]) -> Iterator[str]:
    name = values.get("stack_name", "")
    if not isinstance(name, str) or len(name) > 40 or not NAME.match(name):
        yield (
            f"stack_name is {quoted(name)}: use lower-case letters and digits, with single '-' or"
            " '_' between them, at most 40; quote it when it is a number."
        )
        return
    database = name.replace("-", "_")
    mariadb = values.get("mariadb_enabled") is True and database in TAKEN_MARIADB
    if TAKEN.match(database) or mariadb:
        yield f"stack_name is {name!r}: the database has a {database!r} of its own; choose another."


def _front_problems(values: Mapping[str, Any]) -> Iterator[str]:
    source = values.get("stack_tls", "none")
    if source not in TLS_SOURCES:
        return  # told by its form
    secure = source != "none"
    if secure and str(values.get("stack_http_port")) == str(values.get("stack_https_port")):
        yield (
            f"stack_http_port and stack_https_port are both {values.get('stack_https_port')}:"
            " give each its own."
        )
    yield from _name_problems(values.get("stack_server_names") or [], secure)
    files = ("stack_tls_certificate", "stack_tls_key")
    for name in files:
        value = str(values.get(name) or "")
        if source in ("own", "acme") and not value:
            yield f"{name} is not set: stack_tls '{source}' needs it (docs/SECURITY.md)."
        elif value and source not in ("own", "acme"):
            yield f"{name} is {quoted(value)}, but stack_tls is '{source}': remove it, or set own."
        elif value and not value.startswith("/"):
            yield f"{name} is {quoted(value)}: give an absolute path."
    seconds = whole(values.get("stack_hsts_seconds", 0))
    if seconds and not secure:
        yield f"stack_hsts_seconds is {seconds}, but stack_tls is 'none': browsers ignore it there."
    yield from _header_problems(values.get("stack_security_headers") or {})


def _name_problems(names: Any, secure: bool) -> Iterator[str]:
    if not isinstance(names, Sequence) or isinstance(names, str):
        yield f"stack_server_names is {quoted(names)}: give a list of host names."
        return
    if secure and not names:
        yield "stack_server_names is empty: TLS needs the names that browsers ask for."
    for name in names:
        if not is_address(name) and not HOST.match(str(name)):
            yield f"stack_server_names: {quoted(name)} is neither a host name nor an address."


def _header_problems(headers: Any) -> Iterator[str]:
    if not isinstance(headers, Mapping):
        yield f"stack_security_headers is {quoted(headers)}: give a mapping of headers to values."
        return
    for name, value in headers.items():
        where = f"stack_security_headers.{name}"
        if not HEADER.match(str(name)):
            yield f"{where}: this is no name of a header (letters, digits, '-')."
        elif str(name).lower() == HSTS.lower():
            yield f"{where} is set: stack_hsts_seconds is its place."
        if "$" in str(value) or not str(value).isprintable():
            yield f"{where} is {quoted(value)}: use printable characters without '$'."


def _app_problems(values: Mapping[str, Any]) -> Iterator[str]:
    app = values.get("stack_app")
    if not isinstance(app, Mapping) or not app:
        yield "stack_app is not set: describe the application (docs/DEPLOYMENT.md)."
        return
    required = {"web": ("command", "port", "health_path"), "celery": ("app",)}
    optional = {"frontend": ("port", "health_path"), "migrate": ("command",)}
    for part, keys in {**required, **{p: optional[p] for p in optional if p in app}}.items():
        section = app.get(part)
        if not isinstance(section, Mapping) or not section:
            how = "is missing: it needs" if part in required else "is empty: leave it out, or give"
            yield f"stack_app.{part} {how} {', '.join(keys)}."
            continue
        for key in keys:
            if not section.get(key):
                yield f"stack_app.{part}.{key} is missing (docs/DEPLOYMENT.md shows an example)."
    for part in ("build", "environment", "secret_environment"):
        if part in app and not isinstance(app[part], Mapping):
            yield f"stack_app.{part} is no mapping: give one of names to values, or leave it out."
    yield from _image_problems("stack_app", app)
    if app.get("frontend"):
        yield from _image_problems("stack_app.frontend", _mapping(app["frontend"]))
    for part, key in (("web", "command"), ("migrate", "command"), ("migrate", "check_command")):
        command = _mapping(app.get(part)).get(key)
        if command and (problem := command_problem(f"stack_app.{part}.{key}", command)):
            yield problem
    tasks = _mapping(app.get("celery")).get("expected_tasks") or []
    if not isinstance(tasks, (list, tuple)) or not all(isinstance(task, str) for task in tasks):
        yield f"stack_app.celery.expected_tasks is {quoted(tasks)}: give a list of task names."


def _environment_problems(values: Mapping[str, Any]) -> Iterator[str]:
    app, secrets = _mapping(values.get("stack_app")), _mapping(values.get("stack_secrets"))
    plain_ones, secret_ones = (
        _mapping(app.get(part)) for part in ("environment", "secret_environment")
    )
    sizes = []
    for part, section in (("environment", plain_ones), ("secret_environment", secret_ones)):
        for name, value in section.items():
            where = f"stack_app.{part}.{name}"
            if not isinstance(name, str) or not ENV_NAME.match(name):
                yield (
                    f"stack_app.{part}: {quoted(name)} is not an environment variable name"
                    " (letters, digits and _; quote what YAML takes for something else, such as"
                    " NO)."
                )
                continue
            if name in RESERVED_ENV:
                yield (
                    f"{where} is set, but the deploy writes {name} itself:"
                    " remove it, or give your application another name."
                )
            if part == "environment":
                try:
                    text = env_text(value)
                except ValueError as error:
                    yield f"{where} {error}"
                    continue
            elif not isinstance(value, str) or not SECRET_NAME.match(value):
                # It may be the secret itself: not told.
                yield f"{where} is no name: give that of a secret in stack_secrets."
                continue
            elif value == BACKUP_SECRET:
                yield (
                    f"{where} is {value}, which signs backup sets: an application that has it could"
                    " sign sets of its own. Give the application a secret of another name."
                )
                continue
            else:
                secret = secrets.get(value)
                text = secret if isinstance(secret, str) else ""
            sizes.append(len(f"{name}={text}".encode(errors="replace")))
            if sizes[-1] >= MAX_WORD:
                yield (
                    f"{where} is {sizes[-1]} bytes long with its name: the kernel gives a process"
                    f" at most {MAX_WORD - 1} for one; put it into a file of the image."
                )
    for name in plain_ones.keys() & secret_ones.keys():
        yield f"stack_app.environment.{name} is in secret_environment too: remove one of them."
    if sum(sizes) > MAX_ENVIRONMENT >= max(sizes):
        yield (
            f"stack_app.environment is {sum(sizes)} bytes long with the secrets: the kernel gives a"
            f" process at most {MAX_ENVIRONMENT} safely; put some of it into files of the image."
        )


def _image_problems(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    build = _mapping(section.get("build"))
    if not section.get("image") and not build.get("context"):
        yield f"{where} has neither image nor build.context: set one of them."
    for key in ("context", "dockerfile"):
        if not isinstance(build.get(key, ""), str):
            yield f"{where}.build.{key} is {quoted(build[key])}: give a path."


def _reference_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the references of the platform images."""
    images = values.get("image_refs", {})
    if not isinstance(images, Mapping):
        yield f"image_refs is {quoted(images)}: give a mapping of names to references."
    for name in (
        _platform_images(values) if isinstance(images, Mapping) and "image_refs" in values else ()
    ):
        if not images.get(name) or not IMAGE.matches(images[name]):
            yield (
                f"image_refs.{name} is {quoted(images.get(name))}: {IMAGE.remedy} image_refs takes"
                " the place of all defaults."
            )


def _platform_images(values: Mapping[str, Any]) -> list[str]:
    """Return the names in image_refs that a stack needs."""
    needed = ["nginx", "postgres", "redis", "qdrant", "python"]
    return [*needed, *(["mariadb"] if values.get("mariadb_enabled") else [])]


def registry_references(values: Mapping[str, Any], sources: Collection[str]) -> dict[str, str]:
    """Return the references that come from a registry, by the variable that holds each.

    Args:
        values: the shared variables of role ``stack`` by name.
        sources: values of image_source with which image_refs count; what stack_app.build builds
            never counts.
    """
    app = _mapping(values.get("stack_app"))
    found = {
        "stack_app.image": app.get("image"),
        "stack_app.frontend.image": _mapping(app.get("frontend")).get("image"),
    }
    if values.get("image_source", "auto") in sources:
        images = _mapping(values.get("image_refs"))
        names = [
            name
            for name in _platform_images(values)
            if name != "python" or not found["stack_app.image"]
        ]
        found |= {f"image_refs.{name}": images.get(name) for name in names}
    return {name: ref for name, ref in found.items() if ref and isinstance(ref, str)}


def moving_references(values: Mapping[str, Any]) -> list[str]:
    """Return the references without digest whose registry a deploy asks, sorted, unique."""
    references = registry_references(values, ("auto", "registry")).values()
    digests = _mapping(values.get("image_digests"))
    return sorted({reference for reference in references if not digest_of(reference, digests)})


def _pinning_problems(values: Mapping[str, Any]) -> Iterator[str]:
    yield from find_digest_problems(values.get("image_digests", {}))
    if values.get("image_pinning") != "strict":
        return
    digests = _mapping(values.get("image_digests"))
    for name, reference in registry_references(values, ("registry",)).items():
        if not PINNED.search(f"{reference.partition('@')[0]}@{digest_of(reference, digests)}"):
            yield (
                f"{name} is {quoted(reference)}, which has no digest, and image_pinning is"
                " 'strict': let playbooks/digests.yml write it into image_digests, add"
                " @sha256:… yourself, or set image_pinning to follow."
            )


def _registry_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with registry_logins; names only, for a misplaced value may be secret."""
    logins = values.get("registry_logins") or []
    if isinstance(logins, (str, Mapping)) or not isinstance(logins, Sequence):
        yield f"registry_logins is no list: give a list of mappings with {', '.join(LOGIN)}."
        return
    for index, login in enumerate(logins):
        where = f"registry_logins[{index}]"
        if not isinstance(login, Mapping):
            yield f"{where} is no mapping: give one with {', '.join(LOGIN)}."
            continue
        if any(key not in LOGIN for key in login):
            yield f"{where} has a key that nothing reads: give {', '.join(LOGIN)}, and no other."
        registry = login.get("registry")
        if not isinstance(registry, str) or not REGISTRY.match(registry):
            fault = "holds a login" if "@" in str(registry) else f"is {quoted(registry)}"
            yield (
                f"{where}.registry {fault}: give a host name such as"
                " registry.example.com or registry.example.com:5000, without https:// and path."
            )
        for key in ("username", "password"):
            value = login.get(key)
            if value is None or value == "":
                yield f"{where}.{key} is empty: give {LOGIN[key]}."
            elif not isinstance(value, str):
                yield f"{where}.{key} is no text: quote it (YAML reads 0123 as 83)."
            elif not value.isprintable():
                yield f"{where}.{key} holds a control character: use printable characters only."
    names = Counter(str(login.get("registry")) for login in logins if isinstance(login, Mapping))
    for name, count in names.items():
        if count > 1:
            yield (
                f"registry_logins: {quoted(name)} stands there {count} times: Docker keeps one"
                " login per registry; remove the others."
            )


def _proxy_problems(values: Mapping[str, Any], variable: str) -> Iterator[str]:
    proxies = values.get(variable) or {}
    known = ("http_proxy", "https_proxy", "no_proxy")
    if not isinstance(proxies, Mapping) or not all(name in known for name in proxies):
        yield f"{variable} is no mapping of {', '.join(known)}: give nothing else in it."
        return
    for name, value in proxies.items():  # a proxy's URL may hold a password: never told
        if not isinstance(value, str) or not value.isprintable():
            yield f"{variable}.{name} is no printable text: give a URL, or a list of hosts."


def _pool_problems(values: Mapping[str, Any]) -> Iterator[str]:
    pools = values.get("celery_workers")
    if not isinstance(pools, Sequence) or isinstance(pools, str) or not pools:
        yield "celery_workers is empty: without a pool no task runs; define at least one."
        return
    names = Counter(str(pool.get("name")) for pool in pools if isinstance(pool, Mapping))
    for each, count in names.items():
        if count > 1:
            yield f"celery_workers: {count} pools are named {quoted(each)}: give each its own name."
    for index, pool in enumerate(pools):
        where = f"celery_workers[{index}]"
        if not isinstance(pool, Mapping):
            yield f"{where} is {quoted(pool)}: give a mapping with name, queues and concurrency."
            continue
        name = pool.get("name")
        if not isinstance(name, str) or not POOL.match(name):
            yield (
                f"{where}.name is {quoted(name)}: use lower-case letters, digits and '-',"
                " at most 30; quote it when it is a number."
            )
        queues = pool.get("queues")
        if not isinstance(queues, Sequence) or isinstance(queues, str) or not queues:
            yield f"{where}.queues is {quoted(queues)}: give a list with at least one queue name."
        else:
            for queue in queues:
                if not isinstance(queue, str) or not QUEUE.match(queue):
                    yield (
                        f"{where}.queues: {quoted(queue)} is not a queue name (letters, digits,"
                        " _.:-; quote what YAML takes for something else)."
                    )
        for key in ("concurrency", "replicas"):
            if not COUNT.matches(pool.get(key, 1)):
                yield f"{where}.{key} is {quoted(pool[key])}: {COUNT.remedy}"
        yield from _resource_problems(where, pool)


def _limit_problems(values: Mapping[str, Any]) -> Iterator[str]:
    app, limits = _mapping(values.get("stack_app")), values.get("stack_limits")
    web = _mapping(app.get("web"))
    yield from _resource_problems("stack_app.web", web)
    if not isinstance(limits, Mapping):
        yield f"stack_limits is {quoted(limits)}: give a mapping of services to memory and cpus."
        return
    needed = ["nginx", "backend", "postgres", "redis", "qdrant"]
    needed += ["frontend"] if app.get("frontend") else []
    needed += ["celery-beat"] if _mapping(app.get("celery")).get("beat") else []
    needed += ["mariadb"] if values.get("mariadb_enabled") else []
    missing: dict[str, list[str]] = {"memory": [], "cpus": []}
    for service in [*needed, *(name for name in limits if name not in needed)]:
        limit = limits.get(service, {})
        where = f"stack_limits.{service}"
        if not isinstance(limit, Mapping):
            yield f"{where} is {quoted(limit)}: give a mapping with memory and cpus."
            continue
        yield from _resource_problems(where, limit)
        for key in ("memory", "cpus") if service in needed else ():
            if key not in limit and not (service == "backend" and service in limits and key in web):
                missing[key].append(service)
    names = [f"{key} of {listed(services)}" for key, services in missing.items() if services]
    if names:
        yield (
            f"stack_limits lacks {' and '.join(names)}: it takes the place of all defaults, so give"
            " every service its memory and cpus."
        )


def _resource_problems(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    if "memory" in section:
        size = size_bytes(section["memory"])
        setting = f"{where}.memory is {quoted(section['memory'])}"
        if size is None:
            yield f"{setting}: give a number and a unit, such as 512m or 1g."
        elif size < MINIMUM_MEMORY:
            yield f"{setting}: the engine accepts no less than 6m."
    if "cpus" in section:
        cpus = number(section["cpus"])
        if cpus is None or not 0.01 <= cpus <= 4096:
            yield f"{where}.cpus is {quoted(section['cpus'])}: give a number of CPUs, such as 0.5."
    yield from validate_limits(where, section)


def _budget_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield breaks of the shutdown budget: each limit must leave room for the one below it."""
    names = (
        "celery_task_soft_time_limit",
        "celery_task_time_limit",
        "celery_drain_timeout",
        "celery_stop_grace_period",
        "celery_visibility_timeout",
    )
    seconds: dict[str, int] = {}
    for name in names:
        if SECONDS.matches(values.get(name)):
            seconds[name] = whole(values[name]) or 0
        else:
            yield f"{name} is {quoted(values.get(name))}: {SECONDS.remedy}"
    for low, high, why in (
        (names[0], names[1], "a task must get its soft limit before it is killed"),
        (names[2], names[3], "Docker would kill the worker before it has put its tasks back"),
        (names[1], names[4], "a task that still runs would be started a second time"),
    ):
        if low in seconds and high in seconds and seconds[low] >= seconds[high]:
            yield (f"{low} ({seconds[low]} s) must be less than {high} ({seconds[high]} s): {why}.")


def _secret_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield names and remedies of wrong secrets; of a value nothing but its length."""
    if not isinstance(values.get("stack_secrets", {}), Mapping):
        yield "stack_secrets is no mapping: give names and values (docs/DEPLOYMENT.md)."
        return
    secrets = _mapping(values.get("stack_secrets"))
    for name in required_secrets(values):
        value, where = secrets.get(name), f"stack_secrets.{name}"
        if value is None or value == "":
            if values.get("stack_secrets_generate") is not True and name not in OWN_SECRETS:
                yield (
                    f"{where} is missing: set vault_{name} with"
                    " `ansible-vault edit` (inventories/example shows how),"
                    " or stack_secrets_generate: true."
                )
        elif not isinstance(value, str):
            yield f"{where} is no text: quote it (YAML reads 0123 as 83, and yes as true)."
        elif name in (*SECRETS, *OWN_SECRETS, *MARIADB_SECRETS, BACKUP_SECRET):
            yield from _password_problems(where, value)
            if name == BACKUP_SECRET and len(value.strip()) < MIN_KEY:
                yield (
                    f"{where} has {len(value.strip())} characters: give {MIN_KEY} or more, such as"
                    " of `openssl rand -base64 32`."
                )


def _password_problems(where: str, value: str) -> Iterator[str]:
    """Yield what the stack's services and their clients cannot take as a password or key."""
    if re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", value):
        yield f"{where} holds a control character: use printable characters only."
    length = len(value.encode(errors="replace"))
    if length > MAX_SECRET:
        yield f"{where} is {length} bytes long: give at most {MAX_SECRET}."
    if where.endswith(".qdrant_api_key") and (not value.isascii() or value != value.strip()):
        yield (
            f"{where} is sent in an HTTP header: use ASCII characters, with no space at its ends."
        )


def _hook_problems(values: Mapping[str, Any]) -> Iterator[str]:
    hooks = values.get("rollout_hooks") or {}
    if not isinstance(hooks, Mapping):
        yield f"rollout_hooks is {quoted(hooks)}: give a mapping of points to lists of commands."
        return
    for point, commands in hooks.items():
        if point not in HOOK_POINTS:
            yield f"rollout_hooks.{point}: there is no such point; choose {', '.join(HOOK_POINTS)}."
            continue
        if not isinstance(commands, Sequence) or isinstance(commands, str):
            yield f"rollout_hooks.{point} is {quoted(commands)}: give a list of commands."
            continue
        for index, hook in enumerate(commands):
            where = f"rollout_hooks.{point}[{index}]"
            if problem := command_problem(f"{where}.command", _mapping(hook).get("command")):
                yield problem
            timeout = _mapping(hook).get("timeout", 600)
            if not SECONDS.matches(timeout):
                yield f"{where}.timeout is {quoted(timeout)}: {SECONDS.remedy}"


class Hook(TypedDict):
    """A command of rollout_hooks; ``timeout`` in seconds."""

    name: str
    command: list[str]
    timeout: int


class Pool(TypedDict):
    """A worker pool: its Compose service, and the limits of each of its containers."""

    name: str
    service: str
    queues: list[str]
    concurrency: int
    replicas: int
    memory: str
    cpus: float
    pids: int
    tmp: int


class CeleryModel(TypedDict):
    """The properties that workers of a release must have; limits in seconds."""

    app: str
    canary_task: str
    expected_tasks: list[str]
    time_limit: int
    soft_time_limit: int


class StackModel(TypedDict):
    """The stack as templates and roles read it; see `stack_model`."""

    pools: list[Pool]
    front: dict[str, Any]
    probes: dict[str, HealthProbe]
    limits: dict[str, dict[str, Any]]
    data_services: list[str]
    services: list[str]
    rollout: dict[str, dict[str, Any]]
    memory_bytes: int
    volumes: list[str]
    uploads: str
    required_secrets: list[str]
    moving_references: list[str]
    registry_references: dict[str, str]
    celery: CeleryModel
    hooks: dict[str, list[Hook]]
    queues: list[str]


def _hooks(values: Mapping[str, Any]) -> dict[str, list[Hook]]:
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


def stack_model(values: Mapping[str, Any]) -> StackModel:
    """Return what templates and roles read: names and numbers derived from checked variables.

    Returns:
        ``pools`` (each with service, memory, cpus, replicas …), ``front`` (how browsers reach it:
        ``tls`` (its source, or empty), ``scheme``, ``port``, ``names``, ``host`` (the first name as
        URLs have it), ``headers``, ``public`` (what stands in browsers, see proxy.public_url), and
        what `entry_model` returns), ``probes`` (what health checks ask), ``limits`` (by service),
        ``data_services``, ``services``, ``volumes``, ``uploads`` (folder in the application's
        containers, or empty), ``memory_bytes`` (sum of all limits),
        ``required_secrets``, ``queues`` (sorted, unique), ``moving_references`` (those that a
        deploy asks their registry for), ``registry_references`` (all of registries, by the variable
        that holds each), ``rollout`` (how each service is
        replaced, see rollout.plan), ``celery`` (what its workers must be like). The model is
        kept in the release's manifest: a release that is put back is judged by its own.
    """
    app = values["stack_app"]
    limits = {name: dict(limit) for name, limit in values["stack_limits"].items()}
    web = app["web"]
    limits["backend"].update({key: web[key] for key in RESOURCES if web.get(key)})
    for name in PIDS.keys() & limits.keys():
        if size_bytes(limits[name].get("memory")):  # else a service that this stack does not have
            limits[name].update(container_limits(limits[name], PIDS[name]))
    pools: list[Pool] = [
        {
            "name": pool["name"],
            "service": pool_service(pool["name"]),
            "queues": list(pool["queues"]),
            "concurrency": int(pool.get("concurrency", 1)),
            "replicas": int(pool.get("replicas", 1)),
            "memory": str(pool.get("memory", "1g")),
            "cpus": float(pool.get("cpus", 1.0)),
            **container_limits(
                {"memory": "1g", **pool}, worker_pids(int(pool.get("concurrency", 1)))
            ),
        }
        for pool in values["celery_workers"]
    ]
    data = ["postgres", "redis", "qdrant", *(["mariadb"] if values["mariadb_enabled"] else [])]
    beat = ["celery-beat"] if app["celery"].get("beat") else []
    front = ["frontend"] if app.get("frontend") else []
    entry = _front(values)
    counted = {
        "nginx": 1,
        "backend": int(web.get("replicas", 1)),
        **dict.fromkeys([*front, *beat, *data], 1),
    }
    memory = sum((size_bytes(limits[name]["memory"]) or 0) * n for name, n in counted.items())
    memory += sum((size_bytes(pool["memory"]) or 0) * pool["replicas"] for pool in pools)
    probes = health_probes(app, entry["public"])
    return {
        "pools": pools,
        "front": entry,
        "probes": probes,
        "limits": limits,
        "data_services": data,
        "services": [*counted, *(pool["service"] for pool in pools)],
        "rollout": {
            **{name: {"kind": "fixed"} for name in (*data, "nginx")},
            **{name: _web(probes[name]) for name in front},
            "backend": {**_web(probes["backend"]), "replicas": counted["backend"]},
            **{p["service"]: {"kind": "worker", "replicas": p["replicas"]} for p in pools},
            **{name: {"kind": "single"} for name in beat},
        },
        "memory_bytes": memory,
        "volumes": [
            *data,
            *(["beat"] if beat else []),
            *(["uploads"] if app.get("uploads") else []),
            "nginx-temp",
        ],
        "uploads": app.get("uploads") or "",
        "required_secrets": required_secrets(values),
        "moving_references": moving_references(values),
        "registry_references": registry_references(values, ("auto", "registry")),
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


def _web(probe: HealthProbe) -> dict[str, Any]:
    """Return how a web service is rolled out: nginx asks its containers as `probe` says."""
    return {"kind": "web", "port": probe["port"], "probe": dict(probe)}


def _front(values: Mapping[str, Any]) -> dict[str, Any]:
    source = str(values.get("stack_tls", "none"))
    secure = source != "none"
    names = [str(name).lower() for name in values.get("stack_server_names") or []]
    extra = values.get("stack_security_headers") or {}
    headers = {str(name): str(value) for name, value in extra.items() if value}
    seconds = int(values.get("stack_hsts_seconds", 0))
    if seconds:
        headers[HSTS] = f"max-age={seconds}"
    front = {
        "tls": source if secure else "",
        "scheme": "https" if secure else "http",
        "port": int(values["stack_https_port" if secure else "stack_http_port"]),
        "names": names,
        "host": url_host(names[0]) if names else "",
        "headers": headers,
        **entry_model(values),
    }
    return {**front, "public": public_site(values, front)}


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


def host_name(inventory_name: str) -> str:
    """Return an inventory name as part of a Celery node name: no ``@``, ``%``, ``$`` or space."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", inventory_name)


def url_secret(value: str) -> str:
    """Return a secret as it stands in the user-info part of a URL (RFC 3986)."""
    return quote(value, safe="")


def short_digest(text: str) -> str:
    """Return the first 12 hex digits of the SHA-256 of `text`: they tell two contents apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a mapping, else an empty one: the type is checked elsewhere."""
    return value if isinstance(value, Mapping) else {}
