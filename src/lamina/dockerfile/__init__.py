"""The Dockerfile language: text -> instructions -> graph. Pure: nothing here reads a file, a clock or the environment."""

from __future__ import annotations

from lamina.dockerfile.instructions import Document
from lamina.dockerfile.parser import DockerfileError, parse, parse_trigger

__all__ = ["DockerfileError", "Document", "parse", "parse_trigger"]
