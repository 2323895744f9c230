"""Broken variables, templates and hostile texts wherever an operator can put one.

Either one clear error for each, or a release that says exactly what was given.
"""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.model import validators as forms
from ansible_collections.crisper.stack.plugins.module_utils.model.file_values import nginx_value
from ansible_collections.crisper.stack.plugins.module_utils.model.redis_users import app_password
from ansible_collections.crisper.stack.plugins.module_utils.model.secrets import SECRET_NAME
from ansible_collections.crisper.stack.plugins.module_utils.model.service_options import CHECKS
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import NAME, validate
from ansible_collections.crisper.stack.plugins.module_utils.model.workers import (
    POOL,
    QUEUE,
    pool_service,
)
from ansible_collections.crisper.stack.plugins.module_utils.proxy.entry import entry_model
from ansible_collections.crisper.stack.plugins.module_utils.proxy.resources import entry_resources
from hostile_values import TEXTS, UNFIT, Unsafe, example, unsafe, written
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nginx_directives import directives
from rendering import ROOT, Inventory, outcome

NAMED = {f"V{index}": text for index, text in enumerate(TEXTS) if len(text) < 10_000}
# Where one value decides something; `*` is any key of one's own.
PLACES = (
    *("stack_name", "stack_root", "stack_http_port", "stack_bind_address", "stack_max_body_size"),
    *("stack_proxy.http_proxy", "image_source", "image_refs.redis", "release_keep"),
    *("stack_container_proxy", "stack_container_proxy.http_proxy", "image_pinning"),
    *("registry_logins", "registry_logins.0", "registry_logins.0.registry"),
    *("registry_logins.0.username", "registry_logins.0.password"),
    *("stack_app.image", "stack_app.user", "stack_app.database_scheme", "stack_app.web.command"),
    *("stack_app.web.command.0", "stack_app.web.port", "stack_app.web.health_path"),
    *("stack_public_url", "stack_app.web.health_host", "stack_app.web.health_status"),
    *("stack_app.web.replicas", "stack_app.web.memory", "stack_app.web.cpus"),
    *("stack_app.frontend", "stack_app.frontend.port", "stack_app.frontend.health_path"),
    *("stack_app.build", "stack_app.build.context", "stack_app.build.dockerfile"),
    *("stack_app.celery.app", "stack_app.celery.beat", "stack_app.celery.health"),
    *("stack_app.celery.heartbeat_file", "stack_app.celery.canary_task", "stack_app.uploads"),
    *("stack_app.celery.expected_tasks", "stack_app.migrate", "stack_app.migrate.command"),
    *("stack_app.migrate.timeout", "stack_app.migrate.check_command"),
    *("stack_app.migrate.changed_pattern", "stack_app.migrate.irreversible_pattern"),
    *("stack_app.backend_paths", "stack_app.backend_paths.0", "stack_app.environment"),
    *("stack_app.environment.A", "stack_app.secret_environment", "stack_app.secret_environment.A"),
    *("stack_secrets", "stack_secrets.postgres_password", "stack_secrets.redis_password"),
    *("stack_secrets.qdrant_api_key", "stack_secrets.secret_key", "stack_secrets.admin_password"),
    *("stack_secrets_generate", "mariadb_enabled", "celery_allow_unknown_tasks", "rollout_ledger"),
    *("celery_workers", "celery_workers.0", "celery_workers.0.name", "celery_workers.0.queues"),
    *("celery_workers.0.queues.0", "celery_workers.0.concurrency", "celery_workers.0.replicas"),
    *("celery_workers.0.memory", "celery_workers.0.cpus", "celery_task_soft_time_limit"),
    *("celery_task_time_limit", "celery_visibility_timeout", "celery_drain_timeout"),
    *("celery_stop_grace_period", "stack_limits", "stack_limits.redis"),
    *("stack_limits.redis.memory", "stack_limits.redis.cpus"),
    *("stack_limits.redis.pids", "stack_limits.redis.tmp", "stack_redis_commands"),
    *("stack_redis_commands.0", "celery_workers.0.pids", "celery_workers.0.tmp"),
    *("stack_trusted_proxies", "stack_trusted_proxies.0", "stack_proxy_protocol"),
    *("stack_rate_limits", "stack_rate_limits.0", "stack_rate_limits.0.path"),
    *("stack_rate_limits.0.rate", "stack_rate_limits.0.burst", "stack_access_log"),
    *("stack_rate_limits.0.methods", "stack_login_paths", "stack_login_paths.0"),
    *("stack_login_limit", "stack_login_limit.rate", "stack_login_limit.burst"),
    *("stack_client_connections", "stack_header_timeout", "stack_body_timeout"),
    *("stack_accepted_hosts", "stack_accepted_hosts.0", "stack_security_headers"),
    *("stack_app.locations", "stack_app.locations.0", "stack_app.locations.0.path"),
    *(f"stack_app.locations.0.{key}" for key in ("kind", "exact", "body_size", "timeout", "cache")),
    *("stack_app.locations.0.buffering", "stack_app.locations.0.request_buffering"),
    *("stack_app.locations.0.rate_limit", "stack_app.locations.0.rate_limit.rate"),
    *("stack_app.locations.0.rate_limit.burst", "stack_app.locations.1.to"),
    *("stack_app.locations.1.status", "stack_app.locations.2.alias"),
    *(f"stack_app.web.{option}" for option in CHECKS),
    *("stack_app.web.tmpfs.0.path", "stack_app.web.tmpfs.0.size", "stack_app.web.tmpfs.0.exec"),
    *(f"stack_app.web.volumes.0.{key}" for key in ("name", "path", "read_only")),
    "stack_app.web.volumes.1.host",
    *("stack_app.web.healthcheck", "stack_app.web.healthcheck.tcp"),
    *("stack_app.web.files.0.path", "stack_app.web.files.0.content"),
    *("stack_app.web.entrypoint.0", "stack_app.web.cap_add.0", "stack_app.web.ulimits.core"),
    *("stack_app.web.devices.0", "stack_app.web.labels.team", "stack_app.web.extra_hosts.ldap"),
    *("stack_app.web.environment.A", "stack_app.web.stop_signal"),
    *("stack_app.web.stop_grace_period", "stack_app.frontend.command"),
    *("rollout_hooks", "rollout_hooks.after_switch"),
    *("rollout_hooks.after_switch.0.command", "rollout_hooks.after_switch.0.command.0"),
    *("rollout_hooks.after_switch.0.timeout", "rollout_hooks.after_switch.0.name"),
)  # fmt: skip
ROOTS = tuple({place.split(".")[0] for place in PLACES})
SECRET = (
    "stack_secrets.",
    "stack_proxy.",
    "stack_container_proxy.",
    "registry_logins.0.password",
    "stack_app.environment",
    "stack_app.secret_environment",
    "stack_app.web.files.0.content",
)
# Every option of a service, as an operator may write it.
OPTIONS = {
    "entrypoint": ["tini", "--"],
    "user": "10001",
    "read_only": True,
    "tmpfs": [{"path": "/run/app", "size": "16m", "exec": False}],
    "volumes": [
        {"name": "models", "path": "/srv/models", "read_only": True},
        {"host": "/srv/data", "path": "/data"},
    ],
    "files": [{"path": "/run/key.pem", "content": "k"}],
    "cap_add": ["NET_RAW"],
    "shm_size": "16m",
    "ulimits": {"core": 0},
    "devices": ["/dev/fuse"],
    "labels": {"team": "shop"},
    "extra_hosts": {"ldap": "192.0.2.7"},
    "environment": {"A": "b"},
    "stop_signal": "SIGINT",
    "stop_grace_period": 60,
    "healthcheck": {"tcp": 8000, "interval": 20},
}
ODD = (
    *(None, True, False, 0, -1, 1, 80, 10**30, 0.5, -0.0, math.inf, math.nan, b"raw", {1, 2}),
    *([], {}, [None], {"a": None}, {True: 1}, ["a", 1], [["a"]], {"a": {"b": ["c"]}}),
)
TEXT = st.text(max_size=40)
VALUES = (
    st.sampled_from((*TEXTS, *UNFIT))
    | st.sampled_from(ODD)
    | TEXT
    | st.integers()
    | st.floats()
    | st.lists(TEXT, max_size=3)
    | st.dictionaries(TEXT, TEXT, max_size=3)
)
FIT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)


