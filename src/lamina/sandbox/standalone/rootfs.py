"""Builds the root of one run in a mount namespace of its own and enters it. Stands alone.

Mount points that the image lacks come from a stub, the lowest layer of the overlay, so that no byte of them reaches the upper; where the
image hides the stub they are made in the upper and taken away afterwards (`remove_made`).
"""

import errno
import fcntl
import json
import os
import socket
import stat
import struct

import kernel

MASKED = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "proc/scsi",
    "sys/firmware",
    "sys/devices/virtual/powercap",
]
READONLY = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"]
ALWAYS = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"]  # what a run sees ours of, whatever it asks for
DEVICES = ["null", "zero", "full", "random", "urandom", "tty"]


def build(spec, made, prepared=None):
    """After this the process is inside the image's root. `made`: host file that lists what had to be made in the upper. `prepared`: the injected
    files, where `prepare_by_fuse` has mounted already what we have a copy of."""
    own_mounts()
    scratch = spec["scratch"]
    root = os.path.join(scratch, "m")
    if not spec["shared_pids"]:
        new_proc()  # before the overlay: its work folder serves for one mount only
    if prepared is None:
        files, stub = prepare(spec)
        kernel.overlay(root, [*spec["lowers"], stub], spec["upper"], spec["work"], spec["userxattr"])
    else:
        files = prepared
    place = Places(root, spec["upper"])
    if spec["network"] == "none" and not spec.get("network_of"):
        bring_lo_up()
    system(place, spec)
    for number, item in enumerate(spec["submounts"]):
        submount(place, spec, item, os.path.join(scratch, "sub%d" % number))
    for item in spec["binds"]:
        bind(place, item["source"], item["target"], item["readonly"], item.get("below", ""))
    for item in spec["tmpfs"]:
        target = place.folder(item["target"])
        data = "mode=%o" % item["mode"] + (",size=%d" % item["size"] if item["size"] else "")
        kernel.mount("tmpfs", target, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, data)
        place.done()
    for source, target in files:
        bind(place, source, target, False)
    if place.made:
        with open(made, "w") as file:
            json.dump(place.made, file)
    os.chdir(root)
    place.close()
    enter()
    mask(spec)


def own_mounts():
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_SLAVE)


def prepare(spec):
    """(injected files with their targets, the stub); the root's mount point is made."""
    scratch = spec["scratch"]
    injected = os.path.join(scratch, "inject")
    for folder in (os.path.join(scratch, "m"), injected):
        os.makedirs(folder, exist_ok=True)
    kernel.mount("tmpfs", injected, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, "mode=0700")
    files = inject(spec, injected)
    return files, find_stub(spec, os.path.join(scratch, "stub"), files)


def prepare_by_fuse(spec, mounts):
    """In the helper, before any other namespace is made: its mount namespace gets all overlays of the run. -> the injected files."""
    own_mounts()
    scratch = spec["scratch"]
    files, stub = prepare(spec)
    mounts.add(os.path.join(scratch, "m"), [*spec["lowers"], stub], spec["upper"], spec["work"])
    for number, item in enumerate(spec["submounts"]):
        mounted, empty = submount_folders(os.path.join(scratch, "sub%d" % number))
        mounts.add(mounted, [*item["lowers"], empty], item["upper"], item["work"])
    return files


def submount_folders(scratch):
    mounted, empty = scratch + ".m", scratch + ".empty"
    os.makedirs(mounted, exist_ok=True)
    os.makedirs(empty, exist_ok=True)
    return mounted, empty


def new_proc():
    """Over the old one, in this namespace only; `system` shows it in the new root. Taking one away again would cost more than all else here."""
    try:
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    except PermissionError:
        raise ProcRefused("no new /proc is given here") from None


