"""Overlays by fuse-overlayfs, for a user namespace to which the kernel gives none. Stands alone.

The program is a child of the helper, outside of the run's process ids: the workload does not see it. It is mounted in the helper's own mount
namespace, of which the run's is a copy. What it leaves in the upper is then made what the kernel's overlay would have left (`normalise`).
"""

import ctypes
import os
import resource
import signal
import stat
import time

import kernel

OPTIONS = "writeback=0"  # what is written is in the upper when the write is over: the program may be killed
STRANGE = b"user.fuseoverlayfs."
OPAQUE = b"user.overlay.opaque"
MARKS = (b".wh..wh..opq", b".wh..opq")
PATIENCE = 20.0  # seconds for a busy machine


class Failed(Exception):
    pass


class Mounts:
    """The overlays of one run. `add` mounts one, `end` takes all away."""

    def __init__(self, program):
        self.program = program
        self.running = []  # (process id, mount point)

    def add(self, target, lowers, upper, work):
        """Lowers top first; without an upper it is read-only. Failed with what the program said."""
        before = os.stat(target).st_dev
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                become(self.program, target, lowers, upper, work, write)
            finally:
                os._exit(127)
        os.close(write)
        self.running.append((child, target))
        until = time.monotonic() + PATIENCE
        try:
            while os.stat(target).st_dev == before:
                if os.waitpid(child, os.WNOHANG)[0] or time.monotonic() > until:
                    said = os.read(read, 4096).decode(errors="replace").strip().splitlines()
                    raise Failed("fuse-overlayfs: " + (said[-1] if said else "it ended without a word"))
                time.sleep(0.001)
        finally:
            os.close(read)

    def end(self):
        """All that was written is in the uppers then. Never raises."""
        libc = ctypes.CDLL(None)
        for child, target in reversed(self.running):
            try:
                root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                libc.syncfs(ctypes.c_int(root))  # pages that were written through a mapping
                os.close(root)
            except OSError:
                pass
            try:
                kernel.umount(target, kernel.MNT_DETACH)
            except OSError:
                pass
            leave(child)
        self.running = []


def arguments(program, target, lowers, upper, work):
    """argv, each folder by a descriptor's name: paths with commas or colons would be taken apart."""
    parts = ["lowerdir=" + ":".join(lowers)]
    if upper is not None:
        parts += ["upperdir=" + upper, "workdir=" + work]
    return [program, "-f", "-o", ",".join([*parts, OPTIONS]), target]


def become(program, target, lowers, upper, work, said):
    """In the child: never returns."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(3, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def named(path):
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
        os.set_inheritable(descriptor, True)
        return "/proc/self/fd/%d" % descriptor

    names = [named(lower) for lower in lowers]
    above = (None, None) if upper is None else (named(upper), named(work))
    os.execve(program, arguments(program, target, names, *above), {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def leave(child):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def normalise(upper, lowers):
    """Opaque folders get the kernel's mark where a lower layer has something to hide, the program's own marks go. Follows no link."""
    for here, _, files, descriptor in os.fwalk(os.fsencode(upper), follow_symlinks=False):
        path = here[len(os.fsencode(upper)) :].lstrip(b"/")
        about = os.fstat(descriptor)
        opaque = [name for name in MARKS if name in files]
        for name in opaque:
            os.unlink(name, dir_fd=descriptor)
        own = strip(b"/proc/self/fd/%d" % descriptor)
        if opaque or OPAQUE_OWN in own:
            if path and any(hidden(lower, path) for lower in lowers):
                os.setxattr(descriptor, OPAQUE, b"y")
            os.utime(descriptor, ns=(about.st_atime_ns, about.st_mtime_ns))
        for name in files:
            if name not in MARKS and stat.S_ISREG(os.lstat(name, dir_fd=descriptor).st_mode):
                strip(b"/proc/self/fd/%d/%s" % (descriptor, name))


OPAQUE_OWN = STRANGE + b"opaque"


def strip(path):
    """Take the program's attributes away; -> their names."""
    found = []
    for text in os.listxattr(path, follow_symlinks=True):
        name = os.fsencode(text)
        if name.startswith(STRANGE):
            os.removexattr(path, name)
            found.append(name)
    return found


def hidden(lower, path):
    """Whether a layer has a folder of that name, through real folders only."""
    descriptor = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in path.split(b"/"):
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
