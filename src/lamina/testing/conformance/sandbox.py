"""What every rung of the sandbox must do. A probe is a function of a Bench; `PROBES` has them all. Used by tests/e2e/test_sandbox_*.py,
and as a program by an ordinary user: `python -m lamina.testing.conformance.sandbox RUNG FOLDER`."""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.layer.apply import apply_tar
from lamina.layer.entry import Entry, Kind
from lamina.layer.extra import read_extra
from lamina.layer.scan import entries
from lamina.layer.writer import EntryWriter
from lamina.sandbox import rungs
from lamina.sandbox.limits import Limits
from lamina.sandbox.protocols import Bind, Overlay, Sandbox, SandboxReport, SandboxSetupFailed, SandboxSpec, SecretFile, SubMount, Tmpfs
from lamina.solver.cancel import CancelToken
from lamina.testing import bases

PATH = "PATH=/bin:/usr/bin"


@dataclass
class Done:
    report: SandboxReport
    out: str
    err: str
    upper: Path

    @property
    def code(self) -> int:
        return self.report.exit_code

    def names(self) -> set[str]:
        """All that the upper holds, whiteouts included; also those of the side table."""
        gone = {os.fsdecode(path) for path in read_extra(self.upper.parent).whiteouts}
        return gone | {str(p.relative_to(self.upper)) for p in self.upper.rglob("*")}


@dataclass
class Bench:
    """A sandbox, a busybox root filesystem below `folder`, and a counter for fresh uppers."""

    sandbox: Sandbox
    folder: Path
    base: Path = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        tar = bases.busybox_tar(self.folder / "base.tar")
        layer = self.folder / "base"
        layer.mkdir()
        (layer / "diff").mkdir()
        with tar.open("rb") as stream:
            apply_tar(stream, layer, self.sandbox.flavour)
        self.base = layer / "diff"

    @property
    def weak(self) -> bool:
        """No namespaces: what isolates is not promised."""
        return self.sandbox.name in rungs.WEAK

    @property
    def single(self) -> bool:
        return self.sandbox.flavour.ids.kind == "single"

    def entries(self, done: Done) -> list[Entry]:
        """What the layer that the run made says."""
        return list(entries(done.upper.parent, self.sandbox.flavour))

    def owners(self, done: Done) -> dict[str, tuple[int, int]]:
        return {
            os.fsdecode(entry.path): (entry.uid, entry.gid)
            for entry in self.entries(done)
            if entry.kind not in (Kind.WHITEOUT, Kind.OPAQUE)
        }

    def layer(self, name: str) -> Path:
        """The `diff` folder of a lower layer of this name, made once."""
        found = self.folder / name / "diff"
        found.mkdir(parents=True, exist_ok=True)
        return found

    def place(self) -> Path:
        self._count += 1
        place = self.folder / f"run{self._count}-{threading.get_ident()}"
        for name in ("diff", "work"):
            (place / name).mkdir(parents=True)
        return place

    def spec(self, *argv: str, **values: Any) -> SandboxSpec:
        place = self.place()
        lowers = values.pop("lowers", (self.base,))
        return SandboxSpec(Overlay(lowers, place / "diff", place / "work"), argv, (PATH, *values.pop("env", ())), **values)

    def run(self, script: str, **values: Any) -> Done:
        return self.start(self.spec("sh", "-c", script, **values))

    def start(self, spec: SandboxSpec, cancel: CancelToken | None = None) -> Done:
        """`cancel` is cancelled when the first output has come: what was begun before it said something is there."""
        parts: dict[str, list[bytes]] = {"stdout": [], "stderr": []}

        def take(stream: str, data: bytes) -> None:
            parts[stream].append(data)
            if cancel is not None:
                threading.Thread(target=cancel.cancel).start()  # not in the thread that reads

        report = self.sandbox.run(spec, take, cancel or CancelToken())
        return Done(report, b"".join(parts["stdout"]).decode(), b"".join(parts["stderr"]).decode(), spec.root.upper)


def exit_codes(b: Bench) -> None:
    assert [b.run(f"exit {n}").code for n in (0, 1, 42, 255)] == [0, 1, 42, 255]
    missing = b.start(b.spec("no-such-program"))
    assert missing.code == 127
    assert "not found" in missing.err
    assert b.start(b.spec("/etc/passwd")).code == 126