@cache
def site() -> dict[str, Any]:
    """The example site with every default, resolved; hooks and proxies besides."""
    inventory = Inventory(written(unsafe(example())))
    values = json.loads(json.dumps(inventory.value("__stack_values")))
    values["stack_proxy"] = {"http_proxy": "http://user:pass@proxy:3128"}
    values["stack_container_proxy"] = {"http_proxy": "http://user:pass@proxy:3128"}
    values["registry_logins"] = [{"registry": "r.example:5000", "username": "u", "password": "p"}]
    values["stack_trusted_proxies"] = ["10.0.0.0/8"]
    values["stack_limits"]["redis"] = {"memory": "1g", "cpus": 1, "pids": 100, "tmp": "8m"}
    values["image_refs"]["redis"] = "docker.io/library/redis:8.0"
    values["celery_workers"][0] |= {"pids": 2000, "tmp": "64m"}
    values["stack_redis_commands"] = ["flushdb"]
    values["stack_rate_limits"] = [{"path": "/some", "rate": "10r/s", "burst": 1}]
    values["stack_accepted_hosts"] = ["app.example"]
    limit = {"rate": "5r/m", "burst": 5}
    values["stack_app"]["locations"] = [
        {"path": "/own/x", "kind": "backend", "timeout": 5, "rate_limit": limit, "cache": 5},
        {"path": "/own/y", "kind": "redirect", "to": "/z", "status": 302},
        {"path": "/own/z/", "kind": "static", "alias": "/srv/public"},
        {"path": "/own/d", "kind": "deny"},
    ]
    values["stack_app"]["web"] |= OPTIONS
    values["stack_app"]["frontend"]["command"] = ["serve"]
    values["rollout_hooks"] = {"after_switch": [{"name": "warm", "command": ["true"]}]}
    assert validate(values) == []
    return values


