"""Containers of commands that a killed deploy has left, told from those of services."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.docker.one_off import (
    LABEL,
    Command,
    Commands,
    parse_command,
)

MIGRATION = Command("migrate", "r1", ("alembic", "upgrade"), 30)


def container(name: str, **labels: str) -> dict[str, Any]:
    """A container as the engine inspects it."""
    own = {**MIGRATION.labels(), "crisper.release": "r1", **labels}
    return {"Name": name, "Config": {"Labels": own, "Cmd": MIGRATION.words()}}


class Engine(Commands):
    """A Docker client that answers with given containers."""

    records: list[dict[str, Any]]

    def docker(self, *arguments: str, **_: Any) -> tuple[int, str, str]:
        """Return ids, or what is known of them."""
        if arguments[0] == "ps":
            assert "label=com.docker.compose.oneoff=True" in arguments
            return 0, "\n".join(str(number) for number, _ in enumerate(self.records)), ""
        return 0, json.dumps(self.records), ""


@pytest.mark.parametrize(
    "record",
    [
        container("/shop-backend-1"),
        container("/shop-migrate-r1", **{LABEL: "nothing"}),
        container("/shop-migrate-r1", **{LABEL: ""}),
        container("/shop-migrate-r1", **{"crisper.release": "r2"}),
        container("/shop-backend-run-0a1b2c"),
    ],
)
def test_labels_of_an_image_make_no_command(record: dict[str, Any]) -> None:
    """Regression: an image with such labels ended each deploy and rollback in a traceback."""
    engine = Engine("docker", "shop", "/nowhere")
    engine.records = [record]
    assert engine.leftovers() == []


@pytest.mark.parametrize("limit", ["lots", "", "-1", "1e3", "9" * 12, "٣"])
def test_a_limit_that_is_no_number_is_none(limit: str) -> None:
    engine = Engine("docker", "shop", "/nowhere")
    engine.records = [container("/shop-migrate-r1", **{f"{LABEL}.limit": limit})]
    (command,) = engine.leftovers()
    assert command.limit == 0


def test_a_command_is_read_as_it_was_begun() -> None:
    assert parse_command(container("/shop-migrate-r1")) == MIGRATION
