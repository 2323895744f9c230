"""Failures of other programs, as results of real tasks had them (community.docker 5, core 2.19)."""

from __future__ import annotations

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.output import (
    describe_failure,
    describe_task,
    first_line,
    is_failure,
    last_lines,
)
from hypothesis import given
from hypothesis import strategies as st

SUPPRESSED = {"failed": False, "failed_when_suppressed_exception": "(traceback unavailable)"}
COMMAND = {**SUPPRESSED, "rc": 3, "stdout": "hi", "stderr": "bad", "msg": "non-zero return code"}
RUN = {"failed": False, "changed": True, "rc": 255, "stdout": "", "stderr": "Multiple heads"}
BUILD = {
    **SUPPRESSED,
    "msg": "Building myapp/backend:src-1 failed",
    "stdout": "",
    "stderr": "\n\n".join(f"#5 line {n}" for n in range(200)) + "\nERROR: exit code: 7\n",
}
PULL = {**SUPPRESSED, "msg": "Error pulling image a/b:1 - 500 Server Error (connection refused)"}


@pytest.mark.parametrize("result", [COMMAND, RUN, BUILD, PULL, {"failed": True, "msg": "no"}])
def test_a_failure_is_found_whatever_became_of_its_flag(result):
    assert is_failure(result)


@pytest.mark.parametrize(
    "result",
    [{"skipped": True, "rc": 1}, {"failed": False, "rc": 0}, {"changed": True}, {"results": []}],
)
def test_no_failure_gives_no_message(result):
    assert not is_failure(result)
    assert describe_failure(result, "The pull") == ""


def test_exit_code_output_and_remedy_are_told():
    told = describe_failure(RUN, "The migration (alembic upgrade head)", 600, "Merge the heads.")
    assert told == (
        "The migration (alembic upgrade head) failed with exit code 255. Merge the heads."
        "\nLast lines of its output:\n| Multiple heads"
    )


@pytest.mark.parametrize("code", [124, 137])
def test_a_time_limit_is_told_as_one(code):
    told = describe_failure({**RUN, "rc": code, "stderr": "half way"}, "The migration", 600)
    assert told.startswith("The migration did not end within its time limit of 600 s")
    assert told.endswith("half way")


def test_the_progress_of_compose_is_no_output():
    said = " Container demo-backend-run-1  Created\nMultiple heads\n Container demo-redis-1  Error"
    told = describe_failure({**RUN, "stderr": said}, "The migration")
    assert told.endswith("Last lines of its output:\n| Multiple heads")


def test_without_a_time_limit_137_is_a_kill():
    assert "memory limit" in describe_failure({**RUN, "rc": 137}, "The check")


def test_a_build_shows_its_last_lines_once():
    told = describe_failure(BUILD, "The build of backend")
    assert told.splitlines()[0] == (
        "The build of backend failed: “Building myapp/backend:src-1 failed”."
    )
    assert told.count("ERROR: exit code: 7") == 1
    assert told.endswith("ERROR: exit code: 7")
    assert len(told.splitlines()) <= 23
    assert "line 10\n" not in told


def test_a_message_that_the_output_repeats_is_told_once():
    result = {**RUN, "rc": 1, "msg": "no such service", "stderr": "no such service"}
    assert describe_failure(result, "It").count("no such service") == 1


def test_each_item_of_a_loop_is_named():
    item = {"ansible_loop_var": "name", "name": "redis", **PULL}
    fine = {"ansible_loop_var": "name", "name": "nginx", "failed": False}
    told = describe_failure({"failed": True, "results": [fine, item]}, "The pull", remedy="Log in.")
    assert told.startswith("The pull (redis) failed: “Error pulling image a/b:1")
    assert told.endswith("\nLog in.")
    assert "nginx" not in told


@given(st.text(), st.integers(1, 30))
def test_never_more_lines_than_asked_for(text, count):
    lines = last_lines(text, count).splitlines()
    assert len(lines) <= count
    assert all(len(line) <= 501 for line in lines)


def test_terminal_colours_are_left_out():
    assert last_lines("\x1b[31mred\x1b[0m\n\n\x1b[2Kgone") == "red\ngone"


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"msg": "The build failed.\nline"}, "Build it: The build failed.\nline"),
        ({"msg": "non-zero return code", "rc": 3, "stderr": "no"}, "failed with exit code 3."),
        ({"msg": "Unknown error"}, "The task 'Build it' failed."),
        (
            {"results": [{"failed": True, "msg": "no", "item": "a", "ansible_loop_var": "item"}]},
            "no",
        ),
    ],
)
def test_a_rescue_says_what_the_task_said_or_else_what_its_command_printed(result, told):
    assert told in describe_task({"failed": True, **result}, "Build it")


def test_a_record_with_room_for_one_line_gets_the_first_one_whole():
    assert first_line("\nThe migration failed.\nLast lines:\nx") == "The migration failed."
    assert first_line("") == ""
    assert len(first_line("x" * 900)) == 500


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        (
            "to postgresql+psycopg://app:S3cretPw@postgres:5432/app",
            "to postgresql+psycopg://app:***@",
        ),
        ("redis://:hunter2@redis:6379/0 refused", "redis://:***@redis:6379/0 refused"),
        (
            "http://proxy:3128 and https://u:p%40w@proxy:1",
            "http://proxy:3128 and https://u:***@proxy:1",
        ),
        ("\x1b]0;title\x07\x9bevil\u202e\x00done", r"\x9bevil\u202e\x00done"),
    ],
)
def test_passwords_and_control_characters_are_not_repeated(printed, told):
    message = describe_failure({**RUN, "stderr": printed}, "The migration")
    assert told in message
    for secret in ("S3cretPw", "hunter2", "p%40w", "\x07", "\x9b", "\u202e", "\x00"):
        assert secret not in message


def test_neither_stream_pushes_the_other_out():
    warnings = "\n".join(f"warning {n}" for n in range(40))
    told = describe_failure({**RUN, "stdout": "the reason", "stderr": warnings}, "The migration")
    assert "the reason" in told
    assert told.endswith("warning 39")
    assert len(told.splitlines()) <= 22