def changed(place: str, value: Any) -> dict[str, Any]:
    """The site with one value in one place."""
    values = copy.deepcopy(site())
    put(values, place, value)
    return values


def put(values: dict[str, Any], place: str, value: Any) -> None:
    """Set the value in a place."""
    target: Any = values
    *parents, last = place.split(".")
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]
    target[int(last) if isinstance(target, list) else last] = value


@cache
def baseline() -> dict[str, str]:
    """The files of the site as it is, with a user and uploaded files."""
    values = changed("stack_app.user", "app")
    put(values, "stack_app.uploads", "/media")
    findings, files = outcome(written(unsafe(values)))
    assert findings == []
    return files


def refused(place: str, value: Any) -> list[str]:
    """The findings when one value stands in one place; each is one clear sentence."""
    findings = validate(changed(place, value))
    for finding in findings:
        assert finding.isprintable(), finding
        assert len(finding) < 600, finding
        assert finding.endswith("."), finding
        assert finding.startswith(ROOTS), finding
    return findings


# --- One clear error, or none ------------------------------------------------------------------


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(PLACES), VALUES)
def test_a_value_in_any_place_is_fit_or_named_with_a_remedy(place, value):
    findings = refused(place, value)
    if isinstance(value, str) and len(value) > 10 and f"{place}.".startswith(SECRET):
        if "secret_environment" in place and SECRET_NAME.match(value):
            return  # it reads like the name of one
        assert value not in " ".join(findings)


@pytest.mark.parametrize("value", UNFIT)
@pytest.mark.parametrize(
    "place", ["stack_app.environment.A", "stack_app.web.command.0", "stack_secrets.admin_password"]
)
def test_what_no_process_can_receive_is_refused(place, value):
    assert refused(place, value)


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("A", "x" * (131_072 - 2 - 1), True),
        ("A", "x" * (131_072 - 2), False),
        ("A" * 100, "x" * (131_072 - 101 - 1), True),
        ("A" * 100, "x" * (131_072 - 101), False),
        ("A", "한" * ((131_072 - 2) // 3), False),
        ("A", ["x" * 131_072], False),
    ],
)
def test_an_environment_value_may_be_as_long_as_the_kernel_takes(name, value, fits):
    """Regression: Compose took it, and the container did not start (argument list too long)."""
    findings = refused("stack_app.environment", {name: value})
    assert (findings == []) is fits
    assert fits or "131071" in findings[0]


