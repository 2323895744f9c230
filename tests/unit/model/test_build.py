"""The stack's variables: every bad one is named with its value and a remedy."""

from __future__ import annotations

import copy
import json
import re
import subprocess

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.model import build as stack
from hypothesis import given
from hypothesis import strategies as st
from stack_values import GOOD, OWN


def changed(path: str, value: object) -> dict:
    """GOOD with one value replaced, by a dotted path."""
    values = copy.deepcopy(GOOD)
    target = values
    *parents, last = path.split(".")
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (GOOD | {"stack_tls": "yes"}, "stack_tls is 'yes': choose none, own, self_signed, acme"),
        (GOOD | {"stack_bind_address": "eth0"}, "stack_bind_address is 'eth0'"),
        (OWN | {"stack_https_port": 0}, "stack_https_port is 0"),
        (OWN | {"stack_https_port": 80}, "are both 80"),
        (OWN | {"stack_server_names": []}, "stack_server_names is empty"),
        (OWN | {"stack_server_names": "app.example"}, "give a list"),
        (OWN | {"stack_server_names": ["a_b; }"]}, "'a_b; }' is neither a host name"),
        (OWN | {"stack_tls_key": ""}, "stack_tls_key is not set: stack_tls 'own' needs it"),
        (OWN | {"stack_tls_key": "key.pem"}, "'key.pem': give an absolute path"),
        (OWN | {"stack_tls": "self_signed"}, "'/x/key.pem', but stack_tls is 'self_signed'"),
        (OWN | {"stack_hsts_seconds": -1}, "stack_hsts_seconds is -1"),
        (GOOD | {"stack_hsts_seconds": 5}, "browsers ignore it"),
        (GOOD | {"stack_security_headers": {"A B": "x"}}, "no name of a header"),
        (GOOD | {"stack_security_headers": {"A": "x\ny"}}, "printable"),
        (GOOD | {"stack_security_headers": {"A": "$host"}}, "without '$'"),
        (
            GOOD | {"stack_security_headers": {"strict-transport-security": "max-age=1"}},
            "stack_hsts_seconds is its place",
        ),
    ],
)
def test_a_bad_front_door_is_named_with_its_remedy(values, said):
    assert stack.validate(OWN) == []
    assert any(said in finding for finding in stack.validate(values))


def test_the_model_tells_how_browsers_reach_it():
    front = stack.stack_model(GOOD)["front"]
    assert (front["tls"], front["scheme"], front["port"]) == ("", "http", 80)
    assert front["headers"] == {"X-Frame-Options": "DENY"}
    front = stack.stack_model(OWN)["front"]
    assert (front["tls"], front["scheme"], front["port"]) == ("own", "https", 443)
    assert front["host"] == "app.example"
    assert front["headers"]["Strict-Transport-Security"] == "max-age=300"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_nginx_reads_back_what_was_quoted(text):
    quoted = stack.nginx_value(text)
    inner = quoted[1:-1]
    assert re.sub(r"\\(.)", r"\1", inner) == text
    assert re.search(r'(?<!\\)(?:\\\\)*"', inner) is None


def test_inline_styles_are_allowed_by_their_hash():
    assert stack.style_hashes("<p>x</p>") == ""
    # echo -n 'p{}' | openssl dgst -sha256 -binary | base64
    assert (
        stack.style_hashes("<style>p{}</style>")
        == "'sha256-gG2yISYereRMiG2lMXrbiUgi0Ubw9p7QCeWcroOvy9Y='"
    )


