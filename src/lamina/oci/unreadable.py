"""What reading JSON or msgpack that others wrote can raise: a strange document has to be one clear line, or nothing."""

from __future__ import annotations

from typing import Final

import msgspec

# Besides its own errors msgspec lets two others through: text that is no UTF-8, and lists in lists by the thousand.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