def test_an_environment_may_be_as_long_as_the_kernel_takes():
    findings = refused("stack_app.environment", {f"V{n}": "x" * 100_000 for n in range(11)})
    assert len(findings) == 1
    assert re.search(r"stack_app.environment is 11000\d\d bytes long", findings[0])


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        # Regressions: all of these were taken, and failed later or did something else.
        ("stack_name", 123, "quote it"),
        ("stack_name", "shop-", "stack_name is 'shop-'"),
        ("stack_name", "a___b", "stack_name is 'a___b'"),
        ("stack_name", "pg-shop", "has a 'pg_shop' of its own"),
        ("stack_root", "//", "absolute path"),
        ("stack_root", "/.", "absolute path"),
        ("stack_http_port", "80\n", "1 to 65535"),
        ("stack_http_port", "٨٠", "1 to 65535"),
        ("stack_http_port", "8_0", "1 to 65535"),
        ("stack_bind_address", 'x"]\n    privileged: true', "an IP address"),
        ("stack_max_body_size", "١m", "such as 10m"),
        ("stack_max_body_size", "9" * 19 + "g", "such as 10m"),
        ("mariadb_enabled", "false", "give true or false"),
        ("stack_secrets_generate", "false", "give true or false"),
        ("stack_app.celery.beat", "no", "give true or false"),
        ("stack_app.celery.app", "x; reboot", "project.celery"),
        ("stack_app.celery.heartbeat_file", "/tmp/x; reboot", "absolute path"),
        ("stack_app.uploads", "/media:/etc", "such as /app/media"),
        ("stack_app.web.port", "8000; } evil {", "1 to 65535"),
        ("stack_app.web.health_path", '/"); import os; ("', "stands in a URL"),
        ("stack_app.frontend.health_path", "/{a,b}", "stands in a URL"),
        ("stack_app.web.replicas", 0, "1 to 512"),
        ("stack_app.web.cpus", "nan", "such as 0.5"),
        ("stack_app.web.memory", "9" * 400 + "g", "such as 512m"),
        ("stack_app.user", "root\nprivileged: true", "a user such as"),
        ("stack_app.migrate", {"timeout": 5}, "stack_app.migrate.command is missing"),
        ("stack_app.migrate.changed_pattern", "(", "regular expression"),
        ("stack_app.frontend", {"image": "x"}, "stack_app.frontend.port is missing"),
        ("stack_app.backend_paths", ["/a", "/a"], "is listed 2 times"),
        ("stack_app.backend_paths", ["/"], "so does stack_app.frontend"),
        ("stack_app.backend_paths.0", "/a { } #", "begins with '/'"),
        ("stack_app.environment", [{"A": "1"}], "is no mapping"),
        ("stack_app.environment", {False: "x"}, "such as NO"),
        ("stack_app.environment.A", b"raw", "quote it"),
        ("stack_app.secret_environment", {"A": 5}, "that of a secret in stack_secrets"),
        ("stack_app.environment.ADMIN_PASSWORD", "x", "in secret_environment too"),
        ("stack_secrets.redis_password", 83, "quote it"),
        ("stack_secrets.qdrant_api_key", "é", "HTTP header"),
        ("stack_secrets.postgres_password", "x" * 1025, "1025 bytes long"),
        ("celery_workers.0.queues", [True], "is not a queue name"),
        ("stack_limits", {"reddis": {"memory": "1g"}}, "no such key: did you mean redis?"),
        ("image_refs", {"ngnix": "nginx:1"}, "no such key: did you mean nginx?"),
        ("image_refs", {"nginx": ""}, "image_refs.nginx is ''"),
        ("stack_proxy", {"x; reboot": "y"}, "http_proxy"),
        ("release_keep", 0, "1 to 1000"),
        ("rollout_hooks.after_switch.0.command", [True], "quote it"),
    ],
)  # fmt: skip
def test_what_used_to_be_taken_is_refused(place, value, said):
    findings = refused(place, value)
    assert any(said in finding for finding in findings), findings


def test_several_lines_may_stand_in_a_secret_of_the_application():
    assert refused("stack_secrets.admin_password", "-----BEGIN KEY-----\nMIIB\n") == []
    assert refused("stack_secrets.redis_password", "a\nb")


