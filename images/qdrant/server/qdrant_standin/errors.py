"""What a client did wrong, in the status code and words that Qdrant uses."""

from __future__ import annotations


class ApiError(Exception):
    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(ApiError):
    status = 400

    def __init__(self, message: str) -> None:
        super().__init__(f"Wrong input: {message}")


class MalformedBody(ApiError):
    status = 400

    def __init__(self, message: str) -> None:
        super().__init__(f"Format error in JSON body: {message}")


class NotFound(ApiError):
    status = 404

    def __init__(self, message: str) -> None:
        super().__init__(f"Not found: {message}")


class Conflict(ApiError):
    status = 409

    def __init__(self, message: str) -> None:
        super().__init__(f"Wrong input: {message}")


class TooLarge(ApiError):
    status = 413


def unsupported(what: str) -> BadRequest:
    return BadRequest(f"{what} is not part of this stand-in; use the official Qdrant image for it")