def signals(b: Bench) -> None:
    assert b.run("sh -c 'kill -9 $$'; exit $?").code == 137
    assert b.run("sh -c 'kill -15 $$'; exit $?").code == 143


def streams_are_apart(b: Bench) -> None:
    done = b.run("echo out; echo err >&2")
    assert (done.out, done.err) == ("out\n", "err\n")


def much_output(b: Bench) -> None:
    done = b.run("yes | head -c 3000000")
    assert len(done.out) == 3_000_000


def standard_input_is_empty(b: Bench) -> None:
    assert b.run("cat").out == ""


def changes_land_in_the_upper(b: Bench) -> None:
    done = b.run("echo x > /new; rm -r /home; mkdir /etc/d; ln -s /new /link")
    assert done.code == 0, done.err
    assert {"new", "home", "etc", "etc/d", "link"} <= done.names()
    assert Kind.WHITEOUT in {entry.kind for entry in b.entries(done) if entry.path == b"home"}


def changes_without_a_trace(b: Bench) -> None:
    """Contents changed with the old size and time are in the layer; what was only read is not; hard links and the rest keep their kind."""
    done = b.run(
        "cat /etc/group >/dev/null; touch -r /etc/passwd /ref && sed -i s/worker/wooker/ /etc/passwd && touch -r /ref /etc/passwd && rm /ref"
        " && echo 1 > /a && ln /a /b && rm -r /var && echo file > /var && rm /tmp -r && mkdir /tmp && mv /root /moved"
    )
    assert done.code == 0, done.err
    found = [(os.fsdecode(entry.path), entry.kind) for entry in b.entries(done)]
    assert ("etc/group", Kind.FILE) not in found
    assert {("etc/passwd", Kind.FILE), ("a", Kind.FILE), ("b", Kind.HARDLINK), ("var", Kind.FILE), ("tmp", Kind.DIRECTORY)} <= set(found)
    assert {("root", Kind.WHITEOUT), ("moved", Kind.DIRECTORY)} <= set(found)
    assert "wooker" in (done.upper / "etc" / "passwd").read_text()


def one_run_after_the_other(b: Bench) -> None:
    """The layer of a run is the lowest but one of the next, as in a build; a failed run leaves nothing behind."""
    first = b.run("echo 1 > /one; rm -r /home; mkdir /etc/new")
    second = b.run("cat /one; ls /home; echo 2 > /one; rmdir /etc/new; touch /bad; false", lowers=(first.upper, b.base))
    assert second.code == 1
    third = b.run("cat /one; ls -d /home /bad; ls -d /etc/new; echo 3 > /three", lowers=(first.upper, b.base))
    assert third.out.split() == ["1", "/etc/new"], third.out
    fourth = b.run("cat /three; test -e /home || echo gone", lowers=(third.upper, first.upper, b.base))
    assert fourth.out.split() == ["3", "gone"]
    assert fourth.names() == set()


def removed_and_made_again_is_opaque(b: Bench) -> None:
    done = b.run("rm -r /home && mkdir /home && ls -A /home | wc -l")
    assert done.code == 0, done.err
    assert done.out.strip() == "0"


def nothing_injected_reaches_the_upper(b: Bench) -> None:
    done = b.run(
        "cat /etc/resolv.conf /etc/hosts /etc/hostname >/dev/null; cat /run/secrets/s; ls /cache /tmpfs",
        secrets=(SecretFile("/run/secrets/s", b"secret"),),
        binds=(Bind(b.folder / "base", "/cache"),),
        tmpfs=(Tmpfs("/tmpfs"),),
    )
    assert done.code == 0, done.err
    assert done.names() == set(), done.names()


def mount_points_made_in_the_upper_go_away(b: Bench) -> None:
    lower = b.layer("hidden")
    (lower / "run").mkdir(parents=True, exist_ok=True)
    if not b.weak:
        os.setxattr(lower / "run", f"{b.sandbox.flavour.whiteouts}.overlay.opaque", b"y")
    done = b.run("cat /run/secrets/deep/s", lowers=(lower, b.base), secrets=(SecretFile("/run/secrets/deep/s", b"v"),))
    assert done.out == "v", done.err
    assert "run/secrets" not in done.names()


