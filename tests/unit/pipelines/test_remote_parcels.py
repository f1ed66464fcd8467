"""Parcels: a folder arrives as it left, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.cache.remote.directory import DirectoryObjects
from lamina.cache.remote.errors import ObjectGone
from lamina.pipelines.remote.order import Parcel
from lamina.pipelines.remote.parcels import ParcelDamaged, Parcels


def parcels(tmp_path: Path) -> Parcels:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    return Parcels(DirectoryObjects(tmp_path / "shared"), tmp_path / "scratch")


def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    (made / ".git" / "refs" / "heads").mkdir(parents=True)
    (made / "a").write_bytes(b"a" * 100_000)
    (made / "a").chmod(0o764)
    os.utime(made / "a", ns=(1, 1_234_567_890_123_456_000))
    (made / "gone").symlink_to("/no/where")
    (made / os.fsdecode(b"n\xff")).write_bytes(b"")
    os.link(made / "a", made / "b")
    return made


def test_a_folder_arrives_as_it_left(tmp_path: Path) -> None:
    source = folder(tmp_path)
    one = parcels(tmp_path)
    parcel = one.put(source)
    assert one.there(parcel)
    target = tmp_path / "target"
    parcels(tmp_path).get(parcel, target)
    assert (target / ".git" / "refs" / "heads").is_dir()
    assert (target / "a").read_bytes() == (target / "b").read_bytes() == b"a" * 100_000
    assert (target / "a").stat().st_mode & 0o7777 == 0o764
    assert (target / "a").stat().st_mtime_ns // 1000 == 1_234_567_890_123_456
    assert os.readlink(target / "gone") == "/no/where"
    assert sorted(os.listdir(os.fsencode(target))) == sorted(os.listdir(os.fsencode(source)))
    assert parcel.size < 50_000
    assert not list((tmp_path / "scratch").iterdir())


def test_two_runs_never_share_a_parcel(tmp_path: Path) -> None:
    source = folder(tmp_path)
    one = parcels(tmp_path)
    first, second = one.put(source), one.put(source)
    one.drop([first])
    assert not one.there(first)
    assert one.there(second)


def test_what_is_gone_is_said_with_a_way_out(tmp_path: Path) -> None:
    one = parcels(tmp_path)
    parcel = one.put(folder(tmp_path))
    one.drop([parcel])
    with pytest.raises(ObjectGone, match="does not have what the run has put there") as caught:
        one.get(parcel, tmp_path / "target")
    assert "every machine" in (caught.value.hint or "")
    assert not (tmp_path / "target").exists()


def test_other_bytes_are_never_unpacked(tmp_path: Path) -> None:
    one = parcels(tmp_path)
    parcel = one.put(folder(tmp_path))
    place = next(path for path in (tmp_path / "shared" / "blobs").rglob("*") if path.is_file())
    data = bytearray(place.read_bytes())
    data[-9] ^= 1
    place.chmod(0o600)
    place.write_bytes(data)
    with pytest.raises(ParcelDamaged):
        one.get(parcel, tmp_path / "target")
    place.write_bytes(bytes(data) * 2)
    with pytest.raises(ParcelDamaged):
        one.get(Parcel(parcel.digest, parcel.size), tmp_path / "target")
    assert not (tmp_path / "target").exists()
