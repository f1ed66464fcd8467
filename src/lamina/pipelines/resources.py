"""How a step's memory is divided, in MB: 4096 for each size factor; services take theirs, the build container gets the rest.

Sources: Atlassian's page on databases and service containers, and the messages of the service itself.
"""

from __future__ import annotations

import msgspec

PER_SIZE = 4096
LEAST_BUILD = 1024
SERVICE_DEFAULT = 1024
FACTORS = {"1x": 1, "2x": 2, "4x": 4, "8x": 8, "16x": 16, "32x": 32}
CPUS = {"1x": 4, "2x": 4, "4x": 8, "8x": 16, "16x": 32, "32x": 64}


class Memory(msgspec.Struct, frozen=True):
    """`services` by name, in the order of the step."""

    total: int
    services: tuple[tuple[str, int], ...] = ()

    @property
    def used(self) -> int:
        return sum(amount for _, amount in self.services)

    @property
    def build(self) -> int:
        """What the build container gets; the step is refused when it is below LEAST_BUILD."""
        return self.total - self.used

    @property
    def enough(self) -> bool:
        return self.build >= LEAST_BUILD

    def refusal(self) -> str:
        """Bitbucket's words."""
        return (
            f"A step does not have the minimum resources needed to run ({LEAST_BUILD} MB). "
            f"Services on the current step are consuming {self.used} MB."
        )

    def arithmetic(self) -> str:
        """The sum in one line, for a hint."""
        parts = " + ".join(f"{name} {amount}" for name, amount in self.services) or "0"
        return f"{self.total} MB - ({parts}) leaves {self.build} MB for the build container, which needs {LEAST_BUILD}"


def memory(size: str | None, services: tuple[tuple[str, int | None], ...], *, own: int | None = None) -> Memory:
    """`size` None is 1x; a service without memory takes the default. `own` is `runtime.self-hosted.memory`."""
    total = own if own is not None else PER_SIZE * FACTORS[size or "1x"]
    return Memory(total, tuple((name, SERVICE_DEFAULT if amount is None else amount) for name, amount in services))


def smallest(services_used: int) -> str | None:
    """The smallest size that leaves enough for the build container."""
    return next((size for size, factor in FACTORS.items() if PER_SIZE * factor - services_used >= LEAST_BUILD), None)
