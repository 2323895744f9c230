"""Make the release that is staged the one that serves, and record what was seen of it."""

from __future__ import annotations

from typing import Any

from .context import ReleaseContext, describe


class Promotion(ReleaseContext):
    """The states C(info) and C(current)."""

    def info(self) -> dict[str, Any]:
        """Return the staged release, or else the current one."""
        current, following = self.linked("current"), self.linked("next")
        return {
            "changed": False,
            "release": describe(following or current, bool(following)),
            "current": current.get("id", ""),
        }

    def promote(self) -> dict[str, Any]:
        """Make the staged release the current one and record what was seen of it."""
        current, following = self.linked("current"), self.linked("next")
        counts, seconds = self.counted(), self.seconds()
        facts = self.measured_facts(counts, seconds)
        if not following:
            # The same release from other inputs: the next deploy of them is done at one look, and
            # a rollback to it is judged by what was proved now (hooks, expected tasks, canary).
            names = ("inputs", "model", "roles_postponed")
            renewed: dict[str, Any] = {name: facts[name] for name in names if name in facts}
            if current and any(current.get(name, "") != value for name, value in renewed.items()):
                self.annotate(current["id"], renewed)
            return {**self.info(), "changed": False, "seconds": seconds, **counts}
        if not self.module.check_mode:
            try:
                self.note("promote", release=following["id"])
                self.annotate(following["id"], facts)
                self.store.link("current", following["id"])
                self.store.unstage()
            except OSError as error:
                self.module.fail_json(
                    msg=f"Release {following['id']} could not be made the current one: {error}."
                    " Its folder is whole; deploy again."
                )
        return {
            **self.prune(),
            "changed": True,
            "release": describe(following, False),
            "current": following["id"],
            "previous": current.get("id", ""),
            "seconds": seconds,
            **counts,
        }

    def measured_facts(self, counts: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
        """Return the facts for the manifest, with what was counted and measured of the deploy."""
        facts: dict[str, Any] = self.params["facts"]
        measured: dict[str, Any] = {"seconds": seconds} if self.params["run"] else {}
        if counts:
            measured |= {key: counts["counted"][key] for key in ("tasks", "requests")}
        if not measured:
            return facts
        return {**facts, "deploy": {**facts.get("deploy", {}), **measured}}
