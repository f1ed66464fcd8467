"""From a request to its handler: version prefixes, the table of paths, errors as JSON."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.server.errors import ClientGone, message_of, status_of
from lamina.server.http.messages import Answer, Reply, Request, answer
from lamina.server.locality import is_loopback, is_rebound

if TYPE_CHECKING:
    from lamina.server.daemon import Daemon

ANNOUNCED = (1, 41)
HIGHEST = (1, 48)  # what is accepted: nothing that we read or say was changed up to there but what is asked for by `request.version`
LOWEST = (1, 12)
_VERSION = re.compile(r"/v(\d{1,4})\.(\d{1,4})(/.*)")

Handler = Callable[..., Reply]


class Route(msgspec.Struct, frozen=True):
    """`path`: {name} is one part, {name*} may have slashes (image names). `page`: browsers may ask; the handler refuses other sites itself."""

    method: str
    path: str
    handler: Handler
    page: bool = False


class Router:
    def __init__(self, routes: Sequence[Route]) -> None:
        self._pages = [re.compile(_pattern(route.path)) for route in routes if route.page and route.method == "GET"]
        self._routes = [(route.method, re.compile(_pattern(route.path)), route.handler) for route in routes]

    def __call__(self, daemon: Daemon, request: Request) -> Reply:
        """Never raises."""
        try:
            if ("origin" in request.headers or "sec-fetch-site" in request.headers) and not self._is_page(request):
                # Only browsers say so: a page that was opened somewhere asks an engine on loopback.
                return answer({"message": "requests of web pages are refused"}, 403)
            if is_rebound(request.headers.get("host", "")) and any(is_loopback(host) for host in daemon.place.split(",")):
                return answer({"message": "this engine answers to localhost only"}, 403)
            versioned = _VERSION.fullmatch(request.path)
            if versioned:
                request.version = (int(versioned[1]), int(versioned[2]))
                request.path = versioned[3]
                refused = _refusal(request.version)
                if refused is not None:
                    return refused
            else:
                request.version = ANNOUNCED
            return self._find(request)(daemon, request)
        except Exception as error:
            return failure(error)

    def _is_page(self, request: Request) -> bool:
        return request.method in ("GET", "HEAD") and any(page.fullmatch(request.path) for page in self._pages)

    def _find(self, request: Request) -> Callable[[Daemon, Request], Reply]:
        method = "GET" if request.method == "HEAD" else request.method
        for known, pattern, handler in self._routes:
            if known != method and not (known == "HEAD" and request.method == "HEAD"):
                continue
            found = pattern.fullmatch(request.path)
            if found:
                names: dict[str, Any] = found.groupdict()
                return lambda daemon, request: handler(daemon, request, **names)
        return lambda daemon, request: answer({"message": "page not found"}, 404)


def failure(error: Exception) -> Answer:
    if isinstance(error, ClientGone):
        return answer({"message": "the client left"}, 400)  # nobody reads it
    if not isinstance(error, (LaminaError, OSError)):
        print("lamina serve: " + "".join(traceback.format_exception(error)), file=sys.stderr, end="")
    return answer({"message": message_of(error)}, status_of(error))


def _refusal(version: tuple[int, int]) -> Answer | None:
    text = "{}.{}".format(*version)
    if version > HIGHEST:
        return answer({"message": f"client version {text} is too new. Maximum supported API version is {'{}.{}'.format(*ANNOUNCED)}"}, 400)
    if version < LOWEST:
        message = f"client version {text} is too old. Minimum supported API version is {'{}.{}'.format(*LOWEST)}, please upgrade your client to a newer version"
        return Answer(400, message.encode() + b"\n", "text/plain; charset=utf-8")
    return None


def _pattern(path: str) -> str:
    return re.sub(r"\\\{(\w+)(\\\*)?\\\}", lambda found: f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})", re.escape(path))
