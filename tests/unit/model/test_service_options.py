"""Options of the application's services: one schema, refusals, and the compose file."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from rendering import outcome
from stack_values import GOOD

FRONTEND = {"build": {"context": "app"}, "port": 8080, "health_path": "/"}
# Service of the compose file -> place of its options.
PLACES = {
    "backend": "stack_app.web",
    "frontend": "stack_app.frontend",
    "celery-worker": "celery_workers[0]",
    "celery-beat": "stack_app.celery.beat",
}


def with_options(service: str, **options: Any) -> dict[str, Any]:
    """Variables of a stack that has these options of one service."""
    values = copy.deepcopy(GOOD)
    app = values["stack_app"] | {
        "name": "shop",
        "frontend": dict(FRONTEND),
        "backend_paths": ["/api/"],
    }
    values["stack_app"] = app
    if service == "celery-beat":
        app["celery"]["beat"] = options or True
    else:
        section = {"backend": app["web"], "frontend": app["frontend"]}
        section.get(service, values["celery_workers"][0]).update(options)
    return values


def rendered(service: str, **options: Any) -> dict[str, Any]:
    """The services of the compose file, in which one has these options."""
    findings, files = outcome(json.dumps(with_options(service, **options)))
    assert findings == []
    return yaml.safe_load(files["docker-compose.prod.yml"])["services"]


@cache
def plain() -> dict[str, Any]:
    return rendered("backend")


def refusals(service: str, **options: Any) -> list[str]:
    return validate(with_options(service, **options))


TMP = "mode=1777,size=%d,%s,nosuid,nodev"
SIZE = 32 * 1024**2
# Option, value, and what of the service it makes.
MADE = (
    ({"entrypoint": []}, {"entrypoint": []}),
    ({"entrypoint": ["tini", "$x"]}, {"entrypoint": ["tini", "$x"]}),
    ({"user": "1000:60999"}, {"user": "1000:60999"}),
    ({"read_only": True}, {}),
    ({"read_only": False}, {"read_only": False}),
    ({"cap_add": ["cap_net_raw", "SYS_NICE", "NET_RAW"]}, {"cap_add": ["NET_RAW", "SYS_NICE"]}),
    ({"shm_size": "32m"}, {"shm_size": SIZE}),
    ({"devices": ["/dev/dri/renderD128"]}, {"devices": ["/dev/dri/renderD128"]}),
    (
        {"extra_hosts": {"ldap.example": "192.0.2.7"}},
        {"extra_hosts": {"ldap.example": "192.0.2.7"}},
    ),
)


def compose_options(service: str, **options: Any) -> dict[str, Any]:
    return stack_model(with_options(service, **options))["service_options"][service]["compose"]


@pytest.mark.parametrize("service", PLACES)
@pytest.mark.parametrize(("options", "made"), MADE)
def test_an_option_is_a_key_of_the_compose_file(service: str, options: Any, made: Any):
    assert refusals(service, **options) == []
    assert compose_options(service, **options) == compose_options(service) | made


@pytest.mark.parametrize("service", PLACES)
def test_options_change_their_service_and_no_other(service: str):
    """Data services and nginx stay what they are: the deploy leaves them alone."""
    whole = {key: value for options, _made in MADE for key, value in options.items()}
    services = rendered(service, **whole)
    made = compose_options(service, **whole) | {"entrypoint": ["tini", "$$x"]}
    assert services.pop(service) == plain()[service] | made
    others = {name: each for name, each in plain().items() if name != service}
    assert services == others


@pytest.mark.parametrize("service", PLACES)
def test_mappings_are_added_to_what_the_stack_has(service: str):
    own = {"labels": {"com.example.team": "a$b"}, "environment": {"A": "$x: y", "B": True}}
    ulimits = {"core": 0, "nproc": {"soft": 100, "hard": -1}}
    found, before = rendered(service, **own, ulimits=ulimits)[service], plain()[service]
    assert found["labels"] == {**before["labels"], "com.example.team": "a$$b"}
    assert found["environment"] == {**before["environment"], "A": "$$x: y", "B": "true"}
    files = before["ulimits"]["nofile"]
    assert found["ulimits"] == {"nofile": files, **ulimits}
    lifted = rendered(service, ulimits={"nofile": 4096})[service]["ulimits"]
    assert lifted == {"nofile": 4096}


@pytest.mark.parametrize("service", PLACES)
def test_temporary_folders_have_a_size_and_run_programs_only_where_told(service: str):
    (before,) = plain()[service]["tmpfs"]
    assert ",noexec,nosuid,nodev" in before
    folders = [{"path": "/run/app/", "size": "32m"}, {"path": "/tmp", "exec": True}]
    tmp, run = rendered(service, tmpfs=folders)[service]["tmpfs"]
    assert tmp == before.replace("noexec", "exec")
    assert run == f"/run/app:{TMP % (SIZE, 'noexec')}"
    (sized,) = rendered(service, tmpfs=[{"path": "/tmp", "size": "32m"}])[service]["tmpfs"]
    assert sized == f"/tmp:{TMP % (SIZE, 'noexec')}"


@pytest.mark.parametrize("service", PLACES)
def test_volumes_are_mounted_beside_those_of_the_stack(service: str):
    own = [
        {"name": "models", "path": "/srv/models/", "read_only": True},
        {"host": "/srv/media/", "path": "/media"},
    ]
    values = with_options(service, volumes=own)
    findings, files = outcome(json.dumps(values))
    assert findings == []
    compose = yaml.safe_load(files["docker-compose.prod.yml"])
    assert compose["services"][service]["volumes"] == [
        *plain()[service].get("volumes", []),
        {"type": "volume", "source": "models", "target": "/srv/models", "read_only": True},
        {
            "type": "bind",
            "source": "/srv/media",
            "target": "/media",
            "bind": {"create_host_path": False},
        },
    ]
    assert compose["volumes"]["models"] == {"labels": {"crisper.stack": "crisper"}}
    model = stack_model(values)
    assert (model["own_volumes"], model["volumes"][-1]) == (["models"], "models")
    place = f"{PLACES[service]}.volumes[1].host"
    assert model["shared_paths"] == [{"place": place, "path": "/srv/media", "read_only": False}]


def test_devices_are_looked_for_on_the_server():
    model = stack_model(with_options("backend", devices=["/dev/fuse:/dev/fuse:rw"]))
    place = "stack_app.web.devices[0]"
    assert model["shared_paths"] == [{"place": place, "path": "/dev/fuse", "read_only": False}]


def test_web_servers_end_as_their_operator_says():
    before = {name: plain()[name].get("stop_signal") for name in ("backend", "frontend")}
    assert before == {"backend": None, "frontend": "SIGQUIT"}
    assert plain()["backend"]["stop_grace_period"] == "45s"
    for service in before:
        found = rendered(service, stop_signal="SIGINT", stop_grace_period=90)[service]
        assert (found["stop_signal"], found["stop_grace_period"]) == ("SIGINT", "90s")
    found = rendered("frontend", command=["caddy", "run"])["frontend"]
    assert found["command"] == ["caddy", "run"]


def test_the_model_holds_what_rollbacks_compare():
    one, other = (stack_model(with_options("backend", shm_size=size)) for size in ("32m", "64m"))
    differences = {key for key in one if one[key] != other[key]}
    assert differences == {"service_options"}


REFUSED = (
    ({"entrypoint": "tini --"}, ".entrypoint is 'tini --': give a list, one argument each"),
    ({"user": "a b"}, ".user is 'a b': give a user such as app, 1000 or '1000:1000'."),
    ({"read_only": "no"}, ".read_only is 'no': give true or false."),
    ({"tmpfs": "/run"}, ".tmpfs is '/run': give a list of mappings, such as [{path: /run/app,"),
    ({"tmpfs": ["/run"]}, ".tmpfs[0] is '/run': give a mapping such as {path: /run/app, size"),
    ({"tmpfs": [{"path": "/run"}]}, ".tmpfs[0].size is missing: give one, such as 64m."),
    ({"tmpfs": [{"path": "run", "size": "1m"}]}, ".tmpfs[0].path is 'run': give an absolute path"),
    ({"tmpfs": [{"path": "/", "size": "1m"}]}, ".tmpfs[0].path is '/': give an absolute path"),
    ({"tmpfs": [{"path": "/run", "size": "1k"}]}, ".tmpfs[0].size is '1k': give a size of 1m or"),
    ({"tmpfs": [{"path": "/dev/shm", "size": "1m"}]}, "/dev is the kernel's or the engine's;"),
    ({"tmpfs": [{"path": "/proc", "size": "1m"}]}, "/proc is the kernel's or the engine's;"),
    (
        {"tmpfs": [{"path": "/run", "size": "9g"}]},
        ".tmpfs[0].size is '9g', more than the memory of",
    ),
    ({"tmpfs": [{"path": "/run", "size": "1m", "exec": 1}]}, ".exec is 1: give true or false."),
    (
        {"tmpfs": [{"path": "/run", "size": "1m", "exce": True}]},
        ".tmpfs[0] has no such key: did you mean exec?",
    ),
    (
        {"tmpfs": [{"path": "/run", "size": "1m"}, {"path": "/run/", "size": "1m"}]},
        ".tmpfs[1].path is '/run/', and so is",
    ),
    ({"volumes": {"name": "x"}}, ".volumes is {'name': 'x'}: give a list of mappings, such as"),
    ({"volumes": ["a:/b"]}, ".volumes[0] is 'a:/b': give a mapping such as {name: models, path:"),
    (
        {"volumes": [{"path": "/b"}]},
        ".volumes[0] needs either name, of a volume of the stack, or host, a path of the server.",
    ),
    (
        {"volumes": [{"name": "ab", "host": "/srv", "path": "/b"}]},
        ".volumes[0] needs either name, of a volume of the stack, or host, a path of the server.",
    ),
    ({"volumes": [{"name": "a", "path": "/b"}]}, "].name is 'a': give 2 to 40 lower-case letters,"),
    (
        {"volumes": [{"name": "redis", "path": "/b"}]},
        "].name is 'redis', a volume of the stack's own",
    ),
    ({"volumes": [{"name": "ab", "path": "b"}]}, ".volumes[0].path is 'b': give an absolute path"),
    ({"volumes": [{"name": "ab"}]}, ".volumes[0].path is missing: give an absolute path of plain"),
    (
        {"volumes": [{"name": "ab", "path": "/tmp"}]},
        "].path is '/tmp', a temporary folder in memory",
    ),
    ({"volumes": [{"name": "ab", "path": "/etc/hosts"}]}, "/etc/hosts is the kernel's or the"),
    (
        {"volumes": [{"name": "ab", "path": "/b", "readonly": True}]},
        ".volumes[0] has no such key: did you mean read_only?",
    ),
    (
        {"volumes": [{"name": "ab", "path": "/b", "read_only": "yes"}]},
        ".volumes[0].read_only is 'yes': give true or false.",
    ),
    (
        {"volumes": [{"name": "ab", "path": "/b"}], "tmpfs": [{"path": "/b", "size": "1m"}]},
        ".volumes[0].path is '/b', and so is",
    ),
    (
        {"volumes": [{"host": "srv/media", "path": "/b"}]},
        ".volumes[0].host is 'srv/media': give an absolute path of plain characters, such as",
    ),
    *(
        (
            {"volumes": [{"host": path, "path": "/b", "read_only": True}]},
            f"is {path!r}: {why}; choose",
        )
        for path, why in (
            ("/var/run/docker.sock", "with the engine's socket a container governs the server"),
            ("/srv/docker.sock", "with the engine's socket a container governs the server"),
            ("/run", "the server itself lies in /run"),
            ("/etc", "the server itself lies in /etc"),
            ("/root/.ssh", "the server itself lies in /root"),
            ("/var", "the server itself lies in /var/lib/containerd"),
            ("/var/lib/docker/volumes", "the server itself lies in /var/lib/docker"),
            ("/opt", "secrets of the stack lie in /opt/crisper"),
            ("/opt/crisper/live", "secrets of the stack lie in /opt/crisper"),
        )
    ),
    (
        {"volumes": [{"host": "/etc/ssl/certs", "path": "/b"}]},
        "].host is '/etc/ssl/certs': containers may only read it: set read_only: true; choose",
    ),
    (
        {"files": "s3ntinel"},
        ".files is no list of mappings: give [{path: /run/key.pem, content: …}].",
    ),
    ({"files": ["s3ntinel"]}, ".files is no list of mappings: give [{path: /run/key.pem, content:"),
    ({"files": [{"path": "/a"}]}, ".files[0] needs either content, or source, a path on the"),
    (
        {"files": [{"path": "/a", "content": "s3ntinel", "source": "b"}]},
        ".files[0] needs either content, or source, a path on the controller.",
    ),
    (
        {"files": [{"path": "/a", "content": {"s3ntinel": 1}}]},
        ".files[0].content is no text: quote it, or render it (to_nice_yaml, to_json).",
    ),
    (
        {"files": [{"path": "/a", "content": "s3ntinel" * 200_000}]},
        ".files[0].content has more than 1048576 bytes: put the file into the image, or into a",
    ),
    ({"files": [{"path": "/a", "source": 7}]}, ".files[0].source is 7: give a path on the"),
    ({"files": [{"path": "a", "content": "x"}]}, ".files[0].path is 'a': give an absolute path"),
    (
        {"files": [{"path": "/a", "content": "x", "mode": "0644"}]},
        ".files[0].mode: ",
    ),
    (
        {"files": [{"path": "/a", "content": "x"}], "tmpfs": [{"path": "/a", "size": "1m"}]},
        ".files[0].path is '/a', and so is",
    ),
    ({"cap_add": "NET_RAW"}, ".cap_add is 'NET_RAW': give a list such as [NET_RAW]."),
    ({"cap_add": ["NET_RAV"]}, ".cap_add[0] is 'NET_RAV': did you mean NET_RAW?"),
    ({"cap_add": ["ALL"]}, ".cap_add[0] is 'ALL': with it a container governs the server: remove"),
    ({"cap_add": ["cap_sys_admin"]}, ": with it a container governs the server: remove it."),
    ({"cap_add": [7]}, ".cap_add[0] is 7: give a text such as NET_RAW."),
    ({"shm_size": 64}, ".shm_size is 64: give a size of 1m or more, such as 64m."),
    ({"shm_size": "9g"}, ".shm_size is '9g', more than the memory of"),
    ({"ulimits": [1]}, ".ulimits is [1]: give a mapping such as {core: 0}."),
    ({"ulimits": {"nofiles": 1}}, ".ulimits has no such key: did you mean nofile?"),
    ({"ulimits": {"core": "x"}}, ".ulimits.core is 'x': give a whole number, -1 for no limit, or"),
    ({"ulimits": {"core": {"soft": 1}}}, ".ulimits.core is {'soft': 1}: give a whole number, -1"),
    (
        {"ulimits": {"core": {"soft": -1, "hard": 1}}},
        ".ulimits.core.soft is more than its hard limit: exchange them.",
    ),
    ({"devices": "/dev/fuse"}, ".devices is '/dev/fuse': give a list such as"),
    ({"devices": ["fuse"]}, ".devices[0] is 'fuse': give a device such as /dev/dri/renderD128"),
    ({"devices": ["/dev/sda"]}, ".devices[0] is '/dev/sda', the memory or a disk of the server"),
    ({"devices": ["/dev//mem:/dev/x"]}, "the memory or a disk of the server: remove it."),
    ({"devices": ["/dev/dri/../sda"]}, ".devices[0] is '/dev/dri/../sda': give a device such as"),
    ({"labels": ["a=b"]}, ".labels is ['a=b']: give a mapping of names to texts."),
    ({"labels": {"a b": "c"}}, ".labels: 'a b' is no name of a label, such as com.example.team."),
    ({"labels": {"crisper.stack": "x"}}, ".labels.crisper.stack is one of the deploy's or the"),
    ({"labels": {"com.docker.compose.project": "x"}}, " is one of the deploy's or the engine's:"),
    ({"labels": {"a": [1]}}, ".labels.a is [1]: give a text."),
    ({"extra_hosts": ["a:1.2.3.4"]}, ".extra_hosts is ['a:1.2.3.4']: give a mapping such as"),
    ({"extra_hosts": {"a": "b"}}, ".extra_hosts.a is 'b': give an IP address, or host-gateway."),
    (
        {"extra_hosts": {"redis": "192.0.2.1"}},
        ".extra_hosts.redis would hide the stack's own redis",
    ),
    ({"extra_hosts": {"a b": "192.0.2.1"}}, ".extra_hosts: 'a b' is no host name."),
    ({"environment": "A=1"}, ".environment is 'A=1': give a mapping of names to values."),
    ({"environment": {"1A": "x"}}, ".environment: '1A' is not an environment variable name."),
    ({"environment": {"RELEASE": "x"}}, ".environment.RELEASE is set, but the deploy writes it"),
    ({"environment": {"A": "x" * 131072}}, ".environment.A is 131074 bytes long with its name:"),
    (
        {"environment": {"A": "[[crisper:redis.url]]"}},
        ".environment.A names a service of the stack",
    ),
)


@pytest.mark.parametrize("service", PLACES)
@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_an_option_that_does_not_fit_is_refused(service: str, options: Any, sentence: str):
    if service == "frontend" and "files" in options:
        options = {"user": "101", **options}
    (finding,) = refusals(service, **options)
    assert finding.startswith(PLACES[service])
    assert sentence in finding
    assert "s3ntinel" not in finding


@pytest.mark.parametrize(
    ("service", "options", "sentence"),
    [
        ("backend", {"stop_signal": "SIGKILL"}, "stack_app.web.stop_signal is 'SIGKILL': give a"),
        ("frontend", {"stop_grace_period": 0}, "stack_app.frontend.stop_grace_period is 0: give a"),
        ("frontend", {"command": "x"}, "stack_app.frontend.command is 'x': give a list, one"),
        (
            "celery-worker",
            {"stop_grace_period": 60},
            "celery_workers[0].stop_grace_period is not for workers and beat: set"
            " celery_stop_grace_period, the same for all pools.",
        ),
        (
            "celery-beat",
            {"stop_signal": "SIGINT"},
            "stack_app.celery.beat.stop_signal is not for workers and beat: set nothing:",
        ),
        (
            "celery-beat",
            {"memory": "1g"},
            "beat.memory is set: move it to stack_limits.celery-beat.",
        ),
        (
            "celery-beat",
            {"usr": "app"},
            "stack_app.celery.beat has no such key: did you mean user?",
        ),
        (
            "celery-beat",
            {"tmpfs": [{"path": "/var/lib", "size": "1m"}]},
            "which would hide /var/lib/celery (the times of beat's last runs): choose a path that",
        ),
        (
            "celery-worker",
            {"tmpfs": [{"path": "/opt", "size": "1m"}]},
            "which would hide /opt/crisper-guard (the guard of workers and beat): choose a path",
        ),
        (
            "backend",
            {"tmp": "8m", "tmpfs": [{"path": "/tmp", "size": "8m"}]},
            "stack_app.web.tmpfs[0].size is set, and stack_app.web.tmp too: remove one.",
        ),
    ],
)
def test_what_a_service_does_not_take_is_refused(service: str, options: Any, sentence: str):
    (finding,) = refusals(service, **options)
    assert sentence in finding


@pytest.mark.parametrize("beat", [{}, "yes", 1, [], None])
def test_beat_is_a_choice_or_a_mapping(beat: Any):
    values = copy.deepcopy(GOOD)
    values["stack_app"]["celery"]["beat"] = beat
    found = validate(values)
    assert found == [] if beat is None else "give true or false, or a mapping" in found[0]


def test_uploads_are_not_hidden():
    values = with_options("backend", tmpfs=[{"path": "/srv/media/x", "size": "1m"}])
    values["stack_app"]["uploads"] = "/srv/media"
    (finding,) = validate(values)
    assert "would hide /srv/media (stack_app.uploads)" in finding


def test_an_unknown_option_of_any_service_names_the_nearest():
    """Types know the keys of web, front end and pools; beat is true, false or a mapping."""
    for service in ("backend", "frontend", "celery-worker"):
        findings, _files = outcome(json.dumps(with_options(service, shm_sise="1m")))
        (finding,) = findings
        assert "has no such key: did you mean shm_size?" in finding
