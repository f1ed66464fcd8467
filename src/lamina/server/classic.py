"""What the classic builder prints: steps in the file's order, each with its verdict, id, and lamina's reason. Builds run in any order;
what a later step says waits for its turn."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from lamina.engine.request import ListedStep, Notice, ProgressEvent, StepEnded, StepOutput, StepStarted
from lamina.server.errors import ClientGone
from lamina.server.rows import RowWriter


class Transcript:
    """`report` and `listed` may be called from any thread and only queue; a thread of its own writes.

    `image_of(name)` gives the id of an image that is here, or "". `seen` tells of a chain of steps whether an earlier build made it; `made` has those of this one at the
    end. "Using cache" is said where docker would say it: of a step whose whole chain was there. What is found by content alone, under another
    LABEL or after other steps, is "Taken over"; on a base that no build here began with (a fresh machine with a loaded cache) there is no chain
    to compare with, and every hit is the cache's.
    """

    def __init__(
        self, rows: RowWriter, image_of: Callable[[str], str], seen: Callable[[bytes], bool], args: Any, *, fresh: bool, quiet: bool
    ) -> None:
        self._rows = rows
        self._image_of = image_of
        self._seen = seen
        self.made: list[bytes] = []
        self._args = args
        self._fresh = fresh
        self._quiet = quiet
        self._steps: Sequence[ListedStep] = ()
        self._at = 0
        self._opened = False
        self._running = ""
        self._started: set[int] = set()
        self._output: dict[int, list[bytes]] = {}
        self._ended: dict[int, StepEnded] = {}
        self._chains: dict[int, tuple[bytes, bool]] = {}  # stage -> what it was made of, and whether all of it was there before
        self._strange: set[int] = set()  # stages whose base no build here began with
        self._ids: dict[int, str] = {}
        self._queue: queue.Queue[Any] = queue.Queue()
        self._gone = False
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def report(self, event: ProgressEvent) -> None:
        self._queue.put(event)

    def listed(self, steps: tuple[ListedStep, ...]) -> None:
        self._queue.put(steps)

    def close(self) -> None:
        """Everything that was reported is written."""
        self._queue.put(None)
        self._writer.join()

    def finish(self, image: str, tags: Sequence[str]) -> None:
        """After `close`: the last step's id and the last lines."""
        if self._quiet:
            self._rows.row(stream=f"{image}\n")
            return
        self._say(f" ---> {image[7:19]}\n")
        self._rows.row(aux={"ID": image})
        self._say(f"Successfully built {image[7:19]}\n")
        for tag in tags:
            self._say(f"Successfully tagged {tag}\n")

    def failed_step(self) -> ListedStep | None:
        """After `close`: which step failed."""
        return next((step for step in self._steps if (end := self._ended.get(step.number)) is not None and end.verdict == "failed"), None)

    # The writer's thread

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._gone:
                continue
            try:
                self._take(item)
            except ClientGone:
                self._gone = True
        if not self._gone:
            try:
                failed = self.failed_step()
                if failed is not None and failed in self._steps[self._at :] and failed is not self._steps[self._at]:
                    self._at, self._opened, self._running = self._steps.index(failed), False, ""
                self._advance()
            except ClientGone:
                self._gone = True

    def _take(self, item: Any) -> None:
        match item:
            case tuple():
                self._steps = item
            case StepStarted(number, _):
                self._started.add(number)
            case StepOutput(number, _, data):
                self._output.setdefault(number, []).append(data)
            case StepEnded():
                self._ended[item.id] = item
            case Notice("warning", text, _):
                self._say(f"[Warning] {text}\n")
        self._advance()

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._rows.row(stream=text)

    def _advance(self) -> None:
        while self._at < len(self._steps):
            step = self._steps[self._at]
            if not self._opened:
                self._say(f"Step {self._at + 1}/{len(self._steps)} : {step.text}\n")
                self._opened = True
            if not self._step(step):
                return
            self._at += 1
            self._opened, self._running = False, ""

    def _step(self, step: ListedStep) -> bool:
        """Whether it is done with."""
        last = self._at + 1 == len(self._steps)
        if not step.needed:
            self._say(" ---> Not needed for the target\n")
            return True
        if step.kind == "FROM":
            self._from(step, last)
            return True
        if not step.number:
            self._config(step, last)
            return True
        ended = self._ended.get(step.number)
        if ended is None and step.number not in self._started:
            return False
        if step.number in self._started and not self._running and step.kind not in ("COPY", "ADD"):
            self._running = os.urandom(6).hex()
            self._say(f" ---> Running in {self._running}\n")
        for data in self._output.pop(step.number, ()):
            self._say(data.decode("utf-8", "replace"))
        if ended is None:
            return False
        if ended.verdict == "failed":
            return False
        hit = ended.verdict == "hit"
        known = self._chain(step, hit, ended.key or "")
        if hit:
            self._say(" ---> Using cache\n" if known or step.stage in self._strange else " ---> Taken over\n")
        elif self._running:
            self._say(f"Removing intermediate container {self._running}\n")
        if ended.reason.message:
            self._say(f" ---- {ended.reason.message}\n")
        self._id(step, last)
        return True

    def _from(self, step: ListedStep, last: bool) -> None:
        words = [word for word in step.text.split()[1:] if not word.startswith("--")]
        name = words[0] if words else ""
        stage = next((s.stage for s in self._steps if s.stage_name and s.stage_name == name.lower() and s.stage < step.stage), None)
        if stage is not None:
            self._chains[step.stage] = self._chains.get(stage, (b"", False))
            if stage in self._strange:
                self._strange.add(step.stage)
            self._ids[step.stage] = self._ids.get(stage, "")
        else:
            image = "" if name == "scratch" else self._image_of(name)
            begin = hashlib.sha256((image or name).encode()).digest()
            if not self._seen(begin):
                self._strange.add(step.stage)
            self.made.append(begin)
            self._chains[step.stage] = (begin, not self._fresh)
            self._ids[step.stage] = image[7:19]
        if not last:
            self._say(f" ---> {self._ids[step.stage]}\n")

    def _config(self, step: ListedStep, last: bool) -> None:
        cached = self._chain(step, True, "")
        if cached:
            self._say(" ---> Using cache\n")
        else:
            running = os.urandom(6).hex()
            self._say(f" ---> Running in {running}\nRemoving intermediate container {running}\n")
        self._id(step, last)

    def _chain(self, step: ListedStep, hit: bool, key: str) -> bool:
        """Go on with the stage's chain; whether all of it, this step too, was there before."""
        chain, known = self._chains.get(step.stage, (b"", False))
        values = key
        if step.kind == "ARG":
            names = [word.partition("=")[0] for word in step.text.split()[1:]]
            values = "\0".join(f"{name}={self._args.get(name)}" for name in names if name in self._args)
        chain = hashlib.sha256(chain + step.text.encode("utf-8", "replace") + b"\0" + values.encode("utf-8", "replace")).digest()
        known = known and hit and self._seen(chain)
        self.made.append(chain)
        self._chains[step.stage] = (chain, known)
        return known

    def _id(self, step: ListedStep, last: bool) -> None:
        """What stands for an intermediate image: there is none, so it cannot be used as one. The last step's is the image's."""
        self._ids[step.stage] = self._chains[step.stage][0].hex()[:12]
        if not last:
            self._say(f" ---> {self._ids[step.stage]}\n")
