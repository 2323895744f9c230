"""Write the release that is deployed into its folder, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..images.identity import is_same
from ..output import quote_last_lines
from ..text import composed
from .context import ReleaseContext, describe
from .manifest import decoded_files, env_names_changed, fingerprint, redacted_env, release_id
from .rollback_check import known_images

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

ENV_FILE = ".env.prod"


class Staging(ReleaseContext):
    """The state C(staged)."""

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(module)
        secret_files = decoded_files(self.params["secret_files"])
        self.secret = {item["path"] for item in secret_files}
        self.files = [*decoded_files(self.params["files"]), *secret_files]

    def stage(self) -> dict[str, Any]:
        """Write the release folder, unless current or next already is this release."""
        migrate = self.params["facts"].get("migrate", [])
        print_ = fingerprint(self.files, self.params["images"], migrate)
        current, following = self.linked("current"), self.linked("next")
        result = self.compare(current)
        serves = current.get("fingerprint") == print_
        if following and (serves or following.get("fingerprint") != print_):
            # An earlier deploy staged something else and never finished: it is not wanted now.
            result.update(changed=True, replaced=following["id"])
            if not self.module.check_mode:
                self.store.unstage()
            following = {}
        if serves:
            if not self.module.check_mode:
                result["changed"] = self.name_again(current) or result["changed"]
            return {**result, "release": describe(current, False)}
        if following:
            if not self.module.check_mode:
                self.note("stage", release=following["id"], host=self.params["host_inputs"])
            return {**result, "resumed": True, "release": describe(following, True)}
        result.update(changed=True, diff=self.diff(current))
        return {**result, "release": describe(self.write(print_), True)}

    def compare(self, current: dict[str, Any]) -> dict[str, Any]:
        """Return what is another than in the current release."""
        env_before = self.old_text(current, ENV_FILE)
        env_after = next((f["content"] for f in self.files if f["path"] == ENV_FILE), "")
        images, facts = self.params["images"], self.params["facts"]
        return {
            "changed": False,
            "current": current.get("id", ""),
            "env_changed": env_names_changed(env_before, env_after),
            "images_changed": [
                name
                for name, image in images.items()
                if not is_same(current.get("images", {}).get(name, {}), image)
            ],
            "facts_changed": [name for name in facts if current.get(name) != facts[name]],
            "secrets_changed": [
                item["path"]
                for item in self.files
                if item["path"] in self.secret
                and self.old_text(current, item["path"]) != item["content"]
            ],
            "resumed": False,
            "replaced": "",
        }

    def write(self, print_: str) -> dict[str, Any]:
        """Write a new release of that fingerprint and stage it; return its manifest and path."""
        name = release_id(datetime.now(timezone.utc), print_)
        manifest = {
            "id": name,
            "fingerprint": print_,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "images": self.params["images"],
            **self.params["facts"],
        }
        if not self.module.check_mode:
            try:
                self.note("stage", release=name, host=self.params["host_inputs"])
                manifest = self.store.add(manifest, self.files, self.accept(name))
                self.store.link("next", name)
            except OSError as error:
                self.store.take_back(name)
                self.module.fail_json(
                    msg=f"Release {name} could not be written: {error}."
                    " Nothing of it was kept; the serving release is unchanged."
                )
        return {**manifest, "path": str(self.store.folder / name)}

    def name_again(self, current: dict[str, Any]) -> bool:
        """Give images of the current release the names and ids that this engine lacks.

        The engine may be a new one, or have another image store: the same images have other ids.
        """
        images, stack = self.params["images"], self.params["stack"]
        names = {f"{stack}/{name}:{current['id']}": images[name] for name in self.params["tags"]}
        known = known_images(self.docker, list(names)) if names else {}
        tags = {
            f"Tagging {name}": ["image", "tag", image["id"], name]
            for name, image in names.items()
            if image["id"] not in known.get(name, ())
        }
        self.run(tags, current["path"])
        if current.get("images") != images:
            self.annotate(current["id"], {"images": images})
            return True
        return bool(tags)

    def accept(self, release: str) -> Callable[[Path], None]:
        """Return what validates the folder of a release, and names its images."""

        def check(draft: Path) -> None:
            self.run({"The rendered compose file": ["compose", "config", "--quiet"]}, str(draft))
            tags = {}
            for name in self.params["tags"]:
                tag = f"{self.params['stack']}/{name}:{release}"
                image = self.params["images"][name]["id"]
                tags[f"Tagging {tag}"] = ["image", "tag", image, tag]
            self.run(tags, str(draft))

        return check

    def run(self, commands: dict[str, list[str]], folder: str) -> None:
        """Run Docker commands side by side; one clear error when one is refused.

        `commands` are arguments of the Docker client by what they do.
        """
        cli = self.params["docker_cli"]
        with ThreadPoolExecutor(4) as pool:
            done = {
                what: pool.submit(self.module.run_command, [cli, *arguments], cwd=folder)
                for what, arguments in commands.items()
            }
        for what, answer in done.items():
            code, out, err = answer.result()
            if code != 0:
                self.module.fail_json(
                    msg=composed(
                        f"{what} was refused: {quote_last_lines(err) or quote_last_lines(out)}."
                        " Nothing was changed; the release folder was not kept."
                    ),
                    cmd=" ".join([cli, *commands[what]]),
                )

    def diff(self, current: dict[str, Any]) -> list[dict[str, str]]:
        """Return the files against those of the current release, values of secrets hidden."""
        entries = []
        for item in self.files:
            before, after = self.old_text(current, item["path"]), item["content"]
            if before == after or item["path"] == ".env":
                continue
            if item["path"] in self.secret and item["path"].startswith(".env"):
                before, after = redacted_env(before, after, ""), redacted_env(after, before)
            elif item["path"] in self.secret:
                before, after = ("(secret)\n" if before else ""), "(secret, differs)\n"
            header = item["path"]
            entries.append(
                {
                    "before": before,
                    "after": after,
                    "before_header": header,
                    "after_header": header,
                }
            )
        return entries

    def old_text(self, current: dict[str, Any], path: str) -> str:
        """Return a file of the current release; empty when there is none."""
        try:
            return (Path(current["path"]) / path).read_bytes().decode() if current else ""
        except (OSError, UnicodeError):
            return ""
