"""Word the findings of verification: what is wrong, and what to do about it.

Pure functions of the modules' results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict
from urllib.parse import urlsplit

from ..model.validators import is_address, quoted
from ..proxy.public_url import PORTS, authority, expected_status, url_host
from ..shapes import like
from ..text import ROWS, WIDTH, printable, quote

REDIRECTS = (301, 302, 303, 307, 308)


class PathRequest(TypedDict):
    """A path to ask for, and the statuses that are as expected."""

    path: str
    status: list[int]


class EntryRequest(TypedDict):
    """The request to the entry point: see `entry_request`."""

    url: str
    host: str
    pinned: bool
    redirects_to: str
    inside: bool
    proxy_protocol: bool
    shown: str


class InnerAnswer(TypedDict):
    """An answer of nginx, asked inside its container; status -1 without one."""

    url: str
    status: int
    location: str
    expected: list[int]
    ok: bool
    msg: str


class WorkerSummary(TypedDict):
    """A worker as the summary shows it."""

    node: str
    pool: str
    concurrency: int
    queues: list[str]


def worker_request(
    model: Mapping[str, Any],
    inspect_timeout: float,
    canary_timeout: float,
    accept_content: Sequence[str],
    task_serializer: str,
) -> dict[str, Any]:
    """Return how the workers of a release are asked, and what they must answer.

    Roles rollout and verify ask the same: the rollout proves the new workers, and verify takes that
    proof.

    Args:
        model: of the release.
        inspect_timeout: seconds for the answers.
        canary_timeout: seconds until every canary must be back.
        accept_content: content types that workers must accept, and no others.
        task_serializer: what they must use.

    Returns:
        ``app``, ``timeout``, ``expect``, and ``canary`` where the application has such a task.
    """
    celery = model["celery"]
    request: dict[str, Any] = {
        "app": celery["app"],
        "timeout": inspect_timeout,
        "expect": {
            **_expected_limits(model),
            "accept_content": accept_content,
            "task_serializer": task_serializer,
        },
    }
    if celery["canary_task"]:
        request["canary"] = {
            "task": celery["canary_task"],
            "queues": model["queues"],
            "timeout": canary_timeout,
        }
    return request


def _expected_limits(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return pools, tasks and time limits of a release, as its workers must answer them."""
    celery = model["celery"]
    return {
        "pools": {pool["name"]: pool for pool in model["pools"]},
        "registered": celery["expected_tasks"],
        "time_limit": celery["time_limit"],
        "soft_time_limit": celery["soft_time_limit"],
    }


def known_tasks(model: Mapping[str, Any], registered: Sequence[str] = ()) -> list[str]:
    """Return the tasks that a release is known to have.

    Args:
        model: of the release.
        registered: what its workers told when it was proved; empty for one that was not.
    """
    celery = model["celery"]
    return list(registered) or [*celery["expected_tasks"], celery["canary_task"]]


def step_finding(step: Mapping[str, Any], release: str) -> str:
    """Return the finding of a service unlike the release; `step` is one of compose_rollout's."""
    return (
        f"Service {step['service']}: {step['reason']}."
        f" See `docker compose ps {step['service']}` and its logs. To start it again:"
        f" `docker compose up -d {step['service']}` in releases/{release} of the stack's folder on"
        " the server; where that is not enough: ansible-playbook deploy.yml --tags rollback -e"
        f" release={release}. A deploy rolls out the release of the inventory, which may be"
        " another one."
    )


def request_paths(
    paths: Sequence[Any], probes: Mapping[str, Mapping[str, Any]] | None
) -> list[PathRequest]:
    """Return ``{path, status}`` for each of verify_paths.

    Args:
        paths: texts, or ``{path, status}`` with a number or a list of such.
        probes: of the release's model. A health path is expected to answer as its health check
            demands, another path 200.

    Raises:
        ValueError: one of `paths` is neither; the message is the remedy.
    """
    if problems := path_problems(paths):
        raise ValueError(problems[0])
    # Releases of before had redirects followed: that theirs is healthy was seen when they came.
    usual = [200] if probes else [200, *REDIRECTS]
    health = {probe["path"]: probe["status"] for probe in (probes or {}).values()}
    found: list[PathRequest] = []
    for item in paths:
        entry = {"path": item} if isinstance(item, str) else item
        status = entry.get("status")
        expected = health.get(entry["path"], usual) if status is None else expected_status(status)
        found.append({"path": entry["path"], "status": list(expected)})
    return found


