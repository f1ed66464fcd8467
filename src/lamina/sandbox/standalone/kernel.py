"""System calls through ctypes, numbers as data. Stands alone."""

import ctypes
import os
import platform

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_SLAVE = 4096, 8192, 16384, 1 << 18, 1 << 19
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
AT_RECURSIVE, AT_EMPTY_PATH, AT_FDCWD = 0x8000, 0x1000, -100
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 2, 16

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_CAP_AMBIENT = 1, 24, 22, 47
PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 38, 4, 36

# The newer calls have the same number everywhere.
OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, OPENAT2, MOUNT_SETATTR = 428, 429, 430, 431, 432, 437, 442
_OWN = {
    "x86_64": {"pivot_root": 155, "capset": 126, "seccomp": 317, "fchownat": 260},
    "aarch64": {"pivot_root": 41, "capset": 91, "seccomp": 277, "fchownat": 54},
}
MACHINE = platform.machine()
NUMBERS = _OWN.get(MACHINE, {})
FCHOWNAT = NUMBERS.get("fchownat", -1)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def _check(result, what):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _bytes(path):
    return path if isinstance(path, bytes) or path is None else os.fsencode(path)


def call(number, *arguments):
    """A system call; integers are passed as 64-bit values. OSError."""
    values = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) if isinstance(a, bytes) else a for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *values), "system call %d" % number)


def unshare(flags):
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor, kind):
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def prctl(option, *arguments):
    values = [ctypes.c_ulong(a) for a in arguments] + [ctypes.c_ulong(0)] * (4 - len(arguments))
    return _check(_libc.prctl(ctypes.c_int(option), *values), "prctl %d" % option)


def mount(source, target, kind, flags, data=None):
    _check(_libc.mount(_bytes(source), _bytes(target), _bytes(kind), flags, _bytes(data)), os.fsdecode(target))


def umount(target, flags):
    _check(_libc.umount2(_bytes(target), ctypes.c_int(flags)), os.fsdecode(target))


def pivot_root(new, old):
    call(NUMBERS["pivot_root"], ctypes.c_char_p(_bytes(new)), ctypes.c_char_p(_bytes(old)))


def sethostname(name):
    data = _bytes(name)
    _check(_libc.sethostname(data, len(data)), "hostname")


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def mount_setattr(path, attributes, recursive=False):
    value = _MountAttr(attributes, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    call(MOUNT_SETATTR, AT_FDCWD, ctypes.c_char_p(_bytes(path)), flags, ctypes.byref(value), ctypes.sizeof(value))


class _OpenHow(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def open_in_root(root, path, flags):
    """openat2: `path` below the descriptor `root` as if that were "/", links included. OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    return call(OPENAT2, root, ctypes.c_char_p(_bytes(path)), ctypes.byref(how), ctypes.sizeof(how))


MOST_LOWERS = 500  # OVL_MAX_STACK; one of ours is the stub with mount points


def overlay(target, lowers, upper, work, userxattr):
    """Mount an overlay (lowers top first) at `target`, nodev. With the new API paths of any length and up to 500 lowers work."""
    if len(lowers) > MOST_LOWERS:
        raise OSError(
            7,
            f"overlay: {len(lowers) - 1} layers lie below this step, the kernel takes {MOST_LOWERS - 1}: join steps, or begin a new stage and COPY --from",
        )
    # With userxattr the kernel refuses redirect_dir=off and follows no redirect of its own accord.
    options = [("index", "off")] if userxattr else [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")]
    try:
        context = call(FSOPEN, ctypes.c_char_p(b"overlay"), 1)
    except OSError:
        _overlay_by_string(target, lowers, upper, work, userxattr, options)
        return
    try:
        for path in lowers:
            _set(context, "lowerdir+", path)
        if upper is not None:
            _set(context, "upperdir", upper)
            _set(context, "workdir", work)
            _flag(context, "volatile")
        for key, value in options:
            _set(context, key, value)
        if userxattr:
            _flag(context, "userxattr")
        call(FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        mounted = call(FSMOUNT, context, 1, MOUNT_ATTR_NODEV)
    except OSError as error:
        if error.errno == 22 and not _knows_lowerdir_plus():
            _overlay_by_string(target, lowers, upper, work, userxattr, options)
            return
        raise OSError(error.errno, "overlay: " + os.strerror(error.errno)) from error
    finally:
        os.close(context)
    call(MOVE_MOUNT, mounted, ctypes.c_char_p(b""), AT_FDCWD, ctypes.c_char_p(_bytes(target)), MOVE_MOUNT_F_EMPTY_PATH)
    os.close(mounted)


def _knows_lowerdir_plus():
    major, minor = (int("".join(c for c in part if c.isdigit()) or 0) for part in os.uname().release.split(".")[:2])
    return (major, minor) >= (6, 7)


def _set(context, key, value):
    call(FSCONFIG, context, FSCONFIG_SET_STRING, ctypes.c_char_p(key.encode()), ctypes.c_char_p(_bytes(value)), 0)


def _flag(context, key):
    call(FSCONFIG, context, FSCONFIG_SET_FLAG, ctypes.c_char_p(key.encode()), None, 0)


def _overlay_by_string(target, lowers, upper, work, userxattr, options):
    def escaped(path):
        return os.fsencode(path).replace(b"\\", b"\\\\").replace(b":", b"\\:").replace(b",", b"\\,")

    data = [b"lowerdir=" + b":".join(escaped(p) for p in lowers)]
    if upper is not None:
        data += [b"upperdir=" + escaped(upper), b"workdir=" + escaped(work), b"volatile"]
    data += [f"{k}={v}".encode() for k, v in options] + ([b"userxattr"] if userxattr else [])
    text = b",".join(data)
    if len(text) > 4000:
        raise OSError(7, "too many layers for this kernel's mount call (6.7 or newer takes 500)")
    mount("overlay", target, "overlay", MS_NODEV, text)
    mount_setattr(target, MOUNT_ATTR_NODEV)
