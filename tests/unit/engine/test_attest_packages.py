"""Packages out of an image's files: each ecosystem, what is damaged, what is a trap."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lamina.engine.attest.packages import Inventory, Package, System, apk, dpkg, inventory, npm, python
from lamina.engine.attest.rpmdb import parse_header, read_rpmdb
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.view import LayerView

FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
STATUS = b"""Package: bash
Status: install ok installed
Architecture: amd64
Source: bash-src (5.2)
Version: 5.2.15-2+b2
Description: shell
 Version: 9 (a line of the description)

Package: gone
Status: deinstall ok config-files
Version: 1

Package: libc6
Status: install ok installed
Version: 2.36-9
Architecture: amd64
"""
APK = b"C:Q1x\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\n\nP:busybox\nV:1.36.1-r5\nA:x86_64\nL:GPL-2.0-only\n"

Make = Callable[[Mapping[str, bytes]], Inventory]


@pytest.fixture
def look(tmp_path: Path) -> Make:
    def call(files: Mapping[str, bytes]) -> Inventory:
        for name, data in files.items():
            path = tmp_path / "layer" / "diff" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        with LayerView([tmp_path / "layer"], FLAVOUR) as view:
            return inventory(view, tmp_path)

    return call


def header(values: Mapping[int, str | int]) -> bytes:
    index, data = b"", b""
    for tag, value in values.items():
        if isinstance(value, int):
            data += b"\0" * (-len(data) % 4)
            index += struct.pack(">iIiI", tag, 4, len(data), 1)
            data += struct.pack(">I", value)
        else:
            index += struct.pack(">iIiI", tag, 6, len(data), 1)
            data += value.encode() + b"\0"
    return struct.pack(">II", len(values), len(data)) + index + data


def rpmdb(path: Path, *headers: bytes) -> bytes:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
    connection.executemany("INSERT INTO Packages(blob) VALUES (?)", [(each,) for each in headers])
    connection.commit()
    connection.close()
    return path.read_bytes()


BASH = header(
    {1000: "bash", 1001: "5.2.26", 1002: "3.fc40", 1003: 1, 1014: "GPL-3.0-or-later", 1022: "x86_64", 1044: "bash-5.2.26-3.fc40.src.rpm"}
)


def test_dpkg_counts_what_is_installed() -> None:
    assert list(dpkg(STATUS.decode())) == [
        Package("deb", "bash", "5.2.15-2+b2", "amd64", source="bash-src"),
        Package("deb", "libc6", "2.36-9", "amd64"),
    ]


def test_apk() -> None:
    assert [(p.name, p.version, p.license, p.source) for p in apk(APK.decode())] == [
        ("musl", "1.2.4-r2", "MIT", "musl"),
        ("busybox", "1.36.1-r5", "GPL-2.0-only", ""),
    ]


def test_python_reads_headers_only() -> None:
    assert list(python("Metadata-Version: 2.1\nName: Flask\nVersion: 3.0\nLicense: BSD\n\nName: trap\nVersion: 9\n")) == [
        Package("pypi", "Flask", "3.0", license="BSD")
    ]


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"name": 5, "version": {}}', b"[" * 100_000])
def test_npm_that_is_none(raw: bytes) -> None:
    assert [p for p in npm(raw) if p.name] == []


def test_rpm_header() -> None:
    row = parse_header(BASH)
    assert row is not None
    assert (row.name, row.version, row.release, row.epoch, row.architecture) == ("bash", "5.2.26", "3.fc40", "1", "x86_64")


@pytest.mark.parametrize(
    "blob", [b"", b"\0" * 8, b"\xff" * 64, BASH[:40], struct.pack(">II", 1 << 30, 1), struct.pack(">IIiIiI", 1, 1, 1000, 6, 1 << 30, 1)]
)
def test_rpm_headers_that_are_none(blob: bytes) -> None:
    assert parse_header(blob) is None


def test_rpm_headers_cut_anywhere_do_no_harm() -> None:
    for end in range(len(BASH)):
        parse_header(BASH[:end])


def test_rpm_database_with_a_view_in_place_of_the_table(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS (SELECT 1 UNION ALL SELECT blob FROM n) SELECT blob FROM n")
    connection.commit()
    connection.close()
    assert read_rpmdb(tmp_path / "db") == ([], False)


def test_everything_in_one_image(look: Make, tmp_path: Path) -> None:
    found = look(
        {
            "etc/os-release": b'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12"\n',
            "var/lib/dpkg/status": STATUS,
            "var/lib/dpkg/status.d/base": b"Package: base-files\nVersion: 12\nArchitecture: all\n",
            "lib/apk/db/installed": APK,
            "var/lib/rpm/rpmdb.sqlite": rpmdb(tmp_path / "made.sqlite", BASH, header({1000: "gpg-pubkey", 1001: "1"})),
            "usr/lib/python3/site-packages/Flask-3.0.dist-info/METADATA": b"Name: Flask\nVersion: 3.0\n\n",
            "usr/lib/python3/old.egg-info/PKG-INFO": b"Name: old\nVersion: 1\n",
            "app/node_modules/left-pad/package.json": json.dumps({"name": "left-pad", "version": "1.3.0", "license": "WTFPL"}).encode(),
            "app/node_modules/@types/node/package.json": json.dumps({"name": "@types/node", "version": "20.1.0"}).encode(),
            "app/node_modules/left-pad/test/fixture/package.json": b'{"name": "fixture", "version": "9"}',
            "app/package.json": b'{"name": "app", "version": "1"}',
        }
    )
    assert found.system == System("debian", "12", "Debian GNU/Linux 12")
    assert [(p.ecosystem, p.name, p.version) for p in found.packages] == [
        ("apk", "busybox", "1.36.1-r5"),
        ("apk", "musl", "1.2.4-r2"),
        ("deb", "base-files", "12"),
        ("deb", "bash", "5.2.15-2+b2"),
        ("deb", "libc6", "2.36-9"),
        ("npm", "@types/node", "20.1.0"),
        ("npm", "left-pad", "1.3.0"),
        ("pypi", "Flask", "3.0"),
        ("pypi", "old", "1"),
        ("rpm", "bash", "5.2.26-3.fc40"),
    ]
    assert found.packages[-1].path == "/var/lib/rpm/rpmdb.sqlite"
    assert found.warnings == ()


def test_databases_of_older_rpms_are_said_not_to_be_read(look: Make) -> None:
    assert look({"var/lib/rpm/Packages": b"x"}).warnings == (
        "/var/lib/rpm is an rpm database of another form than SQLite and was not read",
    )


def test_a_damaged_rpm_database(look: Make) -> None:
    found = look({"var/lib/rpm/rpmdb.sqlite": b"SQLite format 3\0" + b"\xff" * 5000})
    assert found.packages == ()
    assert found.warnings == ("/var/lib/rpm/rpmdb.sqlite is damaged: 0 packages could be read",)


def test_links_out_of_the_image_lead_nowhere(look: Make, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(STATUS)
    folder = tmp_path / "layer" / "diff" / "var" / "lib" / "dpkg"
    folder.mkdir(parents=True)
    (folder / "status").symlink_to(tmp_path / "outside")
    assert look({"a": b""}).packages == ()


def test_terminal_escapes_do_not_come_through() -> None:
    (package,) = dpkg("Package: a\x1b[31mb\nVersion: 1\n")
    assert package.name == "a [31mb"


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="dpkg is not installed")
def test_dpkg_says_the_same_of_this_machine() -> None:
    text = subprocess.run(
        ["dpkg-query", "-f", "${db:Status-Status} ${Package} ${Version} ${Architecture}\n", "-W"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = {tuple(line.split()[1:]) for line in text.splitlines() if line.startswith("installed ")}
    ours = {(p.name, p.version, p.architecture) for p in dpkg(Path("/var/lib/dpkg/status").read_text())}
    assert ours == theirs


def test_python_says_the_same_of_this_environment() -> None:
    from importlib import metadata

    for distribution in metadata.distributions():
        text = distribution.read_text("METADATA")
        if text is not None:
            (found,) = python(text)
            assert (found.name, found.version) == (distribution.metadata["Name"], distribution.version)
