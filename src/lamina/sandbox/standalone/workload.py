"""From PID 1 inside the image to the workload: user, limits, capabilities, filter, exec. Stands alone; imports nothing after pivot_root."""

import ctypes
import os
import resource
import signal
import socket
import stat
import struct
import sys

import kernel
import seccomp

DOCKER_CAPABILITIES = 0xA80425FB
_LIMITS = {name[7:].lower(): getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}


class CannotExecute(Exception):
    """The workload's own fault: 127 not found, 126 not executable."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def start(spec, out, err, write_error, teller=None):
    """Never returns. What is raised before exec is a set-up error, but for CannotExecute. `teller`: socket to the supervisor of owners."""
    sys.path.clear()
    sys.meta_path.clear()
    plain = spec["tree"] is not None  # without namespaces: a folder is the root, and the machine's processes and network are seen
    if not plain:
        kernel.sethostname(spec["hostname"])
    os.setsid() if os.getsid(0) != os.getpid() else None
    os.umask(0o022)
    program = spec["proot"]
    root = os.open(spec["tree"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if plain else None
    uid, gid, groups, home = identity(spec["user"], root)
    if plain and not program:
        os.chroot(spec["tree"])
        os.chdir("/")
    for name, soft, hard in spec["rlimits"]:
        resource.setrlimit(_LIMITS[name], (soft, hard))
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    keep = spec["error_fd"] = os.dup2(write_error, 3, inheritable=False)
    if teller is not None:
        os.dup2(teller, 4, inheritable=False)
    os.closerange(5 if teller is not None else 4, 1 << 16)
    os.chdir("/")
    if program:
        proot(spec, program, uid, gid, home, keep)
    make_folder(spec["cwd"], uid, gid)
    other = spec["single"] and (uid or gid)
    if other:
        tell(4, struct.pack("=cII", b"U", uid, gid))
        become(uid, gid)
    if kernel.MACHINE in seccomp.AUDIT_ARCH:
        if spec["single"] and not other:
            tell(4, b"L", seccomp.install(kernel.MACHINE, not spec["insecure"], True))
        elif not spec["insecure"]:
            try:
                seccomp.install(kernel.MACHINE)
            except OSError:
                if not plain:  # there the container's own filter stands
                    raise
    if not spec["insecure"]:
        drop_bounding(DOCKER_CAPABILITIES)
    if not other:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if not spec["insecure"]:
        try:
            set_capabilities(DOCKER_CAPABILITIES if uid == 0 else 0)
        except OSError:
            if not plain:  # a container may have taken some of them away already
                raise
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    environment = environment_of(spec, home)
    try:
        os.chdir(spec["cwd"])
    except OSError as error:
        os.close(keep)
        raise CannotExecute(126, "cannot enter the working directory %s: %s" % (spec["cwd"], error.strerror)) from None
    execute(spec["argv"], environment, keep)


def environment_of(spec, home):
    found = dict(item.split("=", 1) for item in spec["env"] if "=" in item)
    found.setdefault("HOME", home)
    return found


def make_folder(path, uid, gid, root=None):
    """Make what the image lacks of its working directory, 0755 and the user's, as BuildKit does: an earlier RUN may have removed it, a base
    may only name it. `root`: the image's root where it is not ours. What cannot be made is told by who enters the folder."""
    where = "/"
    try:
        for name in path.strip("/").split("/"):
            above, where = where, os.path.join(where, name)
            try:
                os.close(_open(root, where))
            except FileNotFoundError:
                parent = _open(root, above)
                try:
                    os.mkdir(name, 0o755, dir_fd=parent)
                    give(name, uid, gid, parent)
                finally:
                    os.close(parent)
    except OSError:
        pass


def give(name, uid, gid, folder):
    try:
        os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
    except OSError:
        pass  # one id only: what the user's commands make is counted as theirs


def _open(root, path):
    return os.open(path, os.O_PATH | os.O_CLOEXEC) if root is None else kernel.open_in_root(root, path, os.O_PATH)