def secrets_are_files_on_tmpfs(b: Bench) -> None:
    secret = SecretFile("/run/secrets/tok", b"value", 0o400)
    done = b.run("cat /run/secrets/tok; stat -c ' %a' /run/secrets/tok; env; cat /proc/1/cmdline", secrets=(secret,))
    assert done.out.startswith("value 400\n"), done.out
    assert done.out.count("value") == 1


def read_only_bind(b: Bench) -> None:
    source = b.folder / "ro"
    source.mkdir(exist_ok=True)
    (source / "f").write_text("f")
    done = b.run("cat /ro/f; echo x > /ro/f || echo refused; touch /ro/new 2>/dev/null || echo refused", binds=(Bind(source, "/ro"),))
    assert b.weak or done.out == "frefused\nrefused\n", done.out
    assert (source / "f").read_text() == "f"
    assert [path.name for path in source.iterdir()] == ["f"]


def read_write_bind(b: Bench) -> None:
    source = b.folder / "rw"
    source.mkdir(exist_ok=True)
    assert b.run("echo x > /rw/new", binds=(Bind(source, "/rw", readonly=False),)).code == 0
    assert (source / "new").read_text() == "x\n"


def bind_of_a_file(b: Bench) -> None:
    source = b.folder / "one-file"
    source.write_text("one")
    assert b.run("cat /some/where/file", binds=(Bind(source, "/some/where/file"),)).out == "one"


def symlinked_mount_target_stays_inside(b: Bench) -> None:
    """`/var/run -> /run` works; a link that aims at the host makes nothing there."""
    lower = b.layer("links")
    (lower / "var").mkdir(exist_ok=True)
    outside = b.folder / "outside"
    if not (lower / "var" / "run").is_symlink():
        (lower / "var" / "run").symlink_to("/run")
        (lower / "escape").symlink_to(outside)
    source = b.folder / "shown"
    source.write_text("shown")
    done = b.run(
        "cat /var/run/sock; cat /escape/x", lowers=(lower, b.base), binds=(Bind(source, "/var/run/sock"), Bind(source, "/escape/x"))
    )
    assert done.out == "shownshown", done.err
    assert not outside.exists()


def submounts(b: Bench) -> None:
    lower = b.layer("stage")
    (lower / "src").mkdir(exist_ok=True)
    (lower / "src" / "s").write_text("s")
    places = [b.place(), b.place()]
    overlays = [Overlay((lower,), p / "diff", p / "work") for p in places]
    done = b.run(
        "cat /a/s /b/s; echo no > /a/x || echo refused; echo yes > /b/x && cat /b/x",
        submounts=(SubMount(overlays[0], "/a", "/src", True), SubMount(overlays[1], "/b", "/src", False)),
    )
    assert done.out == "ssrefused\nyes\n" or b.weak, done.out + done.err
    assert done.out.startswith("ss")
    assert done.out.endswith("yes\n")
    assert sorted(p.name for p in (lower / "src").iterdir()) == ["s"]


def tmpfs_with_a_size(b: Bench) -> None:
    done = b.run(
        "dd if=/dev/zero of=/t/f bs=1M count=3 2>&1 | grep -c 'No space'; touch /t/g 2>/dev/null; ls /t", tmpfs=(Tmpfs("/t", 1 << 20),)
    )
    assert done.out.split()[0] == "1", done.out
    assert done.names() == set()


def daemons_end_with_the_workload(b: Bench) -> None:
    """A background process keeps no pipe open and does not outlive PID 1."""
    started = time.monotonic()
    assert b.run("sleep 300 & sleep 300 & echo started").out == "started\n"
    assert time.monotonic() - started < 60


_OWN = 1000 + os.getpid()  # seconds of sleep that no other run of this suite on the machine sleeps


def cancelled_runs_end_as_a_tree(b: Bench) -> None:
    done = b.start(b.spec("sh", "-c", f"sleep {_OWN}1 & echo begun; sleep {_OWN}1"), CancelToken())
    assert done.code in (137, 143)
    assert f"sleep\x00{_OWN}1\x00" not in _command_lines()


def term_comes_before_kill(b: Bench) -> None:
    done = b.start(b.spec("sh", "-c", "trap 'echo bye; exit 7' TERM; echo begun; while :; do sleep 0.05; done"), CancelToken())
    assert (done.code, done.out) == (7, "begun\nbye\n")