# --- Templates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('stack_http_port: "{{ nope }}"', "stack_http_port refers to nope, which is not set"),
        ('stack_root: "/opt/{{ nope }}"', "stack_root cannot be resolved: 'nope' is undefined."),
        ('stack_name: "a{{"', "stack_name cannot be resolved: Syntax error in template"),
        ('celery_drain_timeout: "{{ 1 / 0 }}"', "celery_drain_timeout cannot be resolved"),
        ('stack_app: {environment: {A: ["{% if %}"]}}', "stack_app.environment.A[0] cannot be"),
        ('stack_secrets: {redis_password: "{{ vault_x }}"}', "refers to vault_x, which is not set"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_resolved_is_one_clear_error(text, said):
    findings, files = outcome(text)
    assert said in findings[0], findings
    # And of that place nothing else is said, nor of defaults that refer to it.
    assert [f for f in findings[1:] if f.split()[0] == findings[0].split()[0]] == [], findings
    assert not [f for f in findings[1:] if "resolved" in f or "not set: set it" in f], findings
    assert files == {}


@pytest.mark.parametrize("secret", ["hunt{{er2}}", "hunter2{{", "{% hunter2 %}", "{{ hunter2() }}"])
@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("stack_secrets.redis_password", ""),
        ("stack_secrets.redis_password", "{{ vault_x }}"),
        ("stack_app.environment.A", "{{ vault_x }}"),
        ("stack_app.environment.A", "https://u:{{ vault_x | urlencode }}@host/"),
    ],
)
def test_no_part_of_a_password_that_is_no_template_is_told(secret, place, text):
    """Regression: Ansible's own check of the arguments told "'er2' is undefined"."""
    *parents, last = place.split(".")
    values: dict[str, Any] = {last: text or secret}
    for name in reversed(parents):
        values = {name: values}
    findings, _ = outcome(written(values | {"vault_x": secret}))
    assert len([finding for finding in findings if "resolved" in finding]) == 1
    assert f"{place} cannot be resolved" in findings[0]
    assert "!unsafe" in findings[0]
    assert "er2" not in " ".join(findings)


def test_literal_braces_arrive_and_templates_are_resolved_once():
    values = example()
    values["stack_secrets"] = unsafe(values["stack_secrets"])
    values["who"] = "Kim"
    values["stack_app"]["environment"] = {
        "PLAIN": "hello {{ who }}",
        "NESTED": {"a": ["{{ who }}"]},
        "RAW": "{% raw %}{{ who }}{% endraw %}",
        "UNSAFE": Unsafe("{{ who }}"),
        "MADE": "{{ '{' ~ '{ who }' ~ '}' }}",
    }
    values["stack_app"]["web"]["command"] = ["serve", "--for={{ who }}", Unsafe("{{ who }}"), 8000]
    findings, files = outcome(written(values))
    assert findings == []
    seen = environment(files[".env.prod"])
    assert seen["PLAIN"] == "hello Kim"
    assert seen["NESTED"] == '{"a": ["Kim"]}'
    assert seen["RAW"] == seen["UNSAFE"] == seen["MADE"] == "{{ who }}"
    backend = yaml.safe_load(files["docker-compose.prod.yml"])["services"]["backend"]
    assert backend["command"] == ["serve", "--for=Kim", "{{ who }}", "8000"]


# --- What is rendered --------------------------------------------------------------------------


def environment(text: str) -> dict[str, str]:
    """An env file of this repository, read strictly: comments, and NAME="value" with escapes."""
    found = {}
    for line in text.split("\n"):
        if line and not line.startswith("#"):
            name, value = re.fullmatch(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"', line, re.S).groups()
            assert name not in found
            found[name] = re.sub(
                r"\\(.)", lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), value
            )
    return found


def redis_words(line: str) -> list[str]:
    """The words of a line of redis.conf, as sdssplitargs reads them."""
    escapes = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a"}
    words = []
    for quoted, bare in re.findall(r'"((?:[^"\\]|\\.)*)"(?=\s|\Z)|([^\s"\']+)', line):
        words.append(
            bare
            or re.sub(
                r"\\(x[0-9a-fA-F]{2}|.)",
                lambda match: (
                    chr(int(match[1][1:], 16))
                    if len(match[1]) == 3
                    else escapes.get(match[1], match[1])
                ),
                quoted,
            )
        )
    return words