def proot(spec, program, uid, gid, home, keep):
    """Never returns. What exec would say is found out before, as proot's own exit codes do not tell."""
    environment = environment_of(spec, home)
    root = os.open(spec["tree"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    make_folder(spec["cwd"], uid, gid, root)
    name, code, why = spec["argv"][0], 127, "not found"
    candidates = [name] if "/" in name else [os.path.join(f or ".", name) for f in environment.get("PATH", os.defpath).split(":")]
    for path in candidates:
        try:
            found = os.fstat(kernel.open_in_root(root, os.path.join(spec["cwd"], path), os.O_PATH))
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o111:
            code = 0
            break
        code, why = 126, "Permission denied"
    try:
        if not stat.S_ISDIR(os.fstat(kernel.open_in_root(root, spec["cwd"], os.O_PATH)).st_mode):
            raise NotADirectoryError
    except OSError:
        code, why = 126, "cannot enter the working directory " + spec["cwd"]
    if code:
        os.close(keep)
        raise CannotExecute(code, "exec %s: %s" % (name, why))
    who = ["-0"] if uid == 0 and gid == 0 else ["-i", "%d:%d" % (uid, gid)]
    binds = [word for place in ("/dev", "/proc", "/sys") for word in ("-b", place)]
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execve(program, [program, *who, "-r", spec["tree"], "-w", spec["cwd"], *binds, *spec["argv"]], environment)


def become(uid, gid):
    """Where one id is mapped: be this user in a namespace of its own, whose only id is again ours. No supplementary groups."""
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", "%d 0 1" % uid), ("gid_map", "%d 0 1" % gid)):
        descriptor = os.open("/proc/self/" + name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def tell(teller, message, listener=None):
    """Hand the listener over, before any call that it hears of; or say who the workload is."""
    with socket.socket(fileno=teller) as connection:
        rights = [] if listener is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", listener))]
        connection.sendmsg([message], rights)
    if listener is not None:
        os.close(listener)


def execute(argv, environment, keep):
    name = argv[0]
    candidates = [name]
    if "/" not in name:
        candidates = [os.path.join(folder or ".", name) for folder in environment.get("PATH", os.defpath).split(":")]
    code, why = 127, "not found"
    for path in candidates:
        try:
            os.execve(path, argv, environment)
        except FileNotFoundError:
            if os.path.exists(path):
                code, why = 127, "its interpreter is not in the image"
        except NotADirectoryError:
            continue
        except OSError as error:
            code, why = 126, error.strerror
    os.close(keep)
    raise CannotExecute(code, "exec %s: %s" % (name, why))


def drop_bounding(kept):
    for number in range(64):
        if not kept >> number & 1:
            try:
                kernel.prctl(kernel.PR_CAPBSET_DROP, number)
            except OSError:
                break


def set_capabilities(mask):
    try:
        kernel.prctl(kernel.PR_CAP_AMBIENT, 4)  # clear all
    except OSError:
        pass
    header = struct.pack("Ii", 0x20080522, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("6I", low, low, 0, high, high, 0)
    kernel.call(kernel.NUMBERS["capset"], ctypes.c_char_p(header), ctypes.c_char_p(data))


def identity(user, root=None):
    """(uid, gid, supplementary groups, home) of `USER`, from the image's own passwd and group (docker's rules)."""
    name, colon, group = user.partition(":")
    passwd = [row for row in rows("/etc/passwd", root) if len(row) >= 7]
    groups = [row for row in rows("/etc/group", root) if len(row) >= 4]
    wanted = name or "0"
    found = None
    for row in passwd:
        if row[0] == wanted or (wanted.isdigit() and row[2] == wanted):
            found = row
            break
    if found is None and not wanted.isdigit():
        raise ValueError("the image has no user %r in /etc/passwd" % wanted)
    uid = int(found[2]) if found else int(wanted)
    gid = int(found[3]) if found else 0
    home = (found[5] if found else "") or "/"
    more = []
    if colon and group:
        if group.isdigit():
            gid = int(group)
        else:
            named = [row for row in groups if row[0] == group]
            if not named:
                raise ValueError("the image has no group %r in /etc/group" % group)
            gid = int(named[0][2])
    elif found is not None:
        more = [int(row[2]) for row in groups if found[0] in row[3].split(",") and row[2].isdigit()]
    return uid, gid, sorted(set(more) | {gid}), home


def rows(path, root=None):
    """Fields of the lines of a small regular file of the image; its root is ours, or an open folder."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC) if root is None else kernel.open_in_root(root, path, flags)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        text = os.read(descriptor, 1 << 20).decode("utf-8", "surrogateescape")
    finally:
        os.close(descriptor)
    return [line.split(":") for line in text.split("\n") if line and not line.startswith("#")]
