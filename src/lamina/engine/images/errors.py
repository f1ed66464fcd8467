"""Errors of images coming in and going out."""

from __future__ import annotations

from lamina.diagnostics.errors import LaminaError


class ImageNotFound(LaminaError):
    """The store, archive or layout has no image of this name."""

    code = "image/not-found"
    default_exit = 66


class BadArchive(LaminaError):
    """A file that should be an image archive, OCI layout or root filesystem is not one, is cut off, or contradicts itself."""

    code = "image/bad-archive"
    default_exit = 65


class LayerMismatch(LaminaError):
    """A layer's uncompressed bytes are not what the image's config says (diffID); nothing of it was kept."""

    code = "image/layer-mismatch"
    default_exit = 65


class UnsupportedImage(LaminaError):
    """Valid, but of a kind that cannot be used here (Windows layers, encrypted layers)."""

    code = "image/unsupported"
    default_exit = 69
