"""Copies into and out of a container's root, from inside of it: links lead where they lead for the container. Stands alone.

Everything that is needed is imported before the root is entered; nothing is imported afterwards.
"""

import errno
import os
import posixpath
import stat
import sys
import tarfile

import kernel
import rootfs

PIECE = 1 << 18
GO_TYPES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: (1 << 26) | (1 << 21),
}


def serve(spec, stdin, out, answer):
    """`op` is stat, get or put. Answers {"stat": …} or {"failed": {"code": HTTP status, "message": …}}, then {"done": true}."""
    created = os.path.join(spec["scratch"], "made-copy")
    try:
        enter(spec, created)
        sys.path.clear()
        sys.meta_path.clear()
        if spec["op"] == "put":
            put(spec, stdin)
            answer({"done": True})
        else:
            found = describe(spec["path"])
            answer({"stat": found})
            if spec["op"] == "get":
                get(spec["path"], out)
                answer({"done": True})
    except Refused as error:
        answer({"failed": {"code": error.code, "message": str(error)}})
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        text = "Could not find the file %s" % spec["path"] if missing else "%s: %s" % (error.strerror, error.filename)
        answer({"failed": {"code": 404 if missing else 500, "message": text}})
    except (tarfile.TarError, ValueError, EOFError) as error:
        answer({"failed": {"code": 400, "message": "cannot unpack: %s" % error}})
    finally:
        if not spec["pid"]:
            os.fchdir(spec["old_root"])
            os.chroot(".")
            rootfs.remove_made(spec["upper"], created)


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def enter(spec, created):
    spec["old_root"] = os.open("/", os.O_PATH | os.O_DIRECTORY)
    if spec["pid"]:
        descriptor = os.open("/proc/%d/ns/mnt" % spec["pid"], os.O_RDONLY)
        kernel.setns(descriptor, kernel.CLONE_NEWNS)
        os.chdir("/")
        return
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_SLAVE)
    root, stub = (os.path.join(spec["scratch"], name) for name in ("m", "stub"))
    for folder in (root, stub):
        os.makedirs(folder, exist_ok=True)
    kernel.overlay(root, [*spec["lowers"], stub], spec["upper"], spec["work"], spec["userxattr"])
    place = rootfs.Places(root, spec["upper"])
    for item in spec["binds"]:
        rootfs.bind(place, item["source"], item["target"], item["readonly"])
    if place.made:
        import json

        with open(created, "w") as file:
            json.dump(place.made, file)
    place.close()
    os.chroot(root)
    os.chdir("/")


def clean(path):
    return posixpath.normpath("/" + path)


def describe(path):
    name = clean(path)
    found = os.stat(name) if path.endswith(("/", "/.")) else os.lstat(name)
    target = ""
    if stat.S_ISLNK(found.st_mode):
        target = os.path.realpath(name)
    mode = found.st_mode & 0o777 | GO_TYPES.get(stat.S_IFMT(found.st_mode), 0)
    for bit, go in ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20)):
        mode |= go if found.st_mode & bit else 0
    return {
        "name": posixpath.basename(name) or "/",
        "size": found.st_size,
        "mode": mode,
        "mtime": found.st_mtime_ns,
        "linkTarget": target,
        "uid": found.st_uid,
        "gid": found.st_gid,
    }


def get(path, out):
    name = clean(path)
    follow = path.endswith(("/", "/."))
    first = "." if name == "/" or path.endswith("/.") else posixpath.basename(name)
    with (
        os.fdopen(out, "wb", buffering=PIECE) as file,
        tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as tar,
    ):
        links = {}
        stack = [(name, first)]
        while stack:
            place, shown = stack.pop()
            found = os.stat(place) if follow and place == name else os.lstat(place)
            info = member(place, shown, found, links)
            if info is None:
                continue
            if info.isreg():
                with open(place, "rb") as source:
                    tar.addfile(info, Exactly(source))
            else:
                tar.addfile(info)
            if info.isdir():
                below = sorted(os.listdir(place), reverse=True)
                stack.extend((posixpath.join(place, item), posixpath.join(shown, item)) for item in below)


