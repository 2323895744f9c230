"""A Redis client whose commands are not refused at Redis's memory limit.

At ``maxmemory`` with ``noeviction`` Redis refuses every command that may need memory, and whatever
is in a MULTI: also those by which a worker acknowledges, renews and stores what ends. Then nothing
could end any more, and nothing would ever be freed. The limit is for what comes in: a worker's own
commands go past it, by a script (Redis lets a script end that has written before).

LPUSH is what comes in, and stays refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import OutOfMemoryError, ResponseError

# The first command of a script that goes past the limit: it writes, and needs no memory. (DEL of
# what is not there counts; `#!lua flags=allow-oom` is only known since Redis 7.)
OPEN = "redis.call('DEL', 'unacked_nothing')\n"
# ARGV: for each command the number of its words, and they. All of them or, after an error, some.
PASS = (
    OPEN
    + """
local answers, at = {}, 1
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  answers[#answers + 1] = redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return answers
"""
)
INCOMING = "LPUSH"


def is_refusal(error: BaseException) -> bool:
    """Return whether Redis lives and takes no writes for now: no memory, no disk, still loading."""
    if isinstance(error, OutOfMemoryError):
        return True
    # Of a pipeline redis-py says first which command, with its arguments.
    answer = str(error).rpartition(" of pipeline caused error: ")[2]
    return isinstance(error, ResponseError) and answer.startswith(("OOM ", "MISCONF "))


def oom_bypass(client: Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Run commands of Redis in one step, at its memory limit too; their raw answers.

    Args:
        client: any client; what it does with keys' prefixes does not happen here.
        commands: words of each command.

    Raises:
        RedisError: one of them failed; Redis is away.
    """
    words = [word for command in commands for word in (len(command), *command)]
    answers: list[Any] = Redis(connection_pool=client.connection_pool).eval(PASS, 0, *words)
    return answers


class OomBypassRedis(Redis):
    """A client whose commands go past the memory limit."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command; a second time past the limit if that refuses it."""
        try:
            return super().execute_command(*args, **options)
        except OutOfMemoryError:
            if args[0] == INCOMING or "EVAL" in args[0]:
                raise
            return oom_bypass(self, [args])[0]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> OomBypassPipeline:
        """Return commands that travel together."""
        callbacks = self.response_callbacks
        return OomBypassPipeline(self.connection_pool, callbacks, transaction, shard_hint)


class OomBypassPipeline(Pipeline):
    """A pipeline of which a transaction goes past the memory limit as a whole."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run what was collected; a second time past the limit if that refuses a transaction."""
        commands = [args for args, _ in self.command_stack]
        # redis-py lays an attribute over its method `transaction`.
        whole = bool(
            self.transaction or self.explicit_transaction  # type: ignore[truthy-function]
        )
        try:
            return super().execute(raise_on_error)
        except OutOfMemoryError:
            # Nothing of a refused transaction was done.
            if not whole or any(args[0] == INCOMING for args in commands):
                raise
            if any("EVAL" in args[0] for args in commands):  # a script runs in no other script
                client = OomBypassRedis(connection_pool=self.connection_pool)
                return [client.execute_command(*args) for args in commands]
            return oom_bypass(self, commands)