def shape(compose: str) -> dict[str, Any]:
    """Services and the settings each has, values apart."""
    parsed = yaml.safe_load(compose)
    return {
        "top": sorted(parsed),
        "networks": sorted(parsed["networks"]),
        "volumes": sorted(parsed["volumes"]),
        **{name: sorted(service) for name, service in parsed["services"].items()},
    }


def compose_config(files: dict[str, str], folder: Path) -> dict[str, Any]:
    """The release as the real Compose reads it."""
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content.encode())
    with (folder / ".env").open("a") as stream:
        stream.write("RELEASE=20261120t221500z-1a2b3c4d\n")
    command = ["docker", "compose", "config", "--format", "json"]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout.decode())


def as_given(value: str | None) -> str:
    """A value of Compose's answer, in which `$` is doubled."""
    return (value or "").replace("$$", "$")


def test_everything_hostile_at_once_comes_back_through_compose(tmp_path):
    values = example()
    texts: list[str] = []

    @settings(deadline=None, max_examples=200)
    @given(FIT)
    def collect(text):
        texts.append(text)

    collect()
    wanted = NAMED | {f"R{index}": text for index, text in enumerate(texts)}
    words = ["serve", *(text for text in wanted.values() if text)]
    values["stack_app"]["environment"] = wanted
    values["stack_app"]["web"]["command"] = words
    values["stack_app"]["secret_environment"] |= {"TLS_KEY": "tls_key"}
    values["stack_secrets"]["tls_key"] = "-----BEGIN\n\"x\" 'y' $z\\n\n"
    values["stack_bind_address"] = "::1"
    values["celery_workers"][0]["queues"] = ["a:b", "c:"]
    values["stack_app"]["celery"]["health"] = "ping"
    findings, files = outcome(written(unsafe(values)))
    assert findings == []
    assert environment(files[".env.prod"]).items() >= wanted.items()
    config = compose_config(files, tmp_path)
    backend = config["services"]["backend"]
    assert {name: as_given(backend["environment"][name]) for name in wanted} == wanted
    assert as_given(backend["environment"]["TLS_KEY"]) == values["stack_secrets"]["tls_key"]
    assert [as_given(word) for word in backend["command"]] == words
    assert config["services"]["nginx"]["ports"][0]["host_ip"] == "::1"
    assert "--queues=a:b,c:" in config["services"]["celery-worker"]["command"]


def printable_text(size: int = 80) -> st.SearchStrategy[str]:
    """What a password may be."""
    characters = st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp"))
    return st.text(characters, min_size=1, max_size=size)


def admitted(place: str, pattern: re.Pattern[str]) -> st.SearchStrategy[str]:
    """Everything that the form of a place admits."""
    return st.from_regex(pattern, fullmatch=True).filter(lambda text: refused(place, text) == [])


PORT = st.integers(1, 65535).map(str)
FITTING = {
    place: admitted(place, pattern)
    for place, pattern in {
        "stack_name": NAME,
        "stack_root": forms.PLAIN_PATH,
        "stack_max_body_size": forms.BODY_SIZE,
        "stack_app.database_scheme": forms.SCHEME,
        "stack_app.web.health_path": forms.URL_PATH,
        "stack_app.frontend.health_path": forms.URL_PATH,
        "stack_app.celery.app": forms.DOTTED,
        "stack_app.celery.heartbeat_file": forms.PLAIN_PATH,
        "stack_app.uploads": forms.PLAIN_PATH,
        "stack_app.backend_paths.0": forms.LOCATION,
        "celery_workers.0.name": POOL,
        "celery_workers.0.queues.0": QUEUE,
        "image_refs.redis": forms.REFERENCE,
    }.items()
} | {
    "stack_app.user": admitted("stack_app.user", forms.USER).filter(bool),
    "stack_bind_address": st.ip_addresses().map(str),
    "stack_http_port": PORT,
    "stack_app.web.port": PORT,
    "stack_app.frontend.port": PORT,
    "stack_secrets.postgres_password": printable_text(),
    "stack_secrets.redis_password": printable_text(),
    "stack_secrets.secret_key": printable_text(),
    "stack_secrets.admin_password": FIT.filter(bool),
}


