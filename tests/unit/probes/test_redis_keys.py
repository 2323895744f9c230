"""What probes remove from Redis, and the command that they name for what they leave."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.probes.redis_keys import (
    REDIS_CLI,
    is_topic,
    mend_patterns,
    removal,
    task_keys,
    wrong_type,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Exchange

SEPARATOR = "\x06\x16"


def test_a_pattern_that_kombu_does_not_write_is_removed() -> None:
    """Regression: an expression that is none broke each message to a topic exchange."""
    good = [f"a.*{SEPARATOR}^a\\.[^\\.]+${SEPARATOR}q", f"b{SEPARATOR}{SEPARATOR}q"]
    bad = [f"a{SEPARATOR}({SEPARATOR}q", f"a{SEPARATOR}^(a+)+${SEPARATOR}q"]
    members = {each.encode() for each in good + bad}
    client = SimpleNamespace(
        sscan_iter=lambda _key: iter(members), srem=lambda _key, member: members.discard(member)
    )
    mend_patterns(client, "_kombu.binding.t", SEPARATOR)
    assert members == {each.encode() for each in good}


def test_a_topic_is_known() -> None:
    assert is_topic(Exchange("t", "topic"))
    assert not any(map(is_topic, (None, Exchange("t", "direct"), Exchange("", "topic"))))


def test_keys_of_every_priority_are_looked_at() -> None:
    channel = SimpleNamespace(
        global_keyprefix="p:",
        unacked_key="unacked",
        unacked_index_key="unacked_index",
        priority_steps=[0, 3],
        _q_for_pri=lambda queue, step: f"{queue}{SEPARATOR}{step}" if step else queue,
    )
    kinds = task_keys(channel, ["q"])
    assert kinds["p:unacked_holder"] == "hash"
    lists = {key for key, kind in kinds.items() if kind == "list"}
    assert lists == {"p:q", f"p:q{SEPARATOR}3"}
    for key, kind in kinds.items():
        found = {name: b"stream" if name == key else b"none" for name in kinds}
        told = wrong_type(SimpleNamespace(type=found.get), kinds)
        assert told.startswith(f"the key {key!a} in Redis is a stream, and Celery's is a {kind}.")
    assert wrong_type(SimpleNamespace(type=lambda key: kinds[key].encode()), kinds) == ""


@pytest.mark.parametrize("number", [0, 4])
@settings(max_examples=25, deadline=None)
@given(key=st.text("ab:._-$'\"\\ \x06\x16\n;`é", min_size=1, max_size=6))
def test_the_command_names_the_key_for_a_shell(number: int, key: str) -> None:
    pool = SimpleNamespace(connection_kwargs={"db": number})
    command = removal(SimpleNamespace(connection_pool=pool), key)
    words = command.partition(" DEL ")
    assert words[0] == REDIS_CLI + (f" -n {number}" if number else "")
    said = subprocess.run(["bash", "-c", f"printf %s {words[2]}"], capture_output=True, check=True)
    assert said.stdout == key.encode()


def test_the_command_has_the_password_of_the_administrator(tmp_path: Path) -> None:
    """Regression: `redis-cli DEL` was the remedy, and Redis answered NOAUTH, with exit code 0."""
    settings_of_redis = tmp_path / "redis.conf"
    settings_of_redis.write_text('port 6379\nrequirepass "0a1b"\nuser app on >other\n')
    for name, script in (
        ("docker", 'shift 3; exec "$@"'),
        ("redis-cli", 'echo "$REDISCLI_AUTH $@"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    client = SimpleNamespace(connection_pool=SimpleNamespace(connection_kwargs={"db": 3}))
    command = removal(client, "unacked\x06").replace(
        "/run/secrets/redis.conf", str(settings_of_redis)
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    said = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=True, env={"PATH": path}, text=True
    )
    assert said.stdout == "0a1b -n 3 DEL unacked\x06\n"