def path_problems(paths: Sequence[Any]) -> list[str]:
    """Return a sentence with the remedy for each of verify_paths that is no path with a status."""
    found = []
    for index, item in enumerate(paths):
        entry = {"path": item} if isinstance(item, str) else item
        path = entry.get("path") if isinstance(entry, Mapping) else None
        status = entry.get("status") if isinstance(entry, Mapping) else None
        known = status is None or expected_status(status)
        if not isinstance(path, str) or not path.startswith("/") or not known:
            found.append(
                f"verify_paths[{index}] is {quoted(item)}: give a path such as /health, or"
                " {path: /health, status: 204}."
            )
    return found


def entry_request(proxy: Mapping[str, Any], url: str, address: str) -> EntryRequest:
    """Return how the site is asked for from the controller.

    Args:
        proxy: of the release's model; without ``public`` for a release of before.
        url: verify_url.
        address: of the server.

    Returns:
        ``url``, ``host`` (Host header; empty leaves it to the URL), ``pinned`` (whether the address
        must show the server's own certificate), ``redirects_to`` (URL of the site when a redirect
        there is an answer as well), ``inside`` (whether nginx must be asked on the server, as
        what ends TLS in front does), ``proxy_protocol`` (whether a connection must begin with
        its header), and ``shown`` (the URL for people).
    """
    public = proxy.get("public") or {}
    in_front = bool(public.get("in_front"))
    host = public.get("authority") or ""
    pinned = bool(proxy["tls"]) and not url
    if url:
        address_url = url.rstrip("/")
        name = urlsplit(address_url).hostname or ""
        # A name is what another proxy goes by; an address says nothing of the site.
        host = host if is_address(name) or name == "localhost" else ""
    else:
        name = proxy["host"] if pinned else url_host(address)
        address_url = f"{proxy['scheme']}://{name}:{proxy['port']}"
    return {
        "url": address_url,
        "host": host,
        "pinned": pinned,
        # Plainly asked, an application that knows its scheme redirects; asked by its own URL it
        # would redirect to itself for ever.
        "redirects_to": public["url"] if in_front and address_url.startswith("http:") else "",
        "inside": in_front,
        # What stands in front speaks it itself.
        "proxy_protocol": bool(proxy.get("proxy_protocol")) and not url,
        "shown": address_url if url else site_url(proxy, address),
    }


def site_url(proxy: Mapping[str, Any], address: str) -> str:
    """Return the URL of the site for people: the one that browsers have, else by the address.

    Args:
        proxy: of the release's model; without ``public`` for a release of before.
        address: of the server, for a site without a name.
    """
    named = (proxy.get("public") or {}).get("url") or ""
    scheme = proxy["scheme"]
    host = (proxy["host"] if proxy["tls"] else "") or address
    return named or f"{scheme}://{authority(scheme, host, int(proxy['port']))}"


def leads_to(status: int, location: str, url: str) -> bool:
    """Return whether an answer redirects to that URL and nowhere else."""
    try:
        ends = [urlsplit(one) for one in (location, url)]
        parts = [
            (
                end.scheme,
                end.hostname,
                end.port or PORTS.get(end.scheme),
                end.path or "/",
                end.query,
            )
            for end in ends
        ]
    except ValueError:  # a port that is none
        return False
    return status in REDIRECTS and bool(location) and parts[0] == parts[1]


def inner_answers(paths: Sequence[PathRequest], url: str, out: str, err: str) -> list[InnerAnswer]:
    """Return the answers that curl has printed as ``status redirect``, a line for each path.

    Args:
        paths: ``{path, status}``.
        url: what comes before the path.
        out: curl's output.
        err: curl's errors, or Docker's.
    """
    lines = re.findall(r"^([0-9]{3}) ?(.*)$", out, re.MULTILINE)
    errors = [line for line in err.splitlines() if line.strip()]
    found: list[InnerAnswer] = []
    for index, path in enumerate(paths):
        status, location = lines[index] if index < len(lines) else ("000", "")
        answered = status != "000"
        found.append(
            {
                "url": url + path["path"],
                "status": int(status) if answered else -1,
                "location": location.strip(),
                "expected": list(path["status"]),
                "ok": int(status) in path["status"],
                "msg": "" if answered else (errors[-1].strip() if errors else "no answer"),
            }
        )
    return found


