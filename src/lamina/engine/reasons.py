"""Why a step runs: what it differs in from the records of its place, and which step above it is the cause."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.cache import explain
from lamina.cache.differences import FileChange
from lamina.cache.record import InputPart
from lamina.engine.accounts import Account
from lamina.engine.request import BuildRequest
from lamina.graph.ops import ExecOp
from lamina.graph.vertex import Vertex

if TYPE_CHECKING:
    from lamina.engine.surroundings import Surroundings


class Reasons:
    """`accounts` by id of the vertex, filled by the job while the build goes on."""

    def __init__(self, around: Surroundings, request: BuildRequest, accounts: Mapping[int, Account]) -> None:
        self._around = around
        self._request = request
        self._accounts = accounts

    def facts(self, node: Vertex) -> explain.Facts:
        args = frozenset(node.op.args_in_env) if isinstance(node.op, ExecOp) else frozenset()
        return explain.Facts(
            now=self._around.now(),
            upstream=self._upstream(node.inputs[0] if node.inputs else None),
            sources=self.sources(node),
            args=args,
        )

    def sources(self, node: Vertex) -> tuple[explain.Upstream, ...]:
        """The nearest steps with a reason, of each input."""
        found = (self._upstream(vertex) for vertex in node.inputs)
        return tuple(upstream for upstream in found if upstream is not None and upstream.reason is not None)

    def explain_miss(self, account: Account, facts: explain.Facts) -> None:
        """Fill in the reason of a step that was not found, and what finding it would have saved."""
        assert account.place is not None
        neighbours = self._around.records.neighbours(account.place)
        if not neighbours and self._around.sharing is not None and self._around.sharing.reads:
            neighbours = self._around.sharing.neighbours(account.place)
        account.reason = explain.explain_miss(account.parts, account.place, neighbours, facts, self._comparison(account))
        account.saved = neighbours[0].seconds if neighbours else 0.0

    def _upstream(self, vertex: Vertex | None) -> explain.Upstream | None:
        """The nearest step below that has a record of its own; merges and bases are looked through."""
        while vertex is not None:
            account = self._accounts.get(id(vertex))
            if account is not None and account.reason is not None and vertex.steps:
                step = vertex.steps[0]
                return explain.Upstream(step.text, step.line, account.reason if account.verdict not in ("hit", None) else None)
            vertex = next((v for v in reversed(vertex.inputs) if v is not None), None)
        return None

    def _comparison(self, account: Account) -> Callable[[InputPart, InputPart], Sequence[FileChange]]:
        """Old and new part -> the names that differ, with where they stand in their source (a leading `./` or `/`): read from the old
        record's listing and one that is made now."""

        def compare(old: InputPart, new: InputPart) -> Sequence[FileChange]:
            assert account.parts is not None
            listed = next(
                (account.listings[n] for n, part in enumerate(account.parts.inputs) if part is new and n in account.listings), None
            )
            if old.listing is None or listed is None:
                return ()
            found = self._around.compare_listings(old.listing, listed.encoded())
            listed.pack_beside(self._around.layers.beside)  # the record of the run that follows has it
            ignore_file = self._request.ignore_name if new.label == "build context" else ".dockerignore"
            return [listed.told(change, ignore_file) for change in found]

        return compare
