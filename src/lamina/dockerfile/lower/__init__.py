"""Instructions -> graph + image config. Pure: what must come from outside (configs of base images) is asked for as `Needs`.

The rules are BuildKit's (frontend/dockerfile/dockerfile2llb). Rooms: values.py (what goes in and comes out), scope.py (variables), stages.py
(which stages, in which order), run.py, copy.py, config.py (one family of instructions each), lowering.py (walks a document).
"""

from __future__ import annotations

from lamina.dockerfile.lower.lowering import lower
from lamina.dockerfile.lower.values import ArgUse, Lowered, LoweredStep, LoweringError, Needs, Options, ResolvedBase

__all__ = ["ArgUse", "Lowered", "LoweredStep", "LoweringError", "Needs", "Options", "ResolvedBase", "lower"]