def timeouts_end_the_tree(b: Bench) -> None:
    done = b.run(f"sleep {_OWN}2 & sleep {_OWN}2", timeout=0.3)
    assert done.report.timed_out
    assert f"sleep\x00{_OWN}2\x00" not in _command_lines()


def kill_of_the_zygote_leaves_nothing(b: Bench) -> None:
    """kill -9 of the helper process while something runs: an error for us, no process and no mount left; the next run works."""
    from lamina.sandbox.zygote import Zygote

    zygote = Zygote(userxattr=b.sandbox.flavour.whiteouts == "user", single=b.single)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            zygote.run(b.spec("sleep", f"{_OWN}3"), lambda stream, data: None, CancelToken())
        except SandboxSetupFailed as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    _wait_for(lambda: f"sleep\x00{_OWN}3\x00" in _command_lines())
    assert zygote._process is not None
    zygote._process.kill()
    thread.join(90)
    assert errors
    _wait_for(lambda: f"sleep\x00{_OWN}3\x00" not in _command_lines())
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(b.folder) not in mounts
    assert b.run("true").code == 0


def proc_is_masked(b: Bench) -> None:
    done = b.run(
        "cat /proc/kcore 2>/dev/null | wc -c; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/domainname || echo refused; echo b > /proc/sysrq-trigger || echo refused"
    )
    assert done.out.split() == ["0", "0", "refused", "refused"], done.out


def own_processes_only(b: Bench) -> None:
    done = b.run("ls /proc | grep -c '^[0-9]'; echo $$")
    count, own = done.out.split()
    assert int(count) < 10
    assert own == "1"


def no_descriptor_is_inherited(b: Bench) -> None:
    done = b.run("ls /proc/self/fd")
    assert set(done.out.split()) <= {"0", "1", "2", "3"}, done.out


def devices(b: Bench) -> None:
    done = b.run("ls /dev; head -c 3 /dev/zero | wc -c; echo x > /dev/null; test -c /dev/urandom; echo t > /dev/shm/t; test -e /dev/ptmx")
    assert done.code == 0, done.err
    assert {"null", "zero", "full", "random", "urandom", "tty", "pts", "shm", "fd", "stdin", "stdout", "stderr"} <= set(done.out.split())


def made_devices_cannot_be_opened(b: Bench) -> None:
    done = b.run(
        "mknod /disk b 253 0 2>/dev/null && cat /disk >/dev/null 2>&1 && echo opened; mknod /null c 1 3 2>/dev/null && cat /null && echo opened"
    )
    assert "opened" not in done.out or b.single, "where one id is mapped an empty file stands for a device"


def capabilities(b: Bench) -> None:
    done = b.run("grep -E 'Cap(Bnd|Eff|Amb|Inh)' /proc/self/status; grep NoNewPrivs /proc/self/status")
    fields = dict(line.split(":") for line in done.out.replace("\t", "").splitlines())
    assert int(fields["CapBnd"], 16) == 0xA80425FB
    assert int(fields["CapEff"], 16) == 0xA80425FB
    assert int(fields["CapAmb"], 16) == 0
    assert fields["NoNewPrivs"] == "0", "setuid programs must work"


def insecure_keeps_capabilities(b: Bench) -> None:
    done = b.run("grep CapBnd /proc/self/status; mount -t tmpfs x /tmp && echo mounted", insecure=True)
    assert int(done.out.split()[1], 16) & (1 << 21), "CAP_SYS_ADMIN"
    assert "mounted" in done.out, done.err


_CALLER = """
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(int count, char **words) {
    for (int i = 1; i + 1 < count; i += 2) {
        long number = atol(words[i]), first = atol(words[i + 1]);
        pid_t child = fork();
        if (child == 0) {
            long found = syscall(number, first, 0L, 0L, 0L, 0L, 0L);
            _exit(found == -1 ? errno & 0xff : 0);
        }
        int status;
        waitpid(child, &status, 0);
        printf("%ld %ld %d\\n", number, first, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    }
    return 0;
}
"""