def enter():
    try:
        kernel.pivot_root(".", ".")
        kernel.umount(".", kernel.MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        kernel.mount(".", "/", None, kernel.MS_MOVE)
        os.chroot(".")
    os.chdir("/")


def inject(spec, folder):
    """(host file, target) of what is shown from a tmpfs: resolv.conf, hosts, hostname, secrets."""
    found = []

    def add(name, data, target, mode=0o644, uid=0, gid=0):
        path = os.path.join(folder, name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, data)
        os.fchmod(descriptor, mode)
        if uid or gid:
            os.fchown(descriptor, uid, gid)
        os.close(descriptor)
        found.append((path, target))

    texts = (spec["resolv_conf"], spec["hosts_file"], spec["hostname"] + "\n")
    for text, target in zip(texts, ALWAYS):
        add(os.path.basename(target), text.encode(), target)
    if spec["single"] and any(os.path.isdir(os.path.join(lower, "etc/apt/apt.conf.d")) for lower in spec["lowers"]):
        # apt looks whether it has become its own user; here there is no other to become
        add("apt", b'APT::Sandbox::User "root";\n', "/etc/apt/apt.conf.d/zz-single-id")
    for number, secret in enumerate(spec["secrets"]):
        add("secret%d" % number, bytes.fromhex(secret["data"]), secret["target"], secret["mode"], secret["uid"], secret["gid"])
    return found


def find_stub(spec, own, files):
    """The stub's folder: the one that runs without mounts of their own share, where the spec names a place for it, else `own`."""
    shared = spec.get("stub")
    if not shared or spec["tmpfs"] or spec["binds"] or spec["submounts"] or [target for _, target in files] != ALWAYS:
        make_stub(spec, own, files)
        return own
    if os.path.isdir(shared):
        return shared
    make_stub(spec, own, files)
    try:
        os.makedirs(os.path.dirname(shared), exist_ok=True)
        os.rename(own, shared)
    except OSError:  # another run was first
        return shared if os.path.isdir(shared) else own
    return shared


def make_stub(spec, stub, files):
    folders = ["proc", "sys", "dev"]
    folders += [item["target"] for item in spec["tmpfs"]]
    names = [target for _, target in files]
    for item in (*spec["binds"], *spec["submounts"]):
        (names if item["is_file"] else folders).append(item["target"])
    for folder in folders:
        os.makedirs(os.path.join(stub, os.path.normpath("/" + folder).lstrip("/")), mode=0o755, exist_ok=True)
    for name in names:
        path = os.path.join(stub, os.path.normpath("/" + name).lstrip("/"))
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        if not os.path.lexists(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


class ProcRefused(Exception):
    """The kernel gives no new /proc where parts of the old one are masked (inside a container)."""


class Places:
    """Mount points below the new root, found without ever following a link out of it; used as /proc/self/fd/N."""

    def __init__(self, root, upper):
        self.root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.upper = upper
        self.made = []
        self.open = []

    def close(self):
        self.done()
        os.close(self.root)

    def done(self):
        """Mount points that were handed out are not needed any more."""
        for descriptor in self.open:
            os.close(descriptor)
        self.open.clear()

    def _path(self, descriptor):
        self.open.append(descriptor)
        return "/proc/self/fd/%d" % descriptor

    def folder(self, target):
        return self._path(self._open(target, True))

    def file(self, target):
        return self._path(self._open(target, False))

    def _open(self, target, folder):
        try:
            descriptor = kernel.open_in_root(self.root, target, os.O_PATH)
        except FileNotFoundError:
            descriptor = self._make(target, folder)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) != folder:
            raise OSError(errno.ENOTDIR if folder else errno.EISDIR, "the mount point %s is %s folder" % (target, "no" if folder else "a"))
        return descriptor

    def _make(self, target, folder):
        """Make what is missing of the path, name by name below descriptors; links to nothing are followed inside the root."""
        todo = [part for part in reversed(target.split("/")) if part not in ("", ".")]
        done = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            parent = kernel.open_in_root(self.root, "/" + "/".join(done), os.O_PATH)
            try:
                try:
                    found = os.lstat(part, dir_fd=parent)
                except FileNotFoundError:
                    self._create(parent, done, part, folder or bool(todo))
                    found = os.lstat(part, dir_fd=parent)
                if stat.S_ISLNK(found.st_mode):
                    links += 1
                    if links > 40:
                        raise OSError(errno.ELOOP, "too many links in the mount point " + target)
                    text = os.readlink(part, dir_fd=parent)
                    if text.startswith("/"):
                        done = []
                    todo.extend(piece for piece in reversed(text.split("/")) if piece not in ("", "."))
                else:
                    done.append(part)
            finally:
                os.close(parent)
        return kernel.open_in_root(self.root, "/" + "/".join(done), os.O_PATH)

    def _create(self, parent, above, name, folder):
        before = os.fstat(parent).st_mtime_ns
        if folder:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=parent))
        self.made.append(["/".join([*above, name]), before])


def remove_made(upper, made):
    """Take away mount points that were made in the upper, if nothing was put there; folders get their old times back."""
    try:
        with open(made) as file:
            items = json.load(file)
    except (OSError, ValueError):
        return
    for path, before in reversed(items):
        full = os.path.join(upper, path)
        try:
            if os.path.isdir(full) and not os.path.islink(full):
                os.rmdir(full)
            elif os.path.getsize(full) == 0:
                os.unlink(full)
            os.utime(os.path.dirname(full), ns=(before, before))
        except OSError:
            continue


