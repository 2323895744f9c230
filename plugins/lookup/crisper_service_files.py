"""Files that services of the application get, as those of a release."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_service_files
short_description: Files that services of the application get
description:
  - Gives the files that C(stack_app) and C(celery_workers) describe, each with C(path) in the
    folder of the release, C(content) as base64, C(mode) and C(owner). A file on the controller may
    be encrypted with ansible-vault.
options:
  _terms:
    description: A mapping with C(stack_app) and C(celery_workers).
    required: true
  uid:
    description: User id of the application in its image; -1 where it is not known.
    type: int
    default: -1
  error:
    description: Why it is not known; empty where nobody asked.
    type: str
    default: ""
"""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.crisper.stack.plugins.module_utils.model.service_files import (
    ServiceFile,
    service_files,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.validators import carried


class LookupModule(LookupBase):
    """The lookup."""

    def run(
        self,
        terms: list[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Return the files."""
        self.set_options(var_options=variables, direct=kwargs)
        return [
            {
                "path": each.release_path,
                # A module masks its secrets in all that it returns: a short text would mask words.
                "content": b64encode(self._content(each, variables or {}).encode()).decode(),
                "encoding": "base64",
                "mode": "0600",
                "owner": self._owner(each),
            }
            for term in terms
            for each in service_files(term)
        ]

    def _content(self, each: ServiceFile, variables: Mapping[str, Any]) -> str:
        if each.content is not None:
            return each.content
        found = self.find_file_in_search_path(variables, "files", each.source, ignore_missing=True)
        if not found:
            raise AnsibleError(
                f"{each.place}.source is {each.source}: no such file on the controller."
            )
        text = str(self._loader.get_text_file_contents(found))
        if problem := carried(text):
            raise AnsibleError(f"{each.place}.source is {each.source}, which is no text: {problem}")
        return text

    def _owner(self, each: ServiceFile) -> int:
        uid = self.get_option("uid") if each.owner is None else each.owner
        if uid < 0 and self.get_option("error"):
            raise AnsibleError(
                f"{each.place} must belong to the user of the application's image, who is not"
                f" known: {self.get_option('error')}. Set stack_app.user to its number."
            )
        return max(int(uid), 0)
