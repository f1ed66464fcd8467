"""The filter, run by a small BPF interpreter: every jump lands where it should, on both machines."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lamina.testing import standalone


@pytest.fixture
def seccomp() -> Iterator[ModuleType]:
    with standalone.loaded("seccomp") as module:
        yield module


def answer(program: list[tuple[int, int, int, int]], arch: int, number: int, *arguments: int) -> int:
    """What the kernel would do: seccomp_data is nr, arch, instruction pointer, six arguments."""
    words = [number & 0xFFFFFFFF, arch, 0, 0]
    for argument in (*arguments, *[0] * (6 - len(arguments))):
        words += [argument & 0xFFFFFFFF, argument >> 32 & 0xFFFFFFFF]
    accumulator = position = 0
    while True:
        code, yes, no, value = program[position]
        position += 1
        match code:
            case 0x20:
                accumulator = words[value // 4]
            case 0x15:
                position += yes if accumulator == value else no
            case 0x35:
                position += yes if accumulator >= value else no
            case 0x45:
                position += yes if accumulator & value else no
            case 0x06:
                return value
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_denied_call_is_refused_and_others_are_not(machine: str, seccomp: ModuleType) -> None:
    program, arch = seccomp.program(machine), seccomp.AUDIT_ARCH[machine]
    column = 0 if machine == "x86_64" else 1
    denied = {row[column] for row in seccomp.DENIED.values() if row[column] is not None}
    special = {seccomp.CLONE3, seccomp.CLONE[machine], seccomp.SOCKET[machine], seccomp.PERSONALITY[machine]}
    for number in range(460):
        if number in special:
            continue
        expected = seccomp.ERRNO | seccomp.EPERM if number in denied else seccomp.ALLOW
        assert answer(program, arch, number) == expected, number


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_arguments_decide(machine: str, seccomp: ModuleType) -> None:
    program, arch = seccomp.program(machine), seccomp.AUDIT_ARCH[machine]
    refused, unknown, fine = seccomp.ERRNO | seccomp.EPERM, seccomp.ERRNO | seccomp.ENOSYS, seccomp.ALLOW
    clone, socket, personality = seccomp.CLONE[machine], seccomp.SOCKET[machine], seccomp.PERSONALITY[machine]
    assert answer(program, arch, clone, 0x11) == fine
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(program, arch, clone, flag | 0x11) == refused, hex(flag)
    assert answer(program, arch, seccomp.CLONE3) == unknown
    assert answer(program, arch, socket, 2) == fine
    assert answer(program, arch, socket, 40) == refused
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert answer(program, arch, personality, value) == fine
    assert answer(program, arch, personality, 0x0400000) == refused
    assert answer(program, 0x40000003, 1) == unknown, "32-bit programs"


def test_x32_is_unknown(seccomp: ModuleType) -> None:
    program = seccomp.program("x86_64")
    assert answer(program, seccomp.AUDIT_ARCH["x86_64"], seccomp.X32 | 1) == seccomp.ERRNO | seccomp.ENOSYS


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("deny", [True, False])
def test_with_one_id_owners_go_to_the_supervisor(machine: str, deny: bool, seccomp: ModuleType) -> None:
    program, arch = seccomp.program(machine, deny, True), seccomp.AUDIT_ARCH[machine]
    for number in seccomp.notified(machine).values():
        assert answer(program, arch, number) == seccomp.NOTIFY
    for number in seccomp.numbers(seccomp.PRETENDED, machine).values():
        assert answer(program, arch, number) == seccomp.ERRNO, "success, and nothing is done"
    mount = seccomp.numbers(seccomp.DENIED, machine)["mount"]
    assert answer(program, arch, mount) == (seccomp.ERRNO | seccomp.EPERM if deny else seccomp.ALLOW)
    assert answer(program, arch, 0) == seccomp.ALLOW


def test_no_number_stands_twice(seccomp: ModuleType) -> None:
    for machine in ("x86_64", "aarch64"):
        found = [n for table in (seccomp.DENIED, seccomp.NOTIFIED, seccomp.PRETENDED) for n in seccomp.numbers(table, machine).values()]
        assert len(found) == len(set(found))


HEADERS = {"x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), "aarch64": Path("/usr/include/asm-generic/unistd.h")}


def kernels(machine: str) -> dict[str, int]:
    """The kernel's own list (linux-libc-dev); that of aarch64 is the generic one."""
    text = HEADERS[machine].read_text()
    return {name: int(number) for name, number in re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)\b", text)}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_the_kernels(machine: str, seccomp: ModuleType) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is not there (linux-libc-dev)")
    known, column = kernels(machine), 0 if machine == "x86_64" else 1
    tables = {**seccomp.DENIED, **seccomp.NOTIFIED, **seccomp.PRETENDED}
    tables |= {"clone": tuple(seccomp.CLONE.values()), "clone3": (seccomp.CLONE3,) * 2, "socket": tuple(seccomp.SOCKET.values())}
    tables["personality"] = tuple(seccomp.PERSONALITY.values())
    differing = {name: (row[column], known.get(name)) for name, row in tables.items() if row[column] != known.get(name)}
    # Calls that only headers of other ages have: gone since, or not there yet.
    assert {name for name in differing if known.get(name) is not None} == set(), differing
    assert set(differing) <= {"lookup_dcookie", "nfsservctl", "quotactl_fd", "uselib", "ustat"}, differing
    kernel = sys.modules["kernel"]
    for name, number in kernel._OWN[machine].items():
        assert known[name] == number, name
    for name in ("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "openat2", "mount_setattr"):
        assert known[name] == getattr(kernel, name.upper()), name


def test_both_machines_have_all(seccomp: ModuleType) -> None:
    kernel = sys.modules["kernel"]
    machines = {"x86_64", "aarch64"}
    for table in (seccomp.AUDIT_ARCH, seccomp.CLONE, seccomp.PERSONALITY, seccomp.SOCKET, kernel._OWN):
        assert table.keys() == machines
    assert kernel._OWN["x86_64"].keys() == kernel._OWN["aarch64"].keys()