def system(place, spec):
    """/proc, /dev and /sys."""
    plain = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    # without process ids of its own: the host's, with what is mounted below it
    kernel.mount("/proc", place.folder("/proc"), None, kernel.MS_BIND | (kernel.MS_REC if spec["shared_pids"] else 0))
    place.done()
    dev = place.folder("/dev")
    kernel.mount("tmpfs", dev, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755,size=65536k")
    place.done()
    dev = place.folder("/dev")
    for name in DEVICES:
        os.close(os.open(dev + "/" + name, os.O_WRONLY | os.O_CREAT, 0o666))
        kernel.mount("/dev/" + name, dev + "/" + name, None, kernel.MS_BIND)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        os.symlink(target, dev + "/" + name)
    os.symlink("pts/ptmx", dev + "/ptmx")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(dev + "/" + name, 0o755)
    try:
        kernel.mount("devpts", dev + "/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    except OSError:
        kernel.mount("devpts", dev + "/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    kernel.mount("shm", dev + "/shm", "tmpfs", plain, "mode=1777,size=%d" % spec["shm_size"])
    try:
        kernel.mount("mqueue", dev + "/mqueue", "mqueue", plain)
    except OSError:
        pass  # a kernel without POSIX queues
    place.done()
    sysfs = place.folder("/sys")
    try:
        kernel.mount("sysfs", sysfs, "sysfs", plain | kernel.MS_RDONLY)
    except OSError:
        # without owning the network namespace: the host's, read-only all through
        kernel.mount("/sys", sysfs, None, kernel.MS_BIND | kernel.MS_REC)
        place.done()
        kernel.mount_setattr(place.folder("/sys"), kernel.MOUNT_ATTR_RDONLY, recursive=True)
    place.done()


def mask(spec):
    """Inside the new root: hide what tells too much, protect what steers the kernel."""
    for path in MASKED:
        try:
            if os.path.isdir(path):
                kernel.mount("tmpfs", path, "tmpfs", kernel.MS_RDONLY)
            elif os.path.exists(path):
                kernel.mount("dev/null", path, None, kernel.MS_BIND)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EACCES):
                raise
    if spec["insecure"]:
        return
    for path in READONLY:
        if os.path.exists(path):
            kernel.mount(path, path, None, kernel.MS_BIND | kernel.MS_REC)
            kernel.mount_setattr(path, kernel.MOUNT_ATTR_RDONLY, recursive=True)


def bind(place, source, target, readonly, below=""):
    if below:
        root = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            selected = kernel.open_in_root(root, below, os.O_PATH)
        finally:
            os.close(root)
        try:
            bind(place, "/proc/self/fd/%d" % selected, target, readonly)
        finally:
            os.close(selected)
        return
    is_folder = os.path.isdir(source)
    point = place.folder(target) if is_folder else place.file(target)
    kernel.mount(source, point, None, kernel.MS_BIND | kernel.MS_REC)
    place.done()
    if readonly:
        kernel.mount_setattr(place.folder(target) if is_folder else place.file(target), kernel.MOUNT_ATTR_RDONLY, recursive=True)
        place.done()


def submount(place, spec, item, scratch):
    """An overlay of its own, a part of which is shown at a target."""
    mounted, empty = submount_folders(scratch)
    if not spec.get("fuse"):
        kernel.overlay(mounted, [*item["lowers"], empty], item["upper"], item["work"], spec["userxattr"])
    root = os.open(mounted, os.O_PATH | os.O_DIRECTORY)
    try:
        selected = kernel.open_in_root(root, item["selector"], os.O_PATH)
    except FileNotFoundError:
        raise OSError(errno.ENOENT, "the mount source %s is not there" % item["selector"]) from None
    is_folder = stat.S_ISDIR(os.fstat(selected).st_mode)
    point = place.folder(item["target"]) if is_folder else place.file(item["target"])
    kernel.mount("/proc/self/fd/%d" % selected, point, None, kernel.MS_BIND)
    os.close(selected)
    os.close(root)
    place.done()
    if item["readonly"]:
        kernel.mount_setattr(
            place.folder(item["target"]) if is_folder else place.file(item["target"]), kernel.MOUNT_ATTR_RDONLY, recursive=True
        )
        place.done()


def bring_lo_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(probe, 0x8913, request))[1]
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))
