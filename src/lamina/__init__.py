"""lamina: container images from Dockerfiles, without a daemon and without root, with a cache that explains itself.

    import lamina
    plan = lamina.plan("app", target="prod", args={"VERSION": "1.4"})
    image = lamina.build("app", target="prod", args={"VERSION": "1.4"}, tags=["app:1.4"])
    lamina.push(image, "registry.example/team/app:1.4")

Names are imported when they are first used: `import lamina` costs next to nothing.
"""

from __future__ import annotations

from lamina.version import __version__

TYPE_CHECKING = False  # typing's own, without its import
if TYPE_CHECKING:
    from lamina import dockerfile
    from lamina.diagnostics.errors import LaminaError
    from lamina.engine.facade import build, load, outdated, plan, pull, push, save
    from lamina.engine.request import BuildResult, BuiltImage, PlanResult, StepReport

__all__ = [
    "BuildResult", "BuiltImage", "LaminaError", "PlanResult", "StepReport", "__version__", "build", "dockerfile", "load", "outdated", "plan", "pull", "push",
    "save",
]  # fmt: skip

_HOMES = {
    "build": "lamina.engine.facade", "plan": "lamina.engine.facade", "save": "lamina.engine.facade", "load": "lamina.engine.facade",
    "pull": "lamina.engine.facade", "push": "lamina.engine.facade", "outdated": "lamina.engine.facade",
    "BuildResult": "lamina.engine.request", "BuiltImage": "lamina.engine.request", "PlanResult": "lamina.engine.request",
    "StepReport": "lamina.engine.request", "LaminaError": "lamina.diagnostics.errors",
}  # fmt: skip


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "dockerfile":
        return import_module("lamina.dockerfile")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'lamina' has no attribute {name!r}")
    return getattr(import_module(home), name)
