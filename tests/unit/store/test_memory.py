from __future__ import annotations

import pytest

from lamina.store.memory import MemoryBlobs
from lamina.store.protocols import BlobStore
from lamina.testing.conformance.blobstore import BlobStoreSuite


class TestMemoryBlobs(BlobStoreSuite):
    @pytest.fixture
    def blobs(self) -> BlobStore:
        return MemoryBlobs()
