"""Sites with locations: one to change, and generated ones as configurations for nginx."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from ansible_collections.crisper.stack.plugins.module_utils.model.validators import LOCATION
from ansible_collections.crisper.stack.plugins.module_utils.proxy import guard, locations
from ansible_collections.crisper.stack.plugins.module_utils.proxy.entry import LOG_FORMATS
from front_files import nginx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from stack_values import GOOD


def site(*locations: Any, **values: Any) -> dict[str, Any]:
    """Return GOOD with a front end, uploads and these locations; `app` adds to stack_app."""
    found = copy.deepcopy(GOOD)
    found["stack_app"] |= {
        "uploads": "/app/media",
        "backend_paths": ["/api/", "/admin/login"],
        "frontend": {"image": "registry.example/front:1", "port": 3000, "health_path": "/"},
        "locations": list(locations),
        **values.pop("app", {}),
    }
    return found | values


PATH = st.from_regex(LOCATION, fullmatch=True).filter(
    lambda path: locations.PATH.matches(path) and not path.startswith("/-/") and path != "/"
)
FOLDER = st.from_regex(r"/[A-Za-z0-9._-]{1,20}(/[A-Za-z0-9_-]{1,9})?", fullmatch=True).filter(
    locations.ALIAS.matches
)
RATE = st.from_regex(guard.RATE, fullmatch=True)
BURST = st.integers(0, guard.MAX_BURST)
LIMIT = st.fixed_dictionaries(
    {"rate": RATE},
    optional={"burst": BURST, "methods": st.lists(st.sampled_from(guard.METHODS), max_size=3)},
)
NAME = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?(\.[a-z]{1,9}){0,2}", fullmatch=True)
HOST = NAME | NAME.map(lambda name: f"*.{name}") | st.ip_addresses().map(str) | st.just("*")
CACHE = st.sampled_from(["immutable", "none"]) | st.integers(0, locations.MAX_AGE)
PROXIED = st.fixed_dictionaries(
    {"kind": st.sampled_from(locations.PROXIED), "path": PATH},
    optional={
        "exact": st.booleans(),
        "body_size": st.from_regex(r"[0-9]{1,5}[kmgKMG]?\Z", fullmatch=True),
        "timeout": st.integers(1, locations.MAX_TIMEOUT),
        "buffering": st.booleans(),
        "request_buffering": st.booleans(),
        "rate_limit": LIMIT,
        "cache": CACHE,
    },
)
FILES = st.fixed_dictionaries(
    {
        "kind": st.just("static"),
        "path": PATH.map(lambda path: path.rstrip("/") + "/"),
        "alias": st.just("/app/media") | FOLDER,
    },
    optional={"rate_limit": LIMIT, "cache": CACHE},
)
REDIRECT = st.fixed_dictionaries(
    {
        "kind": st.just("redirect"),
        "path": PATH,
        "to": st.from_regex(locations.TARGET, fullmatch=True).filter(locations.TO.matches),
    },
    optional={"status": st.sampled_from(locations.REDIRECTS), "exact": st.booleans()},
)
DENY = st.fixed_dictionaries(
    {"kind": st.just("deny"), "path": PATH}, optional={"status": st.sampled_from(locations.DENIALS)}
)
NETWORK = st.ip_addresses().map(str) | st.builds(
    lambda first, prefix: f"{first}.0.0.0/{prefix}", st.integers(1, 9), st.integers(8, 32)
)
SITE = st.fixed_dictionaries(
    {
        "locations": st.lists(PROXIED | FILES | REDIRECT | DENY, max_size=8),
        "stack_trusted_proxies": st.lists(NETWORK, min_size=1, max_size=4),
        "stack_proxy_protocol": st.booleans(),
        "stack_access_log": st.sampled_from(LOG_FORMATS),
        "stack_rate_limits": st.lists(
            st.builds(lambda limit, path: limit | {"path": path}, LIMIT, PATH), max_size=3
        ),
        "stack_login_paths": st.lists(PATH.filter(guard._is_login), max_size=3),
        "stack_login_limit": st.fixed_dictionaries({}, optional={"rate": RATE, "burst": BURST}),
        "stack_client_connections": st.just("auto") | st.integers(0, guard.MAX_CONNECTIONS),
        "stack_header_timeout": st.integers(1, guard.MAX_TIMEOUT),
        "stack_body_timeout": st.integers(1, guard.MAX_TIMEOUT),
        "stack_accepted_hosts": st.lists(HOST, max_size=3),
    }
)


def configuration(values: dict[str, Any]) -> str:
    """Return what nginx gets of a site."""
    own = {name: value for name, value in values.items() if name not in GOOD}
    return nginx(**own, stack_app=values["stack_app"])


def generated_sites(count: int) -> list[str]:
    """Return configurations of up to `count` generated sites without findings."""
    found: list[str] = []

    # Without shrinking: nginx judges them later, all at once.
    @settings(
        deadline=None,
        max_examples=count,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(SITE)
    def collect(drawn: dict[str, Any]) -> None:
        values = site(*drawn.pop("locations"), **drawn)
        # Such as the same path twice.
        if not validate(values):
            found.append(configuration(values))

    collect()
    assert len(found) > count // 3
    return found


if __name__ == "__main__":
    print(json.dumps(generated_sites(int(sys.argv[1]))))
