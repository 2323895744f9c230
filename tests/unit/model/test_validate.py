"""The stack's variables: every bad one is named with its value and a remedy."""

from __future__ import annotations

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from hypothesis import given
from hypothesis import strategies as st
from stack_values import GOOD, OWN, changed


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
        (OWN | {"stack_server_names": ["https://a.b/"]}, "Write the name alone, such as shop."),
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
def test_a_bad_entry_point_is_named_with_its_remedy(values, said):
    assert validate(OWN) == []
    assert any(said in finding for finding in validate(values))


def test_good_values_have_no_findings():
    assert validate(GOOD) == []


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
        ("stack_app.environment", {"RELEASE": "x"}, ["RELEASE", "remove it"]),
        ("stack_secrets_generate", False, ["stack_secrets.postgres_password", "vault"]),
        ("stack_secrets", {"redis_password": "a\nb"}, ["redis_password", "control character"]),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(path, value, said):
    findings = validate(changed(path, value))
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
    finding = next(text for text in validate(values) if low in text and high in text)
    assert "7000" in finding


def test_all_findings_come_at_once():
    values = changed("celery_workers.0.memory", "x") | {"stack_name": "No", "image_source": "no"}
    assert len(validate(values)) == 3


def test_duplicate_pools_are_found():
    values = GOOD | {"celery_workers": GOOD["celery_workers"] * 2}
    assert "2 pools are named 'default'" in " ".join(validate(values))


def test_a_secret_value_is_never_in_a_finding():
    values = changed("stack_secrets", {"redis_password": "s3cr3t-value\x01"})
    assert "s3cr3t-value" not in " ".join(validate(values))


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
    findings = validate(GOOD | {name: value})
    assert all(isinstance(finding, str) for finding in findings)