def test_good_values_have_no_findings():
    assert stack.validate(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("stack_name", "My App", ["stack_name", "'My App'"]),
        ("stack_root", "relative/path", ["stack_root", "absolute"]),
        ("stack_root", "/opt/../etc", ["stack_root"]),
        ("stack_http_port", 70000, ["stack_http_port", "70000", "65535"]),
        ("stack_http_port", True, ["stack_http_port"]),
        ("stack_max_body_size", "ten", ["stack_max_body_size", "'ten'", "10m"]),
        ("image_source", "hub", ["image_source", "'hub'", "registry"]),
        ("celery_workers.0.memory", "1 gigabyte", ["celery_workers[0].memory", "1 gigabyte", "1g"]),
        ("celery_workers.0.memory", "1k", ["celery_workers[0].memory", "6m"]),
        ("celery_workers.0.cpus", "many", ["celery_workers[0].cpus", "'many'", "0.5"]),
        ("celery_workers.0.concurrency", 0, ["celery_workers[0].concurrency", "0"]),
        ("celery_workers.0.queues", [], ["celery_workers[0].queues", "[]"]),
        ("celery_workers.0.queues", ["a b"], ["'a b'"]),
        ("celery_workers.0.name", "A", ["celery_workers[0].name", "'A'"]),
        ("celery_workers", [], ["celery_workers is empty"]),
        ("stack_limits.redis.memory", "lots", ["stack_limits.redis.memory", "'lots'"]),
        ("stack_app", {}, ["stack_app is not set"]),
        ("stack_app.web.port", None, ["stack_app.web.port is missing"]),
        ("stack_app.build", {}, ["stack_app has neither image nor build.context"]),
        ("stack_app.web.command", "uvicorn x", ["stack_app.web.command", "list"]),
        ("stack_app.environment", {"A-B": "1"}, ["'A-B'", "environment variable name"]),
        ("stack_app.environment", {"DATABASE_URL": "x"}, ["DATABASE_URL", "remove it"]),
        ("stack_secrets_generate", False, ["stack_secrets.postgres_password", "vault"]),
        ("stack_secrets", {"redis_password": "a\nb"}, ["redis_password", "control character"]),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(path, value, said):
    findings = stack.validate(changed(path, value))
    assert findings
    assert all(any(text in finding for finding in findings) for text in said), findings


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("celery_task_soft_time_limit", "celery_task_time_limit"),
        ("celery_drain_timeout", "celery_stop_grace_period"),
        ("celery_task_time_limit", "celery_visibility_timeout"),
    ],
)
def test_an_inconsistent_shutdown_budget_names_both_values(low, high):
    values = GOOD | {low: 7000, high: 7000}
    finding = next(text for text in stack.validate(values) if low in text and high in text)
    assert "7000" in finding


def test_all_findings_come_at_once():
    values = changed("celery_workers.0.memory", "x") | {"stack_name": "No", "image_source": "no"}
    assert len(stack.validate(values)) == 3


def test_duplicate_pools_are_found():
    values = GOOD | {"celery_workers": GOOD["celery_workers"] * 2}
    assert "2 pools are named 'default'" in " ".join(stack.validate(values))


def test_a_secret_value_is_never_in_a_finding():
    values = changed("stack_secrets", {"redis_password": "s3cr3t-value\x01"})
    assert "s3cr3t-value" not in " ".join(stack.validate(values))


def test_the_model_counts_memory_of_every_container():
    values = changed("celery_workers.0.replicas", 3)
    model = stack.stack_model(values)
    platform = 6 * 128 * 1024**2  # nginx backend beat postgres redis qdrant
    assert model["memory_bytes"] == platform + 3 * 1024**3
    assert model["pools"][0]["service"] == "celery-worker"
    assert "frontend" not in model["services"]


def test_the_model_holds_what_verification_expects_of_the_workers():
    """Regression: a release that was put back was judged by the inventory of the failed one."""
    celery = stack.stack_model(GOOD)["celery"]
    assert celery == {
        "app": "project.celery",
        "canary_task": "",
        "expected_tasks": [],
        "time_limit": 3600,
        "soft_time_limit": 3300,
    }


def test_mariadb_joins_the_model_only_when_enabled():
    assert "mariadb" not in stack.stack_model(GOOD)["services"]
    model = stack.stack_model(GOOD | {"mariadb_enabled": True})
    assert "mariadb" in model["data_services"]
    assert "mariadb_root_password" in model["required_secrets"]


