"""The process that works for the library when its caller is an ordinary user: `python -m lamina.engine.child`, fed by engine/facade.py."""

from __future__ import annotations

import os
import pickle
import sys
import threading

from lamina.diagnostics.errors import LaminaError


def main() -> None:
    """Reads one request from standard input; writes events, then one result or error, to standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not disturb the answers
    lock = threading.Lock()

    def send(kind: str, value: object) -> None:
        with lock:
            pickle.dump((kind, value), answers)
            answers.flush()

    what, subject, root, sandbox = pickle.load(sys.stdin.buffer)
    try:
        from lamina.engine.facade import perform

        send("result", perform(what, subject, root, sandbox, lambda event: send("event", event)))
    except LaminaError as error:
        send("error", error)
    except KeyboardInterrupt:
        send("error", KeyboardInterrupt())


if __name__ == "__main__":
    main()
