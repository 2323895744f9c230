"""Filters that turn the stack's variables into findings, a model and rendered values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.crisper.stack.plugins.module_utils.database.versions import postgres_folder
from ansible_collections.crisper.stack.plugins.module_utils.images.context import (
    digest,
    hash_file,
    scan,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.model.environment import (
    proxy_environment,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.file_values import (
    compose_value,
    env_file_line,
    nginx_value,
    short_digest,
    style_hashes,
    url_secret,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.findings import refusal
from ansible_collections.crisper.stack.plugins.module_utils.model.guard import SOURCES
from ansible_collections.crisper.stack.plugins.module_utils.model.images import database_images
from ansible_collections.crisper.stack.plugins.module_utils.model.redis_users import (
    app_password,
    app_user,
    counts_clients,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.validators import size_bytes
from ansible_collections.crisper.stack.plugins.module_utils.model.workers import host_name
from ansible_collections.crisper.stack.plugins.module_utils.output import (
    describe_failure,
    describe_task,
    first_line,
)
from ansible_collections.crisper.stack.plugins.module_utils.proxy.public_url import url_host
from ansible_collections.crisper.stack.plugins.module_utils.proxy.resources import entry_resources
from ansible_collections.crisper.stack.plugins.module_utils.release.model import (
    manifest_model,
    read_model,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.served import unapplied

# What of this repository decides how a release is made and rolled out.
CODE = ("roles", "library", "module_utils", "plugins", "templates", "images", "deploy.yml", SOURCES)


def inputs_digests(
    values: Mapping[str, Mapping[str, Any]],
    repository: str,
    contexts: Iterable[Mapping[str, Any]],
    bundle: str = "",
    sourceless: Collection[str] = (),
) -> dict[str, str]:
    """Digest what a release is made from, by stage; equal digests mean that nothing changed.

    Args:
        values: stage -> the operator's variables that it looks at.
        repository: path of this repository.
        contexts: build contexts ``{context, dockerfile, args}`` on the controller.
        bundle: path of a CA bundle on the controller; empty for none.
        sourceless: stages that contexts and bundle mean nothing to.

    Returns:
        SHA-256 (hex) by the names of `values`.
    """
    root = Path(repository).resolve()
    code, sources = _code_digest(root), _sources_digest(contexts, bundle)
    digests = {}
    for name, stage in values.items():
        whole = hashlib.sha256(code)
        if name not in sourceless:
            whole.update(sources)
        # Paths below the repository are other ones on a colleague's controller, and mean the same.
        text = json.dumps(stage, sort_keys=True, default=str)
        whole.update(text.replace(f"{root}/", "<repository>/").encode())
        digests[name] = whole.hexdigest()
    return digests


def _code_digest(root: Path) -> bytes:
    """Digest the code of the repository that decides how a release is made."""
    files = [
        path
        for name in CODE
        for path in sorted((root / name).rglob("*") if (root / name).is_dir() else [root / name])
        if path.is_file() and "__pycache__" not in path.parts
    ]
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(root)} {hash_file(path)}\n".encode())
    return whole.digest()


def _sources_digest(contexts: Iterable[Mapping[str, Any]], bundle: str) -> bytes:
    """Digest the build contexts and the CA bundle; see `inputs_digests`."""
    sources = hashlib.sha256()
    for build in contexts:
        dockerfile = build.get("dockerfile") or "Dockerfile"
        entries = scan(Path(build["context"]), dockerfile)
        sources.update(digest(entries, dockerfile, build.get("args") or {}).encode())
    if bundle and Path(bundle).is_file():
        sources.update(hash_file(Path(bundle)).encode())
    return sources.digest()


def services_digest(compose: str, services: Iterable[str]) -> str:
    """Digest some services of a compose file, with networks and their volumes: SHA-256, hex."""
    parsed = yaml.safe_load(compose)
    chosen = {name: parsed["services"].get(name) for name in services}
    mounts = [mount for each in chosen.values() for mount in (each or {}).get("volumes") or []]
    used = {str(mount).partition(":")[0] for mount in mounts}
    volumes = {name: each for name, each in (parsed.get("volumes") or {}).items() if name in used}
    whole = [chosen, parsed.get("networks"), volumes]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


class FilterModule:
    """Jinja filters of this repository."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the functions by filter name."""
        return {
            "crisper_compose_value": compose_value,
            "crisper_database_images": database_images,
            "crisper_entry_resources": entry_resources,
            "crisper_env_line": env_file_line,
            "crisper_failed_task": describe_task,
            "crisper_failure": describe_failure,
            "crisper_first_line": first_line,
            "crisper_host_name": host_name,
            "crisper_inputs": inputs_digests,
            "crisper_model": stack_model,
            "crisper_nginx_value": nginx_value,
            "crisper_refusal": refusal,
            "crisper_proxies": proxy_environment,
            "crisper_postgres_folder": postgres_folder,
            "crisper_redis_app_password": app_password,
            "crisper_redis_app_user": app_user,
            "crisper_redis_counts_clients": counts_clients,
            "crisper_services_digest": services_digest,
            "crisper_manifest_model": manifest_model,
            "crisper_release_model": read_model,
            "crisper_short_digest": short_digest,
            "crisper_size_bytes": size_bytes,
            "crisper_style_hashes": style_hashes,
            "crisper_unapplied": unapplied,
            "crisper_url_host": url_host,
            "crisper_url_secret": url_secret,
        }