def test_the_key_of_backups_is_made_or_given_and_never_demanded():
    """An inventory of an older edition has none, and deploys as before."""
    given = GOOD["stack_secrets"]
    name = "backup_signing_key"
    vault = GOOD | {"stack_secrets_generate": False}
    assert name not in stack.stack_model(vault)["required_secrets"]
    assert name in stack.stack_model(GOOD)["required_secrets"]
    assert stack.validate(GOOD | {"stack_secrets": {**given, name: "k" * 32}}) == []
    (short,) = stack.validate(GOOD | {"stack_secrets": {**given, name: "short"}})
    assert short.startswith(f"stack_secrets.{name} has 5 characters: give 32 or more")
    app = {**GOOD["stack_app"], "secret_environment": {"SIGNS": name}}
    (leak,) = stack.validate(GOOD | {"stack_app": app, "stack_secrets": {**given, name: "k" * 32}})
    assert f"stack_app.secret_environment.SIGNS is {name}, which signs backup sets" in leak


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["name", "queues", "memory", "web", "app"]), inner)
        ),
        max_leaves=8,
    ),
    st.sampled_from(sorted(GOOD)),
)
def test_no_value_makes_the_check_itself_fail(value, name):
    findings = stack.validate(GOOD | {name: value})
    assert all(isinstance(finding, str) for finding in findings)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200))
def test_compose_values_are_yaml_that_reads_back(text):
    assert yaml.safe_load(stack.compose_value(text)).replace("$$", "$") == text


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
            stack.env_file_line(f"V{index}", text) + "\n" for index, text in enumerate(values)
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
    assert stack.env_file_line("A", value) == line


def test_env_refuses_what_no_process_can_receive():
    with pytest.raises(ValueError, match="NUL"):
        stack.env_file_line("A", "a\0b")
    with pytest.raises(ValueError, match="not a valid name"):
        stack.env_file_line("A B", "x")


def test_secrets_in_urls_are_percent_encoded():
    assert stack.url_secret("a/b@c:d%") == "a%2Fb%40c%3Ad%25"


def test_without_a_proxy_of_ours_every_proxy_variable_is_empty():
    found = stack.proxy_environment({}, ["redis"], {"OTHER": "1"})
    assert set(found) == {
        *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
    }
    assert set(found.values()) == {""}


def test_the_stacks_own_services_need_no_proxy():
    proxies = {"https_proxy": "http://p:1", "no_proxy": "a.example, redis"}
    found = stack.proxy_environment(proxies, ["redis", "qdrant"], {})
    assert found["HTTPS_PROXY"] == found["https_proxy"] == "http://p:1"
    assert found["HTTP_PROXY"] == ""
    assert found["no_proxy"] == "a.example,redis,localhost,127.0.0.1,::1,qdrant"


def test_a_proxy_of_the_applications_own_counts_in_both_cases():
    """An empty http_proxy would undo HTTP_PROXY for clients that read the lower case first."""
    own = {"HTTP_PROXY": "http://own:1", "all_proxy": "socks5://own:2", "NO_PROXY": "x"}
    found = stack.proxy_environment({"http_proxy": "http://p:1"}, ["redis"], own)
    assert found["http_proxy"] == found["HTTP_PROXY"] == "http://own:1"
    assert found["ALL_PROXY"] == found["all_proxy"] == "socks5://own:2"
    assert found["no_proxy"] == "x"


REGISTRY = {"registry": "registry.example.com:5000", "username": "u", "password": "p4ssw0rd"}