def every_refused_call_is_refused(b: Bench) -> None:
    """Each call of the table is made, with arguments that do no harm were it let through, and its errno is looked at."""
    import importlib.util
    import shutil
    import subprocess

    import lamina.sandbox

    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return
    folder = Path(lamina.sandbox.__file__).parent / "standalone"
    sys.path.insert(0, str(folder))
    try:
        found = importlib.util.spec_from_file_location("lamina_filter", folder / "seccomp.py")
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    machine = os.uname().machine
    lower = b.layer("caller")
    program = lower / "caller"
    if not program.exists():
        (b.folder / "caller.c").write_text(_CALLER)
        subprocess.run([compiler, "-static", "-o", str(program), str(b.folder / "caller.c")], check=True, capture_output=True)
    # -1 is no pointer, descriptor or command: a call that is let through fails with another errno than EPERM.
    wanted = {(number, -1): 1 for name, number in module.numbers(module.DENIED, machine).items() if name != "vhangup"}
    wanted |= {(module.CLONE[machine], flag | 17): 1 for flag in (0x20000, 0x10000000, 0x40000000)}
    wanted |= {(module.CLONE3, -1): 38, (module.SOCKET[machine], 40): 1, (module.PERSONALITY[machine], 0x0400000): 1}
    if b.sandbox.name in rungs.RUNTIMES:  # theirs has no rule for personality
        del wanted[(module.PERSONALITY[machine], 0x0400000)]
    words = [str(word) for pair in wanted for word in pair]
    done = b.start(b.spec("/caller", *words, lowers=(lower, b.base)))
    assert done.code == 0, done.err
    answers = {(int(n), int(first)): int(errno) for n, first, errno in (line.split() for line in done.out.splitlines())}
    wrong = {pair: answers.get(pair) for pair, errno in wanted.items() if answers.get(pair) != errno}
    assert not wrong, wrong


def _machine_code(code: bytes) -> bytes:
    """A static ELF program for x86-64 that is this code and nothing else."""
    start = 0x400000
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, start, start, 120 + len(code), 120 + len(code), 0x1000) + code


_EXIT_WITH_ERRNO = b"\xf7\xd8\x89\xc7\xb8\x3c\x00\x00\x00\x0f\x05"  # neg eax; mov edi, eax; mov eax, 60; syscall
# close(-1): errno 9 (EBADF) where the call arrives
CALL_OF_32_BITS = _machine_code(b"\xbb\xff\xff\xff\xff\xb8\x06\x00\x00\x00\xcd\x80" + _EXIT_WITH_ERRNO)  # mov ebx, -1; mov eax, 6; int 0x80
CALL_OF_X32 = _machine_code(
    b"\xbf\xff\xff\xff\xff\xb8\x03\x00\x00\x40\x0f\x05" + _EXIT_WITH_ERRNO
)  # mov edi, -1; mov eax, 0x40000003; syscall
CALL_OF_64_BITS = _machine_code(b"\xbf\xff\xff\xff\xff\xb8\x03\x00\x00\x00\x0f\x05" + _EXIT_WITH_ERRNO)


def calls_of_other_tables_are_refused(b: Bench) -> None:
    """A 64-bit program can call by the table of 32-bit programs (int 0x80) or of x32, where the numbers are others: none of these arrives."""
    if os.uname().machine != "x86_64":
        return
    lower = b.layer("tables")
    for name, program in (("32", CALL_OF_32_BITS), ("x32", CALL_OF_X32), ("64", CALL_OF_64_BITS)):
        if not (lower / name).exists():
            (lower / name).write_bytes(program)
            (lower / name).chmod(0o755)
    found = {name: b.start(b.spec(f"/{name}", lowers=(lower, b.base))).code for name in ("64", "32", "x32")}
    assert found["64"] == 9, found
    for name in ("32", "x32"):
        assert found[name] == 38 or found[name] >= 128, found  # ENOSYS, or it was killed


def system_calls_are_refused(b: Bench) -> None:
    for script in (
        "mount -t tmpfs x /tmp",
        "umount /proc",
        "unshare -m true",
        "unshare -U true",
        "hostname other",
        "swapon /x",
    ):
        done = b.run(script)
        assert done.code != 0, script


def users(b: Bench) -> None:
    assert b.run("id -u; id -g").out.split() == ["0", "0"]
    done = b.run("id -u; id -g; id -G; echo $HOME", user="worker")
    assert done.out.split() == ["1000", "1001", "1001", "/home/worker"], done.out + done.err
    assert b.run("id -u; id -g", user="12:34").out.split() == ["12", "34"]
    assert b.run("id -u; id -g", user="worker:root").out.split() == ["1000", "0"]


