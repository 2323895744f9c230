"""Tasks that no worker knows: what a deploy, verify and status do by the real playbooks."""

from __future__ import annotations

from harness import temporary_site

STATUS = "playbooks/status.yml"
COMMAND = "ansible-playbook playbooks/status.yml --tags requeue -e status_tasks=stranded"


def test_a_deploy_puts_back_and_an_operator_is_told() -> None:
    with temporary_site("one") as site:
        site.one.change(stranded=0)
        site.deploy().succeeded("Release", "(new; before: none)")
        site.one.change(stranded=8)
        put_back = "8 tasks that no worker knew any more were put back in their queues"
        site.deploy(x="2").succeeded(f"Put back {put_back} (Redis was restarted)")
        assert site.one.engine["stranded"] == 0
        # Only of a Redis that this run has restarted.
        assert 10 < site.one.engine["within"] < 600
        assert "put_back" in [entry["step"] for entry in site.one.journal]
        site.one.change(stranded=3)
        told = "3 tasks are unacknowledged, no worker knows 3 of them (nap 1 and 2 more)"
        site.deploy("--tags", "verify").succeeded(f"Warning {told}. Put them back: {COMMAND}")
        site.deploy(playbook=STATUS).succeeded(f"Stranded {told}. Put them back: {COMMAND}")
        assert site.one.engine["stranded"] == 3
        refused = site.deploy("--tags", "drop", playbook=STATUS, status_tasks="stranded")
        refused.failed("status_tasks=stranded goes with --tags requeue only")
        requeue = ("--tags", "requeue", "-e", "status_tasks=stranded")
        done = site.deploy(*requeue, playbook=STATUS)
        done.succeeded("Put back 3 tasks that no worker knew any more were put back")
        assert site.one.engine["stranded"] == 0


def test_a_deploy_that_restarted_redis_tells_what_became_of_tasks() -> None:
    """Old workers are gone when it looks: what they left is put back, or acknowledged, and told."""
    warning = "Redis was restarted: tasks with late acknowledgement that ran then may run twice"
    with temporary_site("one") as site:
        run = site.deploy()
        assert warning not in run.text
        site.one.change(stranded=2, ended=True, restarted=True)
        done = site.deploy(x="2").succeeded(f"Warning {warning} (celery-worker")
        done.said("Ended 2 tasks had ended and were acknowledged (Redis was restarted)")
        steps = [entry["step"] for entry in site.one.journal]
        assert steps.index("stop_old") < steps.index("put_back")
        # The way back of a deploy that fails behind that looks again, and finds nothing.
        site.one.change(stranded=3, ended=False)
        site.script({"point": "command:hook", "do": "fail", "answer": {"msg": "no cache"}})
        hooks = {"after_switch": [{"name": "warm", "command": ["warm"], "timeout": 9}]}
        failed = site.deploy(x="3", rollout_hooks=hooks)
        failed.failed("Redis was restarted: 3 tasks that no worker knew any more were put back")


def test_a_restore_puts_back_what_its_set_holds_as_unacknowledged() -> None:
    """Regression: the tasks waited for the visibility timeout, and the summary was silent."""
    with temporary_site("one") as site:
        site.one.change(stranded=0)
        site.deploy().succeeded()
        site.one.change(stranded=3)
        done = site.deploy(playbook="playbooks/restore.yml", restore_confirmed=True)
        done.succeeded("Put back 3 tasks that no worker knew any more were put back")
        assert site.one.engine["stranded"] == 0