@pytest.mark.parametrize(
    ("logins", "said"),
    [
        ("registry.example.com", "registry_logins is no list"),
        ([["p4ssw0rd"]], "registry_logins[0] is no mapping"),
        ([REGISTRY | {"passwd": "p4ssw0rd"}], "registry_logins[0] has a key that nothing reads"),
        ([REGISTRY | {"password": ""}], "registry_logins[0].password is empty"),
        ([{"registry": "r.example"}], "registry_logins[0].username is empty"),
        ([REGISTRY | {"password": 987654}], "registry_logins[0].password is no text: quote it"),
        ([REGISTRY | {"password": "p4ssw0rd\n"}], "password holds a control character"),
        ([REGISTRY | {"registry": "https://r.example"}], "'https://r.example': give a host name"),
        ([REGISTRY | {"registry": "u:p4ssw0rd@r.example"}], "registry holds a login: give a host"),
        ([REGISTRY, REGISTRY], "'registry.example.com:5000' stands there 2 times"),
    ],
)
def test_a_bad_login_of_a_registry_is_named_without_its_password(logins, said):
    assert stack.validate(GOOD | {"registry_logins": [REGISTRY]}) == []
    findings = stack.validate(GOOD | {"registry_logins": logins})
    assert any(said in finding for finding in findings), findings
    assert "p4ssw0rd" not in str(findings)
    assert "987654" not in str(findings)


DIGEST = f"@sha256:{'a' * 64}"


def pinned(**values):
    refs = {name: f"r/{name}:1" for name in ("nginx", "postgres", "redis", "qdrant", "python")}
    return GOOD | {"image_refs": refs, "image_pinning": "strict", "image_source": "local"} | values


def test_strict_pinning_names_each_reference_without_digest():
    assert stack.validate(pinned()) == []  # all is built here
    findings = stack.validate(pinned(image_source="registry"))
    names = [finding.partition(" ")[0] for finding in findings]
    assert names == [f"image_refs.{n}" for n in ("nginx", "postgres", "redis", "qdrant", "python")]
    assert "'r/redis:1'" in findings[2]
    assert "@sha256" in findings[2]
    assert "image_pinning" in findings[2]
    app = GOOD["stack_app"] | {"image": "r/app:latest"}
    (finding,) = stack.validate(pinned(stack_app=app))
    assert finding.startswith("stack_app.image is 'r/app:latest'")
    app["image"] += DIGEST
    refs = {name: ref + DIGEST for name, ref in pinned()["image_refs"].items() if name != "python"}
    refs["python"] = "r/python:1"  # nothing is built on it
    assert stack.validate(pinned(stack_app=app, image_source="registry", image_refs=refs)) == []
    assert "choose follow or strict" in str(stack.validate(GOOD | {"image_pinning": "x"}))


def test_digests_of_the_inventory_pin_references():
    refs = {name: f"r/{name}:1" for name in ("nginx", "postgres", "redis", "qdrant", "python")}
    digests = {ref: DIGEST[1:] for ref in refs.values()}
    values = pinned(image_source="registry", image_refs=refs, image_digests=digests)
    assert stack.validate(values) == []
    assert stack.moving_references(values) == []
    assert stack.registry_references(values, ("registry",))["image_refs.redis"] == "r/redis:1"
    del digests["r/redis:1"]
    (finding,) = stack.validate(values)
    assert finding.startswith("image_refs.redis is 'r/redis:1'")
    assert "playbooks/digests.yml" in finding
    (finding,) = stack.validate(GOOD | {"image_digests": {"r/redis:1": "latest"}})
    assert finding.startswith("image_digests['r/redis:1'] is 'latest'")


def test_moving_references_are_those_that_a_registry_may_have_replaced():
    refs = {"nginx": "r/nginx:1", "postgres": f"r/postgres:1{DIGEST}", "redis": "r/redis:1"}
    refs |= {"qdrant": "r/nginx:1", "python": "r/python:1", "mariadb": "r/mariadb:1"}
    values = GOOD | {"image_refs": refs, "image_source": "auto"}
    assert stack.moving_references(values) == ["r/nginx:1", "r/python:1", "r/redis:1"]
    assert stack.moving_references(values | {"image_source": "local"}) == []
    app = GOOD["stack_app"] | {"image": "r/app:1", "frontend": {"image": "r/web:1"}}
    values |= {"stack_app": app, "image_source": "local"}
    assert stack.moving_references(values) == ["r/app:1", "r/web:1"]