def files_belong_to_the_user(b: Bench) -> None:
    done = b.run("cd /tmp && touch f && mkdir d && ln -s f l && mkfifo p && echo x >> /home/worker/in", user="worker")
    assert done.code == 0, done.err
    owners = b.owners(done)
    for name in ("tmp/f", "tmp/d", "tmp/l", "tmp/p", "home/worker/in"):
        assert owners[name] == (1000, 1001), (name, owners)
    assert owners["tmp"] == (0, 0)
    assert owners["home/worker"] == (1000, 1001)


def unknown_users_are_named(b: Bench) -> None:
    try:
        b.run("true", user="nobody-here")
    except SandboxSetupFailed as error:
        assert "nobody-here" in error.message
        return
    raise AssertionError("accepted")


def ownership(b: Bench) -> None:
    """What the layer says is what was asked for, on every rung; through renames, for what takes no attribute, and half owners."""
    done = b.run(
        "mkdir -p /d/e && touch /d/a /d/e/b && ln -s a /d/l && mkfifo /d/p && chown -R 1000:1000 /d && chown -h 5:6 /d/l && mv /d/l /d/m"
        " && touch /g && chown 7:8 /g && rm /g && ln -s x /again && cp /bin/busybox /s && chmod 6755 /s && chown 9:9 /s"
    )
    assert done.code == 0, done.err
    owners = b.owners(done)
    assert {name: owner for name, owner in owners.items() if owner != (0, 0)} == {
        "d": (1000, 1000), "d/a": (1000, 1000), "d/e": (1000, 1000), "d/e/b": (1000, 1000), "d/p": (1000, 1000), "d/m": (5, 6), "s": (9, 9),
    }  # fmt: skip
    modes = {os.fsdecode(entry.path): entry.mode for entry in b.entries(done)}
    assert modes["s"] == 0o755, "a change of owner takes the setuid bits away"


def new_files_in_a_setgid_folder(b: Bench) -> None:
    done = b.run("mkdir /s && chown 0:50 /s && chmod 2775 /s && touch /s/f && mkdir /s/k && touch /s/k/g && ln -s f /s/l")
    assert done.code == 0, done.err
    owners = b.owners(done)
    assert {owners[name] for name in ("s", "s/f", "s/k", "s/k/g", "s/l")} == {(0, 50)}, owners


def owners_of_lower_layers_stay(b: Bench) -> None:
    """A file, a folder and a link that belong to others are changed by root: they still belong to them."""
    layer = b.folder / "owned"
    if not layer.exists():
        layer.mkdir()
        (layer / "diff").mkdir()
        with EntryWriter(layer, b.sandbox.flavour) as writer:
            writer.put(Entry(b"o", Kind.DIRECTORY, 0o755, 3, 4))
            writer.put(Entry(b"o/f", Kind.FILE, 0o644, 3, 4))
            writer.put(Entry(b"o/l", Kind.SYMLINK, 0o777, 3, 4, link=b"f"))
    done = b.run("echo x >> /o/f && touch -h /o/l && touch /o/new", lowers=(layer / "diff", b.base))
    assert done.code == 0, done.err
    owners = b.owners(done)
    assert owners == {"o": (3, 4), "o/f": (3, 4), "o/new": (0, 0), "o/l": (3, 4)}, owners


def devices_are_in_the_layer(b: Bench) -> None:
    done = b.run("mknod /dev1 c 1 3 && mknod -m 640 /dev2 b 8 1 && chown 2:3 /dev2 && mv /dev2 /dev3")
    if done.code:
        assert b.sandbox.name in ("userns", "userns-fuse"), done.err
        return
    found = {os.fsdecode(entry.path): entry for entry in b.entries(done)}
    assert (found["dev1"].kind, found["dev1"].major, found["dev1"].minor) == (Kind.CHARACTER, 1, 3)
    assert (found["dev3"].kind, found["dev3"].major, found["dev3"].minor) == (Kind.BLOCK, 8, 1)
    assert (found["dev3"].uid, found["dev3"].gid, found["dev3"].mode) == (2, 3, 0o640)


def environment_is_complete(b: Bench) -> None:
    done = b.run("env", env=("A=1", "B=two words"))
    values = dict(line.partition("=")[::2] for line in done.out.splitlines())
    assert (values["A"], values["B"], values["HOME"]) == ("1", "two words", "/root")
    assert not {"PYTHONPATH", "LC_ALL", "LAMINA_ROOT"} & values.keys()


