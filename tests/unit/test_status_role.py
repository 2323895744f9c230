"""What role status tells of what did not answer, from its own variables."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[2]
ABSENT = (
    "/usr/local/bin/python: Error while finding module specification for 'crisper_worker.aside'"
    " (ModuleNotFoundError: No module named 'crisper_worker')"
)
NEWER = "/usr/local/bin/python: No module named crisper_worker"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        # Regression: an image that needs no crisper-worker was said to give no answer.
        (ABSENT, ""),
        (NEWER, ""),
        ("ModuleNotFoundError: No module named 'redis'", "No module named 'redis'"),
        ("No module named crisper_worker.aside", "No module named crisper_worker.aside"),
        ("Connection refused", "Connection refused"),
    ],
)
def test_an_image_without_the_worker_package_is_no_missing_answer(said: str, told: str) -> None:
    loader = DataLoader()
    known = loader.load_from_file(
        str(ROOT / "roles/status/vars/main.yml"), trusted_as_template=True
    )
    skipped = {"skipped": True}
    known |= {"__status_workers": skipped, "__status_waiting": skipped}
    known["__status_certificate"] = skipped
    known |= {"__status_set_aside": {"rc": 1, "stderr": said}}
    templar = Templar(loader=loader, variables=known)
    silent = templar.template(trust_as_template("{{ __status_silent }}"))
    assert len(silent) == (1 if told else 0)
    assert told in "".join(silent)