class Exactly:
    """A file that may shrink while it is read: the tar's member keeps its size."""

    def __init__(self, file):
        self.file = file

    def read(self, size):
        data = self.file.read(size)
        return data + bytes(size - len(data))


def member(place, shown, found, links):
    info = tarfile.TarInfo(shown)
    info.mode, info.uid, info.gid, info.mtime = found.st_mode & 0o7777, found.st_uid, found.st_gid, int(found.st_mtime)
    if stat.S_ISREG(found.st_mode):
        key = (found.st_dev, found.st_ino)
        if found.st_nlink > 1 and key in links:
            info.type, info.linkname = tarfile.LNKTYPE, links[key]
            return info
        links[key] = shown
        info.size = found.st_size
    elif stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(found.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(place)
    elif stat.S_ISFIFO(found.st_mode):
        info.type = tarfile.FIFOTYPE
    elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        info.type = tarfile.CHRTYPE if stat.S_ISCHR(found.st_mode) else tarfile.BLKTYPE
        info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
    else:
        return None
    return info


def put(spec, stdin):
    where = clean(spec["path"])
    try:
        if not stat.S_ISDIR(os.stat(where).st_mode):
            raise Refused(400, "extraction point is not a directory")
    except FileNotFoundError:
        raise Refused(404, "Could not find the file %s" % spec["path"]) from None
    times = []
    with os.fdopen(stdin, "rb", buffering=PIECE) as file:
        with tarfile.open(fileobj=file, mode="r|*", encoding="utf-8", errors="surrogateescape") as tar:
            for info in tar:
                parts = [part for part in info.name.split("/") if part not in ("", ".")]
                if ".." in parts:
                    raise Refused(400, "%s leads out of the folder" % info.name)
                if parts:
                    extract(tar, info, posixpath.join(where, *parts), spec, times)
        while file.read(PIECE):
            pass
    for path, mtime in reversed(times):
        os.utime(path, (mtime, mtime))


def extract(tar, info, place, spec, times):
    os.makedirs(posixpath.dirname(place), 0o755, exist_ok=True)
    try:
        there = os.lstat(place)
    except FileNotFoundError:
        there = None
    if there is not None:
        was_folder = stat.S_ISDIR(there.st_mode)
        if spec["keep_kind"] and was_folder != info.isdir():
            kind = "directory" if was_folder else "non-directory"
            raise Refused(400, "cannot overwrite %s %r with %s" % (kind, place, "non-directory" if was_folder else "directory"))
        if was_folder and not info.isdir():
            remove(place)
        elif not was_folder:
            os.unlink(place)
            there = None
    if info.isdir():
        if there is None:
            os.mkdir(place)
        times.append((place, info.mtime))
    elif info.isreg():
        with tar.extractfile(info) as source, open(place, "xb") as file:
            while True:
                piece = source.read(PIECE)
                if not piece:
                    break
                file.write(piece)
    elif info.issym():
        os.symlink(info.linkname, place)
    elif info.islnk():
        os.link(posixpath.join(clean(spec["path"]), *(p for p in info.linkname.split("/") if p not in ("", ".", ".."))), place)
        return
    elif info.isfifo():
        os.mkfifo(place)
    elif info.ischr() or info.isblk():
        os.mknod(place, (stat.S_IFCHR if info.ischr() else stat.S_IFBLK) | 0o600, os.makedev(info.devmajor, info.devminor))
    else:
        return
    try:
        os.lchown(place, info.uid, info.gid)
    except OSError:
        pass  # an id that is not mapped here
    if not info.issym():
        os.chmod(place, info.mode & 0o7777)
        if not info.isdir():
            os.utime(place, (info.mtime, info.mtime))


def remove(folder):
    for name in os.listdir(folder):
        path = posixpath.join(folder, name)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            remove(path)
        else:
            os.unlink(path)
    os.rmdir(folder)