def working_directory(b: Bench) -> None:
    assert b.run("pwd", cwd="/home").out == "/home\n"
    made = b.run("pwd; mkdir in", cwd="/no/where", user="7:8")
    assert (made.code, made.out) == (0, "/no/where\n"), made.err
    assert [os.fsdecode(entry.path) for entry in b.entries(made) if entry.path] == ["no", "no/where", "no/where/in"]
    owner = (0, 0) if b.sandbox.name == "proot" else (7, 8)  # which keeps none
    assert set(b.owners(made).values()) - {(0, 0)} == {owner} - {(0, 0)}
    no_folder = b.run("pwd", cwd="/etc/passwd/x")
    assert no_folder.code == 126
    assert "/etc/passwd/x" in no_folder.err


def host_names(b: Bench) -> None:
    done = b.run("hostname; cat /etc/hosts", hostname="box", hosts=(("other", "10.1.2.3"),))
    assert done.out.startswith("box\n")
    assert "10.1.2.3\tother" in done.out


def network_none_has_loopback_only(b: Bench) -> None:
    done = b.run("ls /sys/class/net 2>/dev/null; ip -o link | wc -l; ip -o addr show lo | grep -c 127.0.0.1", network="none")
    assert done.out.split()[-2:] == ["1", "1"], done.out + done.err


def limits(b: Bench) -> None:
    assert b.run("ulimit -n", rlimits=(("nofile", 123, 456),)).out == "123\n"


