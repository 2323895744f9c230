"""Labels by which Compose, and who looks for its containers, know a service of a stack."""

from __future__ import annotations

# A container has the labels of its image. One whose image Compose has built, or somebody who wants
# that, would pass for a service: containers that Compose does not make get these.
NO_SERVICE = tuple(
    word
    for name in ("project", "service", "oneoff", "config-hash")
    for word in ("--label", f"com.docker.compose.{name}=")
)
