"""Who shares a network with whom, in the Compose file of a release."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from rendering import APPS, GIVEN, Inventory


@pytest.mark.parametrize("file", ["channels/stack_app.yml", "awkward/on_reference.yml"])
def test_web_shares_with_nginx_what_nobody_else_is_on(file: str):
    """What applications trust is nginx's name, or this network: a worker has no address there."""
    files = Inventory((APPS / file).read_text() + GIVEN).files()
    services: dict[str, Any] = yaml.safe_load(files["docker-compose.prod.yml"])["services"]
    networks = {name: set(service["networks"]) for name, service in services.items()}
    assert {name for name, own in networks.items() if "edge" in own} == {"nginx", "backend"}
    assert networks["nginx"] & networks["backend"] == {"edge"}
    others = {name: own for name, own in networks.items() if name not in ("nginx", "backend")}
    assert {"celery-worker", "redis", "postgres"} <= set(others)
    assert not [name for name, own in others.items() if own & {"edge", "clients"}]
    # Docker's DNS knows these names on that network; one alias more would be another nginx.
    assert list(services["backend"]["networks"]["edge"]["aliases"]) == ["backend-${RELEASE}"]
    given = str([service["networks"] for service in services.values()])
    assert "'nginx'" not in given
    env = files[".env.prod"]
    assert "FORWARDED_ALLOW_IPS" not in env
    assert "TRUSTED_PROXIES" not in env
