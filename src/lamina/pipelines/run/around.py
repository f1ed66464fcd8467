"""What all steps of one run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.caches.dockercache import DockerCache
from lamina.pipelines.caches.keeping import CacheKeeper, CacheUse
from lamina.pipelines.plan import PlannedStep
from lamina.pipelines.run.artifacts import ArtifactStore
from lamina.pipelines.run.checkout import Clones
from lamina.pipelines.run.diskroom import DiskRoom
from lamina.pipelines.run.images import Images
from lamina.pipelines.run.log import Terminal
from lamina.pipelines.run.testreports import Tests
from lamina.pipelines.variables import Variable
from lamina.sandbox.protocols import Sandbox

if TYPE_CHECKING:
    from lamina.store.local import LocalStore


class RunError(LaminaError):
    """A step's surroundings could not be made; nothing of its script ran."""

    code = "pipeline/run"


class DockerService(msgspec.Struct, frozen=True):
    """An engine that answers at `socket` until `close`. `starved`: whether something of it was killed because its memory was used up."""

    socket: Path
    close: Callable[[], None]
    starved: Callable[[], bool]


class StartDocker(Protocol):
    """Begin an engine for one step, over the store at `root` (None: the run's own); what it says goes to the file `log`. Blocks until it answers.
    `name` is unique within the run. `clone`: the only folder of this machine that its containers may mount, by the name that the step knows. `memory`: MB for the
    engine and all that it runs together, held to where control groups can be made."""

    def __call__(self, name: str, root: Path | None, log: Path, clone: Path, memory: int, /) -> DockerService: ...


class Around(msgspec.Struct, frozen=True):
    """`folder` outlives the run (logs, artifacts, result); `scratch` goes with it.

    `docker_cli`: the program that steps with a docker service see as `docker`; None: lamina's own, in images that have none.
    `docker_apart`: every docker service has a store of its own, which begins empty, as on Bitbucket. `pool`: every sandbox run happens on one of its threads, because the sandbox's helper ends with the thread that began it."""

    store: LocalStore
    sandbox: Callable[[], Sandbox]
    pool: ThreadPoolExecutor
    images: Images
    checkouts: Clones
    artifacts: ArtifactStore
    caches: CacheKeeper
    terminal: Terminal
    folder: Path
    scratch: Path
    room: DiskRoom
    now: Callable[[], float]
    docker_cache: DockerCache
    docker: StartDocker | None = None
    docker_apart: bool = False
    docker_cli: Path | None = None
    proxies: Mapping[str, str] = {}
    own_network: bool = True
    save_on_failure: bool = False


class Ordering(Protocol):
    """What the order of steps needs; Around has it."""

    @property
    def pool(self) -> ThreadPoolExecutor: ...
    @property
    def terminal(self) -> Terminal: ...
    @property
    def now(self) -> Callable[[], float]: ...


class DueStep(msgspec.Struct, frozen=True):
    """A step whose turn has come. `given`: output variables of the steps before it; `before`: the numbers of those whose artifacts it may see,
    in order; `prefix`: of its lines on the terminal; `attempt` rises with each rerun of the plan."""

    planned: PlannedStep
    given: tuple[Variable, ...] = ()
    before: tuple[int, ...] = ()
    prefix: str = ""
    attempt: int = 1


class StepResult(msgspec.Struct, frozen=True):
    """`status`: passed, failed, stopped (Ctrl-C, a failed sibling), skipped (a condition), declined (a manual step), not-run. `seconds` of wall time."""

    number: int
    name: str
    status: str
    exit_code: int = 0
    seconds: float = 0.0
    started: float = 0.0
    reason: str = ""
    outputs: tuple[tuple[str, str], ...] = ()
    image: str = ""
    caches: tuple[CacheUse, ...] = ()
    tests: Tests | None = None

    @property
    def bad(self) -> bool:
        return self.status in ("failed", "stopped", "not-run", "declined")
