"""One build or plan: performs what the scheduler asks and remembers what each step came to."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from lamina.cache import explain, freshness, keys, policy
from lamina.cache.freshness import Asked
from lamina.cache.reason import Reason, Verdict
from lamina.cache.record import CacheKey, KeyParts, LayerRef, Record
from lamina.diagnostics.errors import located
from lamina.engine import identify
from lamina.engine.accounts import Account
from lamina.engine.listed import Listed
from lamina.engine.locks import Cancelled
from lamina.engine.reasons import Reasons
from lamina.engine.request import BuildRequest, Notice, Report, StepEnded, StepOutput, StepStarted
from lamina.engine.results import Files, Filesystem, Result
from lamina.graph.ops import ExecOp, FileOp
from lamina.graph.vertex import Vertex
from lamina.oci.digest import Digest, LayerId
from lamina.sandbox.protocols import CancelToken
from lamina.solver.events import (
    Absent,
    Found,
    Identified,
    Identify,
    LookUp,
    MakePresent,
    NeedsPresent,
    NotFound,
    Present,
    Ran,
    Run,
    Share,
    Unknown,
)

if TYPE_CHECKING:
    from lamina.dockerfile.lower import Lowered
    from lamina.engine.adopted import LoadedImages
    from lamina.engine.layers import Kept
    from lamina.engine.surroundings import Surroundings
    from lamina.layer.ahead import Ahead
    from lamina.layer.sums import Sum
    from lamina.solver.events import Answer, Task
    from lamina.store.layers import ActiveLayer

    VTask = Task[Vertex, Result]
    VAnswer = Answer[Vertex, Result]


class Job:
    """`perform` is called by the scheduler's workers, many at once; an account is written only by the one that performs its vertex."""

    def __init__(self, request: BuildRequest, around: Surroundings, report: Report, *, build_id: str, planning: bool = False) -> None:
        self.request = request
        self.around = around
        self.report = report
        self.build_id = build_id
        self.planning = planning
        self.project = request.project or _called(request)
        self.asked = Asked(
            request.no_cache,
            request.no_cache_filter,
            tuple(selector.text for selector in request.refresh),
            tuple((selector.text, age) for selector, age in request.max_age),
        )
        self.accounts: dict[int, Account] = {}
        self.warnings: list[str] = []
        self.lowered: Lowered | None = None  # for engine/adopted.py: what the target's history tells
        self._candidates: list[Digest] | None = None  # for that, where it was asked for
        self._loaded: LoadedImages | None = None
        self._failed: dict[str, tuple[float, str]] | None = None
        self.results: list[Record] = []  # of all steps that were found or ran: what a shared cache is told
        self.hits: list[tuple[str, Record]] = []  # steps that were found, in the order of showing
        self._reasons = Reasons(around, request, self.accounts)
        self._lock = threading.Lock()
        self._loading = False

    def account(self, vertex: Vertex) -> Account:
        with self._lock:
            return self.accounts.setdefault(id(vertex), Account(len(self.accounts) + 1))

    def perform(self, task: VTask, cancel: CancelToken) -> VAnswer:
        spans = tuple(step.span for step in task.node.steps if step.span is not None)[:1]
        with located(*spans):
            match task:
                case Identify(node, inputs):
                    return self._identify(node, inputs)
                case LookUp(node, key, inputs):
                    return self._look_up(node, CacheKey(key), inputs)
                case MakePresent(node, _, result):
                    return self._make_present(node, result, cancel)
                case Run(node, key, inputs, evicted):
                    return self._run(node, CacheKey(key), inputs, evicted, cancel)
                case Share(node, _, result, source):
                    return self._share(node, result, source)

    def inline(self, task: VTask) -> bool:
        """Looking up a record is one query: not worth a thread. Identifying is, where files are read."""
        if isinstance(task, LookUp) and self.around.sharing is not None and self.around.sharing.reads:
            return False
        return isinstance(task, (LookUp, Share)) or (isinstance(task, Identify) and identify.is_quick(task.node))

    # Identify

    def _identify(self, node: Vertex, inputs: tuple[Result | None, ...]) -> VAnswer:
        pure = identify.pure_result(node, inputs, self)
        if pure is not None:
            return Identified(node, result=pure)
        found = identify.key_parts(node, inputs, self)
        if isinstance(found, identify.Missing):
            return Unknown(node) if self.planning else NeedsPresent(node, found.inputs)
        account = self.account(node)
        account.parts, account.listings = found.parts, found.listings
        account.place = identify.place_of(node, self.request.dockerfile_name)
        account.key = keys.key_of(found.parts)
        return Identified(node, key=account.key)

    # LookUp

    def _look_up(self, node: Vertex, key: CacheKey, inputs: tuple[Result | None, ...]) -> VAnswer:
        forced_by = self._forced_by(node) or self._forced_below(inputs)
        records = () if forced_by else tuple(self.around.records.lookup([key]).get(key, ()))
        choice = self._choose(node, records)
        if choice is not None:
            return Found(node, self._hit(node, choice, inputs))
        refused = None
        if not forced_by and not records:
            adopted = self._adopt(node, key, inputs)
            if adopted is not None:
                return Found(node, adopted)
            if self.around.sharing is not None and self.around.sharing.reads:
                shared = self.around.sharing.lookup(key)
                records, refused = shared.records, shared.refused
                choice = self._choose(node, records)
                if choice is not None:
                    self.around.sharing.used(choice)
                    if not self.planning:
                        self.around.records.publish(msgspec.structs.replace(choice, project=self.project))
                    return Found(node, self._hit(node, choice, inputs))
        facts = self._reasons.facts(node)
        if forced_by:
            facts = msgspec.structs.replace(facts, forced_by=forced_by)
        elif records:
            limit = self._limit(node)
            assert limit is not None
            newest = max(record.created for record in records)
            facts = msgspec.structs.replace(facts, expired=(max(0.0, self.around.now() - newest), limit[1]))
        elif refused is not None:
            facts = msgspec.structs.replace(facts, not_trusted=refused)
        elif (fate := self.around.records.fates([key]).get(key)) is not None:
            facts = msgspec.structs.replace(facts, forgotten=fate == "forgotten", evicted=fate == "evicted")
        elif not forced_by and (failed := self._failures().get(key)) is not None:
            facts = msgspec.structs.replace(facts, failed=failed)
        self._reasons.explain_miss(self.account(node), facts)
        if self.planning:
            self.account(node).verdict = "miss"
        return NotFound(node)

    def _failures(self) -> dict[str, tuple[float, str]]:
        """Steps at which earlier builds ended, by key: when, which build."""
        with self._lock:
            if self._failed is None:
                from lamina.engine.failures import failures

                self._failed = failures(self.around.store)
            return self._failed

    def _adopt(self, node: Vertex, key: CacheKey, inputs: tuple[Result | None, ...]) -> Filesystem | None:
        """A RUN whose layer an image has that was loaded (engine/adopted.py); from now on there is a record of it."""
        root = inputs[0] if inputs else None
        if self.lowered is None or not isinstance(node.op, ExecOp) or node.op.mounts or not isinstance(root, Filesystem):
            return None
        with self._lock:
            if self._candidates is None:  # those that have a layer above the base
                self._candidates = self.around.store.origins.unknown(self.lowered.base_layers)
            if not self._candidates:
                return None
            from lamina.engine.adopted import LoadedImages  # only where there are any: this is on the way of each build that runs something

            if self._loaded is None:
                self._loaded = LoadedImages(self.around.store, self.lowered, self._candidates)
            found = self._loaded.find(node, root.state)
        if found is None:
            return None
        from lamina.engine.layers import Kept

        account = self.account(node)
        layer = LayerRef(id=LayerId(found.diff_id), size=found.size, diff_id=found.diff_id, empty=found.empty)
        record = self._record(node, key, root, Kept(layer, found.diff), account)
        if not self.planning:
            self.around.records.publish(record)
        account.reason = Reason("adopted", f"the loaded image {found.image} has the layer of this step, by its history and its content")
        account.state = record.state
        self._end(node, "hit")
        return Filesystem(record.state, self._identity(record), record.layers, record, label=identify.label_of(node))

    def _choose(self, node: Vertex, records: tuple[Record, ...]) -> Record | None:
        limit = self._limit(node)
        return policy.choose(
            records, present=lambda r: self.around.layers.all_present(r.layers), max_age=limit[0] if limit else None, now=self.around.now()
        )

    def _forced_by(self, node: Vertex) -> str | None:
        found = next((by for step in node.steps if (by := self.asked.forced_by(step)) is not None), None)
        return found or ("--no-cache" if node.freshness.forced else None)

    def _forced_below(self, inputs: tuple[Result | None, ...]) -> str | None:
        root = inputs[0] if inputs else None
        return "a forced step below it" if isinstance(root, Filesystem) and root.forced else None

    def _limit(self, node: Vertex) -> tuple[float, str] | None:
        """Seconds, and who says so."""
        limits = [(age, f"--max-age {s}") for step in node.steps for s, age in self.asked.max_age if freshness.matches(s, step)]
        if node.freshness.max_age is not None:
            limits.append((node.freshness.max_age, "# lamina: max-age"))
        return min(limits, default=None)

    def _hit(self, node: Vertex, record: Record, inputs: tuple[Result | None, ...], *, shared_with: str | None = None) -> Filesystem:
        found_in = self.around.sharing.where(record) if self.around.sharing is not None else None
        account = self.account(node)
        tainted = [i for i in inputs if isinstance(i, Filesystem) and i.tainted]
        how: Literal["same-key", "cut-off", "shared"] = (
            "shared" if shared_with else "cut-off" if tainted and self.request.cut_off else "same-key"
        )
        because = shared_with
        if tainted and not shared_with:
            because = next((s.name for s in self._reasons.sources(node)), None)
        account.reason = explain.explain_hit(
            record, self.around.now(), how, host=self.around.host, build=self.build_id, because=because, found_in=found_in
        )
        account.saved, account.state = record.seconds, record.state
        self.hits.append((node.name, record))
        self.results.append(record)
        self._end(node, "hit")
        return Filesystem(record.state, self._identity(record), record.layers, record, tainted=bool(tainted), label=identify.label_of(node))

    def _identity(self, record: Record) -> str:
        """What dependants' keys see of this result."""
        return record.state if self.request.cut_off else keys.definition_state(record.key)

    def _share(self, node: Vertex, result: Result, source: Vertex) -> VAnswer:
        assert isinstance(result, Filesystem)
        assert result.record is not None
        self._hit(node, result.record, (), shared_with=source.steps[0].text if source.steps else source.name)
        return Found(node, msgspec.structs.replace(result, label=identify.label_of(node)))

    # MakePresent

    def _make_present(self, node: Vertex, result: Result, cancel: CancelToken) -> VAnswer:
        if isinstance(result, Files):
            self.around.sources.load(result)
            return Present(node)
        return Present(node) if self.around.layers.make_present(result.layers, cancel) else Absent(node)

    # Run

    def _run(self, node: Vertex, key: CacheKey, inputs: tuple[Result | None, ...], evicted: bool, cancel: CancelToken) -> VAnswer:
        if cancel.cancelled():
            raise Cancelled("cancelled before it ran")
        if evicted:
            self._reasons.explain_miss(self.account(node), msgspec.structs.replace(self._reasons.facts(node), evicted=True))
        with self.around.store.locks.key(key, cancel.cancelled):
            # Looked for again: another process may have made it since, also one that nobody had to wait for.
            there = tuple(self.around.records.lookup([key]).get(key, ()))
            if self._forced_by(node) is None and self._forced_below(inputs) is None:
                choice = self._choose(node, there)
                if choice is not None and self.around.layers.all_present(choice.layers):
                    return Ran(node, self._hit(node, choice, (), shared_with="a step of another build"))
            return Ran(node, self._execute(node, key, there, inputs, cancel))

    def _execute(
        self, node: Vertex, key: CacheKey, there: tuple[Record, ...], inputs: tuple[Result | None, ...], cancel: CancelToken
    ) -> Filesystem:
        """`there`: the records that the key has already."""
        account = self.account(node)
        self.report(StepStarted(account.number, node.name))
        started = time.monotonic()
        root = inputs[0] if inputs else None
        assert root is None or isinstance(root, Filesystem)
        try:
            with self.around.layers.active() as active:
                known: Mapping[bytes, Sum] = {}
                ahead: Ahead | None = None
                if isinstance(node.op, ExecOp):
                    self._exec(node, node.op, root, inputs, active, cancel)
                else:
                    assert isinstance(node.op, FileOp)
                    known, ahead = self._files(node, node.op, root, inputs, active)
                kept = self.around.layers.keep(active, known, ahead, copied=isinstance(node.op, FileOp))
        except BaseException as error:
            account.seconds = time.monotonic() - started
            if not isinstance(error, Cancelled):
                account.verdict, account.error = "failed", str(error)
                assert account.reason is not None
                self.report(StepEnded(account.number, node.name, "failed", account.reason, account.seconds, 0.0, str(error)))
            raise
        account.seconds = time.monotonic() - started
        record = self._record(node, key, root, kept, account)
        if any(other.created > record.created for other in there):
            self.around.records.evict([key], "expired")  # made before this one by a clock that was ahead: the newest decides the content
        self.around.records.publish(record)
        self.results.append(record)
        account.state, account.saved = record.state, 0.0
        self._end(node, "ran")
        forced = not self.request.cut_off and bool(self._forced_by(node) or self._forced_below(inputs))
        return Filesystem(
            record.state, self._identity(record), record.layers, record, tainted=True, forced=forced, label=identify.label_of(node)
        )

    def _record(self, node: Vertex, key: CacheKey, root: Filesystem | None, kept: Kept, account: Account) -> Record:
        assert account.parts is not None
        assert account.place is not None
        return Record(
            key=key,
            parts=self._with_listings(account.parts, account.listings),
            place=account.place,
            state=keys.state_after(root.state if root is not None else None, kept.diff),
            layers=(*(root.layers if root is not None else ()), kept.layer),
            diff=kept.diff,
            created=self.around.now(),
            seconds=account.seconds,
            host=self.around.host,
            build=self.build_id,
            project=self.project,
        )

    def _with_listings(self, parts: KeyParts, listings: dict[int, Listed]) -> KeyParts:
        """Listings become blobs, so that a later miss can name the paths that differ."""
        inputs = list(parts.inputs)
        for number, listed in listings.items():
            inputs[number] = msgspec.structs.replace(inputs[number], listing=self.around.keep_listing(listed.document()))
        return msgspec.structs.replace(parts, inputs=tuple(inputs))

    def _files(
        self, node: Vertex, op: FileOp, root: Filesystem | None, inputs: tuple[Result | None, ...], active: ActiveLayer
    ) -> tuple[Mapping[bytes, Sum], Ahead]:
        """The files that are shared with an earlier layer, and what hashes the layer already."""
        from lamina.engine.reuse import earlier  # only where something runs
        from lamina.engine.runners.files import run_file_op

        view = self.around.layers.view
        trees = [None if i is None else view(i.layers) if isinstance(i, Filesystem) else i.tree for i in inputs]
        place = self.account(node).place
        last = next(iter(self.around.records.neighbours(place, 1)), None) if place is not None else None
        before = earlier(op, self.around.layers.folder(last.layers[-1]) if last is not None and last.layers else None)
        with self.around.contexts.lock:
            ahead = run_file_op(
                op,
                trees[0] if trees else None,
                trees,
                active.upper.parent,
                self.around.layers.flavour,
                reuse=before,
            )
        return before.known if before is not None else {}, ahead

    def _exec(
        self, node: Vertex, op: ExecOp, root: Filesystem | None, inputs: tuple[Result | None, ...], active: ActiveLayer, cancel: CancelToken
    ) -> None:
        from lamina.engine.platforms import check_runs_here
        from lamina.engine.runners.exec import RunFailed, run_exec  # only where something runs
        from lamina.sandbox import rungs

        check_runs_here(op.platform)
        number = self.account(node).number
        around = self.around.exec_surroundings(self.request, forced=self._forced_by(node) is not None)
        weak = rungs.warning(around.sandbox.name)
        if weak is not None:
            self.warn(weak, "weak-sandbox")
        self._load_ahead()
        report = run_exec(
            op,
            root,
            inputs,
            active.path,
            active.upper,
            active.work,
            around,
            lambda stream, data: self.report(StepOutput(number, stream, data)),
            cancel,
        )
        if cancel.cancelled():
            raise Cancelled("stopped")
        if report.limited == "rlimit":
            self.warn("no control group can be made here: limits hold for each process of a RUN by itself", "limits-by-rlimit")
        if report.exit_code:
            why = f"was ended by signal {report.signal}" if report.signal else f"ended with exit code {report.exit_code}"
            hints = {127: "a command was not found in the image", 126: "the command cannot be executed"}
            hint = "it ran out of memory" if report.oom else hints.get(report.exit_code)
            raise RunFailed(f"{node.steps[0].text if node.steps else node.name} {why}", hint=hint, exit_code=report.exit_code)

    def _load_ahead(self) -> None:
        """Modules that the end of a build needs, loaded while the first RUN is waited for."""
        with self._lock:
            if self._loading:
                return
            self._loading = True
        from importlib import import_module

        later = ("layer.sums", "layer.normal", "layer.pack", "engine.images.recording", "engine.freshness.origins", "store.keeping")
        threading.Thread(target=lambda: [import_module(f"lamina.{name}") for name in later], daemon=True).start()

    def _end(self, node: Vertex, verdict: Verdict) -> None:
        account = self.account(node)
        account.verdict = verdict
        assert account.reason is not None
        self.report(StepEnded(account.number, node.name, verdict, account.reason, account.seconds, account.saved, key=account.key))

    def warn(self, text: str, code: str = "") -> None:
        """Said once a build."""
        with self._lock:
            if text in self.warnings:
                return
            self.warnings.append(text)
        self.report(Notice("warning", text, code))


def _called(request: BuildRequest) -> str:
    """A name for who builds: the last part of the context's place."""
    place = str(request.context.absolute())
    if request.incoming is not None:
        place = (request.incoming.place or "").partition("#")[0].partition("?")[0].rstrip("/").removesuffix(".git")
    return place.rpartition("/")[2]
