"""Streams of JSON rows, as /build, pull, push and load send them: one object a row, ended by CR LF."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from lamina.server.errors import ClientGone, message_of
from lamina.server.http.messages import Outlet, Stream


class RowWriter:
    """Thread-safe: rows are never mixed."""

    def __init__(self, out: Outlet) -> None:
        self._out = out
        self._lock = threading.Lock()

    def row(self, **fields: Any) -> None:
        data = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\r\n"
        with self._lock:
            self._out.write(data)

    def error(self, error: BaseException, code: int | None = None) -> None:
        text = message_of(error)
        detail: dict[str, Any] = {"message": text} if code is None else {"code": code, "message": text}
        self.row(errorDetail=detail, error=text)


def row_stream(run: Callable[[RowWriter], None]) -> Stream:
    """An error of `run` becomes the last row: the status was sent long ago."""

    def body(out: Outlet) -> None:
        rows = RowWriter(out)
        try:
            run(rows)
        except ClientGone:
            raise
        except Exception as error:
            rows.error(error)

    return Stream(body)