def http_finding(answer: Mapping[str, Any], host: str = "") -> str:
    """Return the finding for an answer through nginx that is not as expected.

    Args:
        answer: of http_probe or nginx_probe: ``{url, status, location, expected, msg, inside}``,
            status -1 without an answer.
        host: the Host header that was sent; empty for that of the URL.
    """
    status, logs = answer.get("status", -1), "See `docker compose logs nginx backend frontend`."
    inside = " inside the container of nginx" if answer.get("inside") else ""
    if status > 0:
        return f"{_status_finding(answer, inside, host)} {logs}"
    why = f" ({printable(answer['msg'], 500)})" if answer.get("msg") else ""
    if inside:
        return f"{answer.get('url')}{inside} did not answer{why}. {logs}"
    return (
        f"{answer.get('url')} did not answer{why} from the controller. {logs} If a firewall or a"
        " jump host stands between, set verify_url to the address that browsers use."
    )


def _status_finding(answer: Mapping[str, Any], inside: str, host: str) -> str:
    """Return the finding for an answer with a status, without the advice to read logs."""
    status = answer["status"]
    expected = " or ".join(map(str, answer.get("expected") or [200]))
    location = f", Location {quote(answer['location'], WIDTH)}," if answer.get("location") else ""
    to_host = f" to Host {host}" if host else ""
    text = (
        f"{answer.get('url')}{inside} answered {status}{location}{to_host} (expected {expected})."
    )
    if status == 400:
        text += (
            " Most often the application does not accept that Host (Django: ALLOWED_HOSTS): set"
            " stack_server_names or stack_public_url to what browsers use."
        )
    elif status == 421:
        text += (
            " nginx refuses hosts that it does not know: add the name to stack_server_names or"
            " stack_accepted_hosts, or ask for a known one (verify_url)."
        )
    elif location:
        text += (
            " Redirects are not followed. To HTTPS: set stack_public_url, and let the"
            " application believe X-Forwarded-Proto (Django: SECURE_PROXY_SSL_HEADER). To"
            " another path: give a path that answers itself, or its status in verify_paths."
        )
    return text


def celery_finding(finding: Mapping[str, Any]) -> str:
    """Return the text of a finding of celery_inspect or celery_canary."""
    return f"{finding['message']} {finding.get('remedy', '')}".strip()


def port_finding(port: int, address: str) -> str:
    """Return the finding of a data port that answers from outside."""
    return (
        f"Port {port} of {address} answers from the controller. No service of the stack but nginx"
        " publishes a port: find who listens (`ss -ltnp`), and close it or take the port out of"
        " verify_closed_ports."
    )


def canary_seconds(queues: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the seconds each queue's canary took; None for one that did not come back."""
    return {queue: entry.get("seconds") for queue, entry in queues.items()}


def registered_tasks(nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the tasks that every one of the workers registers, sorted."""
    each = [
        {name.partition(" ")[0] for name in like(replies.get("registered"), [""])}
        for replies in nodes.values()
    ]
    return sorted(set.intersection(*each)) if each else []


def worker_summary(node: str, nodes: Mapping[str, Mapping[str, Any]]) -> WorkerSummary:
    """Return a worker as the summary shows it."""
    shape = {"stats": {"pool": {"max-concurrency": 0}}, "active_queues": [{"name": ""}]}
    replies = like(nodes.get(node), shape)
    return {
        "node": node,
        "pool": node.partition("@")[0],
        "concurrency": replies["stats"]["pool"]["max-concurrency"],
        "queues": [printable(queue["name"]) for queue in replies["active_queues"][:ROWS]],
    }


def request_counts(counted: Mapping[str, Any]) -> str:
    """Return what the ledger counted of requests; empty when it counted none.

    Args:
        counted: of M(deploy_ledger), with its ``requests`` (probed, failed, errors by kind).
    """
    found = counted.get("requests") or {}
    if not {"probed", "failed", "errors"} <= set(found):
        return ""
    kinds = ", ".join(f"{kind}: {count}" for kind, count in found["errors"].items())
    counts = f"{found['probed']} probed, {found['failed']} failed"
    return f"{counts} ({kinds})" if kinds else counts


def task_counts(counted: Mapping[str, Any]) -> str:
    """Return what the ledger counted of tasks; empty when it counted none."""
    found = counted.get("tasks") or {}
    if not {"accepted", "finished", "lost", "twice"} <= set(found):
        return ""
    more = {
        "waiting": "still waiting",
        # A restart of Redis leaves them so; they are among those that wait.
        "stranded": "of these unacknowledged and known to no worker that answered",
        "refused": "refused by the broker",
    }
    parts = [
        f"{found['accepted']} accepted",
        f"{found['finished']} finished",
        f"{found['lost']} lost",
        f"{found['twice']} run twice",
        *(f"{found[key]} {text}" for key, text in more.items() if found.get(key)),
    ]
    return f"sentinel tasks of this deploy: {', '.join(parts)}"
