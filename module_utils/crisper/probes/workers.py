"""Ask the workers, then send canaries: what M(celery_inspect) and M(celery_canary) run."""

from __future__ import annotations

from typing import Any

from .canary import canary
from .inspect import inspect
from .serve import Probe


class WorkersProbe(Probe):
    """``methods`` that are asked, and the ``canary`` that is sent."""

    def run(self, app: Any) -> None:
        """Ask, and send; nothing of what is not requested."""
        request, timeout = self.request, self.request["timeout"]
        # From here the waiting has deadlines of its own; the alarm only ends what has none.
        self.enter(self.phase, timeout * 2 + 5)
        if request.get("methods"):
            self.enter("broker_unreachable", timeout * 2 + 5)
            self.reply.update(inspect(app, request))
        if request.get("canary"):
            # The deadline, two looks at workers that do not answer, and a slow broker.
            self.enter("result_backend_unreachable", request["canary"]["timeout"] * 2 + 30)
            self.reply["canary"] = {"problem": "", "error": "", **canary(app, request["canary"])}

    def summary(self, problem: str = "", error: str = "") -> dict[str, Any]:
        """Return what workers answered, although a canary could not be sent."""
        if problem and self.reply:
            found = {"problem": problem, "error": error}
            return {"problem": "", "error": "", **self.reply, "canary": found}
        return super().summary(problem, error)


main = WorkersProbe.main
