"""Errors with an HTTP status, and the status of everybody else's errors. The body is always docker's `{"message": …}`."""

from __future__ import annotations

from lamina.diagnostics.errors import LaminaError


class ApiError(LaminaError):
    """A refusal that the client sees as `Error response from daemon: <message>`."""

    code = "server/refused"
    status = 500

    def __init__(self, message: str, status: int | None = None, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        if status is not None:
            self.status = status


class BadRequest(ApiError):
    code = "server/bad-request"
    status = 400


class NotFound(ApiError):
    code = "server/not-found"
    status = 404


class Conflict(ApiError):
    code = "server/conflict"
    status = 409


class NotImplementedHere(ApiError):
    code = "server/not-implemented"
    status = 501


class ClientGone(Exception):
    """The client closed its connection; what was being done for it alone ends."""


_STATUS = {
    "store/no-such-image": 404,
    "image/not-found": 404,
    "store/ambiguous-image": 400,
    "store/image-has-tags": 409,
    "oci/invalid-reference": 400,
    "oci/invalid-digest": 400,
    "image/bad-archive": 400,
    "image/unsupported": 400,
    "registry/not-found": 404,
    "registry/denied": 401,
    "registry/unauthorized": 401,
}


def status_of(error: BaseException) -> int:
    if isinstance(error, ApiError):
        return error.status
    if isinstance(error, LaminaError):
        return _STATUS.get(error.code, 400 if error.code.startswith("dockerfile/") else 500)
    return 500


def message_of(error: BaseException) -> str:
    """One line for the client: the message and, where there is one, the way out."""
    if isinstance(error, LaminaError):
        return error.message if error.hint is None or isinstance(error, ApiError) else f"{error.message} ({error.hint})"
    if isinstance(error, OSError):
        place = f": {error.filename}" if isinstance(error.filename, str) else ""
        return f"{error.strerror or error}{place}"
    return f"a bug in lamina: {type(error).__name__}: {error}"
