"""Owners where only one id is mapped: answers chown and mknod for the workload, which the kernel would refuse. Stands alone.

The workload's filter sends those calls here (seccomp user notification). The file is found as the caller would find it; the owner is kept in
`user.lamina.owner` on files and folders, which follows them through copy-up and rename. What takes no attribute (links, pipes) and devices
(an empty file stands for one) are remembered by their inode in the upper, held open so that the number is not used again.
"""

import errno
import fcntl
import os
import resource
import stat
import struct

import kernel
import seccomp

RECEIVE, SEND, STILL_VALID = 0xC0502100, 0xC0182101, 0x40082102
CONTINUE = 1
OWNER = "user.lamina.owner"
UNCHANGED = 0xFFFFFFFF
AT_FDCWD, AT_SYMLINK_NOFOLLOW = 0xFFFFFF9C, 0x100
PAGE = 4096


class Supervisor:
    """One run's. `answer` when the listener is readable, `found` at the end. One thread; changes its root for an instant."""

    def __init__(self, listener, upper):
        self.listener = listener
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.calls = {number: name for name, number in seccomp.notified(kernel.MACHINE).items()}
        self.home = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.upper = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.owners = {}  # (device, inode) in the upper -> (descriptor, uid, gid)
        self.devices = {}  # the same -> (descriptor, "c" or "b", major, minor)

    def answer(self):
        """Take one call and answer it; False when nobody is left to ask."""
        request = bytearray(80)
        try:
            fcntl.ioctl(self.listener, RECEIVE, request, True)
        except OSError as error:
            return error.errno in (errno.EINTR, errno.ENOENT)
        number, pid, _, call, _, _, *arguments = struct.unpack("=QIIiIQ6Q", request)
        flags = result = 0
        try:
            result = self._perform(number, pid, self.calls.get(call, ""), arguments)
        except OSError as error:
            result = error.errno or errno.EPERM
        if result is None:  # the kernel may do it, or find the error itself
            flags, result = CONTINUE, 0
        try:
            fcntl.ioctl(self.listener, SEND, struct.pack("=QqiI", number, 0, -result, flags))
        except OSError:
            pass  # the caller was killed meanwhile
        return True

    def _perform(self, number, pid, name, arguments):
        """0 for done, an errno, None for the kernel."""
        first, second, third, fourth, fifth = arguments[:5]
        if name in ("mknod", "mknodat"):
            base, path, mode, device = (AT_FDCWD, first, second, third) if name == "mknod" else (first, second, third, fourth)
            if stat.S_IFMT(mode & 0xFFFF) not in (stat.S_IFCHR, stat.S_IFBLK) or not device & 0xFFFFFFFF:
                return None
            return self._device(number, pid, base, self._text(pid, path), mode & 0xFFFF, device & 0xFFFFFFFF)
        try:
            if name == "fchown":
                target, uid, gid = self._held(pid, first), second, third
            elif name == "fchownat":
                text, uid, gid = self._text(pid, second), third, fourth
                if not text and fifth & kernel.AT_EMPTY_PATH:
                    target = self._held(pid, first)
                else:
                    target = self._find(pid, first, text, not fifth & AT_SYMLINK_NOFOLLOW)
            else:
                target, uid, gid = self._find(pid, AT_FDCWD, self._text(pid, first), name == "chown"), second, third
        except OSError:
            return None
        try:
            if not self._valid(number):
                return errno.EINTR
            return self._own(target, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF)
        finally:
            os.close(target)

    def _own(self, target, uid, gid):
        # A true chown to what we are: copies up, takes setuid bits and capabilities away, as the one that was asked for would.
        kernel.call(kernel.FCHOWNAT, target, b"", 0, 0, kernel.AT_EMPTY_PATH)
        place = "/proc/self/fd/%d" % target
        found = os.fstat(target)
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            before = b""
            if UNCHANGED in (uid, gid):
                try:
                    before = os.getxattr(place, OWNER)
                except OSError:
                    pass
            uid, gid = merged(uid, gid, before)
            try:
                os.setxattr(place, OWNER, b"%d:%d" % (uid, gid))
                return 0
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
        inside = self._inside(target)
        if inside is None:
            return 0  # not part of the layer
        key = _key(inside)
        known = self.owners.pop(key, None)
        if known is not None:
            os.close(known[0])
        if known is not None:
            uid, gid = (old if new == UNCHANGED else new for new, old in zip((uid, gid), known[1:], strict=True))
        self.owners[key] = (inside, uid, gid)  # a half that is UNCHANGED still may come from a lower layer
        return 0

    def _device(self, number, pid, base, text, mode, device):
        folder, _, name = text.rstrip(b"/").rpartition(b"/")
        if folder or text.startswith(b"/"):
            parent = self._find(pid, base, folder or b"/", True)
        else:
            parent = self._find(pid, base, b".", True)
        try:
            if not self._valid(number):
                return errno.EINTR
            made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                os.fchmod(made, mode & 0o7777 & ~_umask(pid))
                inside = self._inside(made)
            finally:
                os.close(made)
        finally:
            os.close(parent)
        if inside is not None:
            kind = "c" if stat.S_ISCHR(mode) else "b"
            self.devices[_key(inside)] = (inside, kind, os.major(device), os.minor(device))
        return 0

    def _inside(self, descriptor):
        """The same file in the upper, open; None when it is not there."""
        try:
            path = os.readlink(b"/proc/self/fd/%d" % descriptor)
            return kernel.open_in_root(self.upper, path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return None

    def _held(self, pid, number):
        return os.open("/proc/%d/fd/%d" % (pid, number & 0xFFFFFFFF), os.O_PATH | os.O_CLOEXEC)

    def _find(self, pid, base, text, follow):
        """Open what `text` names for the caller: its root and its folder are ours for the look-up. Nothing else may happen meanwhile."""
        base &= 0xFFFFFFFF
        start = -1
        if not text.startswith(b"/"):
            place = "/proc/%d/cwd" % pid if base == AT_FDCWD else "/proc/%d/fd/%d" % (pid, base)
            start = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        try:
            os.chroot("/proc/%d/root" % pid)
            try:
                if start >= 0:
                    os.fchdir(start)
                return os.open(text, flags)
            finally:
                os.fchdir(self.home)
                os.chroot(".")
        finally:
            if start >= 0:
                os.close(start)

    def _text(self, pid, address):
        """The zero-terminated bytes at an address of the caller."""
        parts = []
        memory = os.open("/proc/%d/mem" % pid, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while len(parts) < 3:
                data = os.pread(memory, PAGE - address % PAGE, address)
                text, end, _ = data.partition(b"\0")
                parts.append(text)
                if end:
                    return b"".join(parts)
                address += len(data)
                if not data:
                    break
        finally:
            os.close(memory)
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    def _valid(self, number):
        """Whether the caller still waits: its pid may belong to another by now."""
        try:
            fcntl.ioctl(self.listener, STILL_VALID, struct.pack("=Q", number))
        except OSError:
            return False
        return True

    def found(self, upper):
        """What is remembered by inode, as paths in the upper: {"owners": [[path, uid, gid]], "devices": [[path, kind, major, minor]]}."""
        owners, devices = [], []
        if self.owners or self.devices:
            for folder, folders, names in os.walk(upper):  # links to folders stand among the folders
                for name in (*names, *folders):
                    path = os.path.join(folder, name)
                    found = os.lstat(path)
                    key = (found.st_dev, found.st_ino)
                    inside = os.path.relpath(path, upper)
                    if key in self.owners:
                        owners.append([inside, *self.owners[key][1:]])
                    if key in self.devices and stat.S_ISREG(found.st_mode):
                        devices.append([inside, *self.devices[key][1:]])
        return {"owners": owners, "devices": devices}


def merged(uid, gid, before):
    """The new owner where one half may stay as it was."""
    old_uid, _, old_gid = before.partition(b":")
    if uid == UNCHANGED:
        uid = int(old_uid) if old_uid.isdigit() else 0
    if gid == UNCHANGED:
        gid = int(old_gid) if old_gid.isdigit() else 0
    return uid, gid


def _key(descriptor):
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _umask(pid):
    with open("/proc/%d/status" % pid) as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