# Without shrinking: a rendering takes half a second.
@settings(deadline=None, max_examples=6, phases=(Phase.explicit, Phase.generate))
@given(st.fixed_dictionaries(FITTING))
def test_what_is_fit_arrives_and_injects_nothing(drawn):
    """Regression: a given secret arrived as VALUE_SPECIFIED_IN_NO_LOG_PARAMETER."""
    values = changed("stack_app.user", "app")
    for place, value in drawn.items():
        put(values, place, value)
    findings, files = outcome(written(unsafe(values)))
    assert findings == []
    plain = baseline()
    app, secrets = values["stack_app"], values["stack_secrets"]

    pool = pool_service(values["celery_workers"][0]["name"])
    expected = shape(plain["docker-compose.prod.yml"])
    expected[pool] = expected.pop("celery-worker")
    assert shape(files["docker-compose.prod.yml"]) == expected
    services = yaml.safe_load(files["docker-compose.prod.yml"])["services"]
    live = f"{values['stack_root']}/live"
    assert services["backend"]["volumes"][0] == f"uploads:{app['uploads']}"
    static = f"{live}/static:/srv/static:ro"
    assert services["nginx"]["volumes"] == [
        f"{live}/nginx:/etc/crisper:ro",
        static,
        "uploads:/srv/uploads:ro,nocopy",
        "nginx-temp:/var/tmp",
    ]
    queues = ",".join(values["celery_workers"][0]["queues"])
    assert services[pool]["command"][6] == f"--queues={queues}"
    assert "--without-gossip" in services[pool]["command"]  # 100 gossiping workers fill two cores
    assert services["redis"]["image"] == values["image_refs"]["redis"]

    limit = yaml.safe_load(files["docker-compose.prod.yml"])["services"]["nginx"]["deploy"]
    resources = entry_resources(limit["resources"]["limits"], values["stack_max_body_size"])
    allowed = [
        ("client_max_body_size", values["stack_max_body_size"]),
        ("limit_conn", "bodies", str(resources["bodies"])),
        ("location", app["backend_paths"][0]),
        ("location", "=", app["backend_paths"][0]),
        ("limit_req", "zone=login", "burst=10", "nodelay"),
        # Login paths are limited, and have no location of their own for streams of events.
        ("recursive_error_pages", "on"),
        ("error_page", "418", "=", "@stream_0"),
        ("error_page", "502", "504", "=", "@again_0"),
        ("set", "$service", "backend"),
        ("if", "($event_stream)"),
        ("return", "418"),
        # The published port, for X-Forwarded-Port.
        ("default", values["stack_http_port"]),
        # The health path, which no limit counts.
        (nginx_value(entry_model(values)["unlimited"]), '""'),
        # And which answers to every host.
        (nginx_value(entry_model(values)["unlimited"]), "yes"),
    ]
    found = directives(files["nginx/nginx.conf"]) - directives(plain["nginx/nginx.conf"])
    assert [words for _depth, *words in found if tuple(words) not in allowed] == []

    seen = environment(files[".env.prod"])
    assert seen.keys() == environment(plain[".env.prod"]).keys()
    own = app_password(secrets["redis_password"], values["stack_name"])
    for name, host, secret in (
        ("DATABASE_URL", "postgres", secrets["postgres_password"]),
        ("CELERY_BROKER_URL", "redis", own),
        ("CELERY_RESULT_BACKEND", "redis", own),
    ):
        url = urlsplit(seen[name])
        assert (unquote(url.password), url.hostname) == (secret, host)
    assert seen["SECRET_KEY"] == secrets["secret_key"]
    assert seen["QDRANT_API_KEY"] == secrets["qdrant_api_key"]
    assert seen["ADMIN_PASSWORD"] == secrets["admin_password"]
    assert files["secrets/postgres_password"] == secrets["postgres_password"] + "\n"
    lines = [line for line in files["secrets/redis.conf"].split("\n") if line and line[0] != "#"]
    assert len(lines) == 12
    assert [line for line in lines if line.startswith("user ")] == [lines[5]]
    assert redis_words(lines[4]) == ["requirepass", secrets["redis_password"]]


def test_the_role_hands_every_judged_variable_to_the_judge():
    roles = yaml.safe_load((ROOT / "roles/stack/vars/main.yml").read_text())
    judged = set(roles["__stack_values"])
    assert {place.split(".")[0] for place in PLACES} <= judged
