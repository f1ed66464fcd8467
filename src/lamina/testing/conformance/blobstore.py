"""What every BlobStore must do. Derive a test class and give it a fixture `blobs` that yields an empty store:

class TestMine(BlobStoreSuite):
    @pytest.fixture
    def blobs(self) -> Iterator[BlobStore]: ...
"""

from __future__ import annotations

import hashlib
import threading

from lamina.oci.digest import Digest, sha256
from lamina.store.protocols import BlobNotFound, BlobStore, DigestMismatch

_DATA = b"a layer, say" * 1000


def _ingest(blobs: BlobStore, data: bytes, expect: Digest | None = None) -> Digest:
    with blobs.ingest(expect) as writer:
        for start in range(0, len(data), 1000):
            piece = data[start : start + 1000]
            assert writer.write(piece) == len(piece)
        return writer.commit()


def _read(blobs: BlobStore, digest: Digest) -> bytes:
    with blobs.open(digest) as file:
        return file.read()


class BlobStoreSuite:
    """Run by pytest; needs nothing but the fixture."""

    def test_bytes_come_back(self, blobs: BlobStore) -> None:
        digest = _ingest(blobs, _DATA)
        assert digest == sha256(_DATA)
        assert _read(blobs, digest) == _DATA
        assert blobs.size(digest) == len(_DATA)
        assert blobs.missing([digest]) == set()

    def test_the_empty_blob(self, blobs: BlobStore) -> None:
        digest = _ingest(blobs, b"")
        assert _read(blobs, digest) == b""
        assert blobs.size(digest) == 0

    def test_memoryviews_are_written(self, blobs: BlobStore) -> None:
        with blobs.ingest() as writer:
            assert writer.write(memoryview(_DATA)[5:9]) == 4
            assert writer.commit() == sha256(_DATA[5:9])

    def test_absent(self, blobs: BlobStore) -> None:
        digest = sha256(b"nowhere")
        assert blobs.missing([digest]) == {digest}
        assert blobs.missing([]) == set()
        for ask in (blobs.open, blobs.size):
            try:
                ask(digest)
            except BlobNotFound:
                continue
            raise AssertionError("an absent blob must raise BlobNotFound")

    def test_nothing_without_commit(self, blobs: BlobStore) -> None:
        with blobs.ingest() as writer:
            writer.write(_DATA)
        assert blobs.missing([sha256(_DATA)])

    def test_nothing_after_an_error(self, blobs: BlobStore) -> None:
        try:
            with blobs.ingest(sha256(_DATA)) as writer:
                writer.write(_DATA)
                raise KeyError("the source broke")
        except KeyError:
            pass
        assert blobs.missing([sha256(_DATA)])

    def test_nothing_visible_before_commit(self, blobs: BlobStore) -> None:
        with blobs.ingest(sha256(_DATA)) as writer:
            writer.write(_DATA)
            assert blobs.missing([sha256(_DATA)])
            writer.commit()
            assert not blobs.missing([sha256(_DATA)])

    def test_expected_digest(self, blobs: BlobStore) -> None:
        assert _ingest(blobs, _DATA, sha256(_DATA)) == sha256(_DATA)

    def test_another_digest_than_expected_keeps_nothing(self, blobs: BlobStore) -> None:
        wanted = sha256(b"something else")
        try:
            _ingest(blobs, _DATA, wanted)
        except DigestMismatch:
            pass
        else:
            raise AssertionError("DigestMismatch expected")
        assert blobs.missing([wanted, sha256(_DATA)]) == {wanted, sha256(_DATA)}

    def test_other_algorithms_by_expectation(self, blobs: BlobStore) -> None:
        wanted = Digest("sha512:" + hashlib.sha512(_DATA).hexdigest())
        assert _ingest(blobs, _DATA, wanted) == wanted
        assert _read(blobs, wanted) == _DATA

    def test_the_same_blob_twice(self, blobs: BlobStore) -> None:
        assert _ingest(blobs, _DATA) == _ingest(blobs, _DATA)
        assert _read(blobs, sha256(_DATA)) == _DATA

    def test_commit_is_idempotent(self, blobs: BlobStore) -> None:
        with blobs.ingest() as writer:
            writer.write(_DATA)
            assert writer.commit() == writer.commit()

    def test_delete_is_idempotent(self, blobs: BlobStore) -> None:
        digest = _ingest(blobs, _DATA)
        blobs.delete(digest)
        blobs.delete(digest)
        assert blobs.missing([digest]) == {digest}
        assert _ingest(blobs, _DATA) == digest
        assert _read(blobs, digest) == _DATA

    def test_many_writers_of_one_blob_and_of_many(self, blobs: BlobStore) -> None:
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for round_ in range(5):
                    _ingest(blobs, _DATA)
                    own = b"%d %d" % (number, round_)
                    assert _read(blobs, _ingest(blobs, own)) == own
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert _read(blobs, sha256(_DATA)) == _DATA
