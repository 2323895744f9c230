"""Put a kept release back, and mark releases: failed, annotated, pruned."""

from __future__ import annotations

import contextlib
from typing import Any

from ..images.identity import identity
from ..journal import Journal
from ..lock import LockedError
from ..output import quote_last_lines
from ..text import composed
from .context import ReleaseContext
from .rollback_check import image_names, known_images
from .store import ReleaseError


class Rollback(ReleaseContext):
    """The states of releases that are kept."""

    def chosen(self) -> dict[str, Any]:
        """Return the release in question; fail with the list of kept ones when there is none."""
        try:
            return self.store.find(self.params["id"] or "")
        except ReleaseError as error:
            self.module.fail_json(msg=str(error))
        raise AssertionError  # fail_json has ended the process

    def tag(self) -> dict[str, Any]:
        """Give the release's images their names again."""
        release, changed = self.chosen(), False
        names = image_names(self.params["stack"], release)
        ids = [image["id"] for _, image in names]
        known = known_images(self.docker, [*ids, *(reference for reference, _ in names)])
        for reference, image in names:
            wanted = {image["id"], identity(image)}
            if reference in known and wanted & set(known[reference]):
                continue
            changed = True
            if self.module.check_mode:
                continue
            # Under its id, or the id that it has in this image store.
            source = next((each[0] for each in known.values() if wanted & set(each)), image["id"])
            code, _, err = self.docker("image", "tag", source, reference)
            if code != 0:
                self.module.fail_json(
                    msg=composed(f"{reference} cannot be tagged again: {quote_last_lines(err, 5)}")
                )
        return {"changed": changed, "release": release}

    def put_back(self) -> dict[str, Any]:
        """Point `current` at the release and take the mark off a staged one."""
        release, staged = self.chosen(), self.store.staged
        changed = release["id"] != self.store.current
        if changed and not self.module.check_mode:
            self.note("promote", release=release["id"])
            self.store.link("current", release["id"])
        if staged not in ("", release["id"]):
            self.params["reason"] = f"given up: release {release['id']} was put back"
            changed |= self.abandon()["changed"]
        result = {"changed": changed, "release": release, "ended": False, **self.counted()}
        result["seconds"] = self.seconds()
        run = self.params["run"]
        if run and self.params["ends"] and not self.module.check_mode:
            # The lock is given back once more at the end of the run.
            with contextlib.suppress(LockedError):
                result["ended"] = Journal(run["root"], run["id"]).end("done")
        return result

    def abandon(self) -> dict[str, Any]:
        """Give up the staged release, which failed: its manifest says why, and none resumes it."""
        staged = self.store.staged
        if not staged:
            return {"changed": False}
        if not self.module.check_mode:
            self.note("abandon", release=staged)
            if staged in self.store.manifests:
                self.annotate(staged, {"failed": self.params["reason"] or "failed"})
            self.store.unstage()
        return {"changed": True}

    def add_facts(self) -> dict[str, Any]:
        """Add facts to the manifest of a release."""
        wanted = self.params["id"] or self.store.staged or self.store.current
        known = self.store.manifests.get(wanted, {})
        facts = self.params["facts"]
        changed = bool(known) and any(known.get(name) != value for name, value in facts.items())
        if changed:
            self.annotate(wanted, facts)
        return {"changed": changed}
