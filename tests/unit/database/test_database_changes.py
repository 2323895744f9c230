"""What of the data services and the schema has changed."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.database.changes import (
    data_services_unchanged,
    migration_wanted,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.fact import updated_fact

SERVICES = ["postgres", "redis", "qdrant"]


def fact(intact: bool = True, release_id: str = "r2", before: str = "r1", **differs: Any) -> Any:
    """Return the fact of a deploy whose release differs from the one before in `differs`."""
    parts = {"facts": [], "images": [], "env": [], "secrets": [], **differs}
    release = {"id": release_id, "before": before, "staged": True, "differs": parts}
    return updated_fact({}, {"state": {"intact": intact, "locked": True}, "release": release})


@pytest.mark.parametrize(
    ("deploy", "unchanged"),
    [
        (fact(), True),
        (fact(images=["backend"], facts=["nginx"], secrets=[".env.prod"]), True),
        (fact(intact=False), False),
        (fact(release_id=""), False),
        (fact(facts=["data"]), False),
        (fact(images=["backend", "redis"]), False),
        (fact(secrets=["secrets/redis.conf"]), False),
        (fact(secrets=[".env.qdrant"]), False),
        (updated_fact({}, {}), False),
    ],
)
def test_data_services_that_need_nothing(deploy: Any, unchanged: bool) -> None:
    assert data_services_unchanged(deploy, SERVICES) is unchanged


@pytest.mark.parametrize(
    ("deploy", "wanted"),
    [
        (fact(), False),
        (fact(images=["nginx"], facts=["nginx"], env=["DEBUG"]), False),
        (fact(before=""), True),
        (fact(images=["backend"]), True),
        (fact(facts=["migrate"]), True),
        (fact(env=["+DATABASE_URL"]), True),
    ],
)
def test_a_staged_release_is_migrated_when_something_of_it_changed(
    deploy: Any, wanted: bool
) -> None:
    assert migration_wanted(deploy, {"id": "r2", "staged": True}, behind=False) is wanted
    assert migration_wanted(deploy, {"id": "r2", "staged": True}, behind=True)


@pytest.mark.parametrize("release", [{"id": "r1"}, {"id": "r1", "staged": False}])
def test_a_release_that_is_put_back_is_not_migrated(release: dict[str, Any]) -> None:
    assert not migration_wanted(fact(images=["backend"]), release, behind=False)