def _descendants() -> set[int]:
    """Processes that we started, and that they did."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _groups_of(makers: set[int], since: int) -> set[Path]:
    """Made at or after `since` (time.monotonic_ns): a group of before may have been made by a process that had the same number."""
    beginnings = tuple(f"lamina-{maker}-" for maker in makers)
    # os.walk passes over what goes meanwhile: other tests have their groups there, too.
    found = (Path(folder, name) for folder, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith(beginnings))
    return {group for group in found if int(group.name.rpartition("-")[2]) >= since}


def limits_hold(b: Bench) -> None:
    """Memory, by a control group where one can be made (then `oom` says so), else for each process by itself."""
    makers: set[int] = set()
    begun = time.monotonic_ns()

    def heard(stream: str, data: bytes) -> None:
        makers.update(_descendants())
        parts.append(data)

    sandbox = rungs.make(b.sandbox.name, (), b.folder / "limited", Limits(memory=64 << 20, pids=50))
    try:
        parts: list[bytes] = []
        spec = b.spec("sh", "-c", "echo begun; x=$(yes 0123456789 | head -c 150000000); echo survived ${#x}")
        report = sandbox.run(spec, heard, CancelToken())
        assert report.limited in ("cgroup", "rlimit")
        assert b"survived 15" not in b"".join(parts)
        assert report.exit_code, b"".join(parts)
        assert report.oom == (report.limited == "cgroup") or b.sandbox.name in rungs.RUNTIMES, "a runtime's own group goes with it"
        again = sandbox.run(b.spec("echo", "begun"), heard, CancelToken())
        assert (again.exit_code, again.oom) == (0, False)
    finally:
        sandbox.close()
    assert makers
    assert not _groups_of(makers - _descendants(), begun), "a group stays"


def empty_root(b: Bench) -> None:
    """FROM scratch: no lower at all."""
    try:
        done = b.start(b.spec("/nothing", lowers=()))
    except SandboxSetupFailed as error:
        raise AssertionError(error.message) from error
    assert done.code == 127


def many_lowers(b: Bench) -> None:
    lowers = []
    for number in range(120):
        lower = b.folder / "many" / ("x" * 60) / f"layer-{number:03}" / "diff"
        lower.mkdir(parents=True, exist_ok=True)
        (lower / f"f{number}").write_text(str(number))
        lowers.append(lower)
    done = b.run("ls / | grep -c '^f'; cat /f0 /f119", lowers=(*lowers, b.base))
    assert done.out == "120\n0119", done.out + done.err


def many_at_once(b: Bench) -> None:
    results: list[str] = []
    threads = [threading.Thread(target=lambda n=n: results.append(b.run(f"sleep 0.2; echo {n}").out)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=int) == [f"{n}\n" for n in range(16)]


def setuid_programs_work(b: Bench) -> None:
    if b.single:
        return
    lower = b.layer("setuid")
    if not (lower / "suid").exists():
        (lower / "suid").write_bytes(Path("/bin/busybox").read_bytes())
        (lower / "suid").chmod(0o4755)
    done = b.run("/suid id -u 2>/dev/null || true; stat -c %a /suid", lowers=(lower, b.base), user="worker")
    assert "4755" in done.out


PROBES: tuple[Callable[[Bench], None], ...] = (
    exit_codes, signals, streams_are_apart, much_output, standard_input_is_empty, changes_land_in_the_upper, changes_without_a_trace, one_run_after_the_other, removed_and_made_again_is_opaque,
    nothing_injected_reaches_the_upper, mount_points_made_in_the_upper_go_away, secrets_are_files_on_tmpfs, read_only_bind, read_write_bind,
    bind_of_a_file, symlinked_mount_target_stays_inside, submounts, tmpfs_with_a_size, daemons_end_with_the_workload, cancelled_runs_end_as_a_tree,
    term_comes_before_kill, timeouts_end_the_tree, kill_of_the_zygote_leaves_nothing, proc_is_masked, own_processes_only, no_descriptor_is_inherited,
    devices, made_devices_cannot_be_opened, capabilities, insecure_keeps_capabilities, system_calls_are_refused, every_refused_call_is_refused, calls_of_other_tables_are_refused, users, unknown_users_are_named,
    files_belong_to_the_user, ownership, new_files_in_a_setgid_folder, owners_of_lower_layers_stay, devices_are_in_the_layer, environment_is_complete, working_directory, host_names, network_none_has_loopback_only, limits, limits_hold, empty_root, many_lowers,
    many_at_once, setuid_programs_work,
)  # fmt: skip


# What chroot and proot do not promise: they have no namespaces and no mounts.
ISOLATION = frozenset({
    tmpfs_with_a_size, kill_of_the_zygote_leaves_nothing, proc_is_masked, own_processes_only, devices, made_devices_cannot_be_opened,
    capabilities, insecure_keeps_capabilities, system_calls_are_refused, every_refused_call_is_refused, calls_of_other_tables_are_refused, host_names, network_none_has_loopback_only,
})  # fmt: skip
# proot keeps owners as little as it changes users: both are pretended to the workload only. It waits for daemons and hands no signal on.
PROOT = frozenset(
    {
        files_belong_to_the_user,
        ownership,
        new_files_in_a_setgid_folder,
        devices_are_in_the_layer,
        daemons_end_with_the_workload,
        term_comes_before_kill,
    }
)


# fuse-overlayfs gives new folders and links of a setgid folder the caller's group, and links that it copies up the caller's ids.
FUSE = frozenset({new_files_in_a_setgid_folder, owners_of_lower_layers_stay})


def probes(rung: str) -> tuple[Callable[[Bench], None], ...]:
    """Those that the rung promises to pass."""
    without = (ISOLATION if rung in rungs.WEAK else frozenset()) | (PROOT if rung == "proot" else frozenset())
    without |= FUSE if rung == "userns-fuse" else frozenset()
    if rung == "crun":  # binds the root anew, and without a group of its own nothing else keeps a device closed
        without |= {made_devices_cannot_be_opened}
    return tuple(probe for probe in PROBES if probe not in without)


def _command_lines() -> str:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_text(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.025)
    raise AssertionError("it did not come to pass within two minutes")


def main() -> None:
    """Enter the rung (before any thread) and run every probe; prints one line for each and pytest-like totals."""
    from lamina.sandbox.choice import choose

    rung, folder = sys.argv[1], Path(sys.argv[2])
    chosen = choose(rung, os.geteuid()).rung
    sandbox = rungs.make(chosen, (), folder / "trees")
    problems = sandbox.probe()
    if problems:
        print(f"the rung {rung} does not work here: {'; '.join(problems)}")
        sys.exit(3)
    failed = 0
    with tempfile.TemporaryDirectory(dir=folder) as text:
        bench = Bench(sandbox, Path(text))
        asked = probes(chosen)
        for probe in asked:
            try:
                probe(bench)
                print(f"ok {probe.__name__}")
            except Exception as error:
                failed += 1
                print(f"FAILED {probe.__name__}: {type(error).__name__}: {error}")
        sandbox.close()
    print(f"{len(asked) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
