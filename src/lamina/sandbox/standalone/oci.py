"""One run by an installed OCI runtime (runc, crun): we mount the root in namespaces of our own, the runtime does the rest. Stands alone.

Its configuration lies on the tmpfs of injected files, as the environment may hold secrets; its state too, so that nothing of it stays.
"""

import json
import os
import signal
import stat
import time

import kernel
import limits
import rootfs
import seccomp
import workload

NUMBERS = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
    "LINUX_IMMUTABLE": 9, "NET_BIND_SERVICE": 10, "NET_BROADCAST": 11, "NET_ADMIN": 12, "NET_RAW": 13, "IPC_LOCK": 14, "IPC_OWNER": 15,
    "SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_CHROOT": 18, "SYS_PTRACE": 19, "SYS_PACCT": 20, "SYS_ADMIN": 21, "SYS_BOOT": 22, "SYS_NICE": 23,
    "SYS_RESOURCE": 24, "SYS_TIME": 25, "SYS_TTY_CONFIG": 26, "MKNOD": 27, "LEASE": 28, "AUDIT_WRITE": 29, "AUDIT_CONTROL": 30, "SETFCAP": 31,
    "MAC_OVERRIDE": 32, "MAC_ADMIN": 33, "SYSLOG": 34, "WAKE_ALARM": 35, "BLOCK_SUSPEND": 36,
}  # fmt: skip
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def start(spec, out, err, write_error, made):
    """Never returns. Runs as PID 1 of namespaces that hold the runtime and all below it."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_SLAVE)
    plain = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "/proc", "proc", plain)
    own_cgroups()
    scratch = spec["scratch"]
    root, stub, injected = (os.path.join(scratch, name) for name in ("m", "stub", "inject"))
    for folder in (root, stub, injected):
        os.makedirs(folder, exist_ok=True)
    kernel.mount("tmpfs", injected, "tmpfs", plain, "mode=0700")
    files = rootfs.inject(spec, injected)
    rootfs.make_stub(spec, stub, files)
    kernel.overlay(root, [*spec["lowers"], stub], spec["upper"], spec["work"], spec["userxattr"])
    mounts = [*system(spec), *submounts(spec, scratch)]
    mounts += [bind(item["source"], item["target"], item["readonly"]) for item in spec["binds"]]
    for item in spec["tmpfs"]:
        size = ["size=%d" % item["size"]] if item["size"] else []
        mounts.append(mount(item["target"], "tmpfs", "tmpfs", ["nosuid", "nodev", "mode=%o" % item["mode"], *size]))
    mounts += [bind(source, target, False) for source, target in files]
    make_points(root, spec, mounts, made)
    bundle = os.path.join(injected, "bundle")
    os.mkdir(bundle)
    who = workload.identity(spec["user"], handle_of(root))
    workload.make_folder(spec["cwd"], who[0], who[1], handle_of(root))
    config = configuration(spec, root, who, mounts)
    with open(os.path.join(bundle, "config.json"), "w") as file:
        json.dump(config, file)
    null = os.open("/dev/null", os.O_RDONLY)
    for number, descriptor in enumerate((null, out, err)):
        os.dup2(descriptor, number)
    spec["error_fd"] = os.dup2(write_error, 3, inheritable=False)
    os.closerange(4, 1 << 16)
    try:
        folder = os.fstat(kernel.open_in_root(handle_of(root), spec["cwd"], os.O_PATH))
    except OSError as error:
        raise workload.CannotExecute(126, "cannot enter the working directory %s: %s" % (spec["cwd"], error.strerror)) from None
    if not stat.S_ISDIR(folder.st_mode):
        raise workload.CannotExecute(126, "cannot enter the working directory %s: it is no folder" % spec["cwd"])
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    program = spec["oci"]
    options = ["--root", os.path.join(injected, "state"), "--log", log_of(spec), "--log-format", "json"]
    if os.path.basename(program) == "crun":
        options.append("--cgroup-manager=disabled")
    name = "lamina-run-" + os.path.basename(os.path.dirname(scratch + "/")) + "-%d" % os.stat(spec["upper"]).st_ino
    os.execve(program, [program, *options, "run", "--bundle", bundle, name], {"PATH": os.defpath})


def handle_of(root):
    return os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def own_cgroups():
    """Control groups as seen from ours: what the runtime makes lies below it, so limits hold and nothing of it is seen elsewhere.

    Without version 2 beside version 1, which crun refuses.
    """
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split(" - ") for line in file]
    first = [(left.split(" ")[4], right.split(" ")) for left, right in mounts if right.startswith("cgroup ")]
    try:
        kernel.unshare(kernel.CLONE_NEWCGROUP)
        if not first:
            kernel.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
            return
        kernel.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, "mode=755")
        for place, (_, _, options) in first:
            os.makedirs(place, exist_ok=True)
            names = ",".join(word for word in options.strip().split(",") if word not in ("rw", "ro", "xattr"))
            kernel.mount("cgroup", place, "cgroup", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, names)
    except OSError as error:
        raise OSError(error.errno, "control groups for the runtime: " + os.strerror(error.errno)) from error


def log_of(spec):
    return os.path.join(spec["scratch"], "oci.log")


def mount(target, kind, source, options):
    return {"destination": target, "type": kind, "source": source, "options": options}


def bind(source, target, readonly):
    return mount(target, "bind", source, ["rbind", "rprivate", "ro" if readonly else "rw"])


def system(spec):
    plain = ["nosuid", "noexec", "nodev"]
    return [
        mount("/proc", "proc", "proc", plain),
        mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/shm", "tmpfs", "shm", [*plain, "mode=1777", "size=%d" % spec["shm_size"]]),
        mount("/dev/mqueue", "mqueue", "mqueue", plain),
        mount("/sys", "sysfs", "sysfs", [*plain, "ro"]),
    ]


def submounts(spec, scratch):
    """Overlays of their own, mounted here; a part of each is bound."""
    found = []
    for number, item in enumerate(spec["submounts"]):
        base = os.path.join(scratch, "sub%d" % number)
        mounted, empty, shown = base + ".m", base + ".empty", base + ".shown"
        os.makedirs(mounted)
        os.makedirs(empty)
        kernel.overlay(mounted, [*item["lowers"], empty], item["upper"], item["work"], spec["userxattr"])
        root = os.open(mounted, os.O_PATH | os.O_DIRECTORY)
        selected = kernel.open_in_root(root, item["selector"], os.O_PATH)
        if os.path.isdir("/proc/self/fd/%d" % selected):
            os.makedirs(shown)
        else:
            os.close(os.open(shown, os.O_CREAT | os.O_WRONLY, 0o600))
        kernel.mount("/proc/self/fd/%d" % selected, shown, None, kernel.MS_BIND)
        found.append(bind(shown, item["target"], item["readonly"]))
    return found


def make_points(root, spec, mounts, made):
    """Mount points that neither the image nor the stub has, so that they are taken away again."""
    place = rootfs.Places(root, spec["upper"])
    for item in mounts:
        if item["destination"].startswith("/dev/"):
            continue
        if item["type"] == "bind" and not os.path.isdir(item["source"]):
            place.file(item["destination"])
        else:
            place.folder(item["destination"])
        place.done()
    if place.made:
        with open(made, "w") as file:
            json.dump(place.made, file)
    place.close()


def configuration(spec, root, identity, mounts):
    uid, gid, groups, home = identity
    environment = workload.environment_of(spec, home)
    names = capabilities(spec["insecure"])
    held = names if uid == 0 else []
    namespaces = ["pid", "ipc", "uts", "mount"] + (["network"] if spec["network"] == "none" else [])
    linux = {
        "namespaces": [{"type": kind} for kind in namespaces],
        "cgroupsPath": "/" + group_of(spec),
        "maskedPaths": ["/" + path for path in rootfs.MASKED],
        "readonlyPaths": [] if spec["insecure"] else ["/" + path for path in rootfs.READONLY],
    }
    if os.path.basename(spec["oci"]) == "runc":
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    if not spec["insecure"] and kernel.MACHINE in ARCHITECTURES:
        linux["seccomp"] = filter_of()
    return {
        "ociVersion": "1.0.2",
        "hostname": spec["hostname"],
        "root": {"path": root},
        "process": {
            "user": {"uid": uid, "gid": gid, "additionalGids": groups, "umask": 0o022},
            "args": spec["argv"],
            "env": ["%s=%s" % pair for pair in environment.items()],
            "cwd": spec["cwd"],
            "capabilities": {"bounding": names, "effective": held, "permitted": held, "inheritable": [], "ambient": []},
            "noNewPrivileges": False,
            "rlimits": [{"type": "RLIMIT_" + name.upper(), "soft": soft, "hard": hard} for name, soft, hard in spec["rlimits"]],
        },
        "mounts": mounts,
        "linux": linux,
    }


def capabilities(everything):
    """Docker's, or all that we may hand on."""
    mask = workload.DOCKER_CAPABILITIES
    if everything:
        with open("/proc/self/status") as status:
            mask = next(int(line.split()[1], 16) for line in status if line.startswith("CapBnd:"))
    return ["CAP_" + name for name, number in NUMBERS.items() if mask >> number & 1]


def filter_of():
    """Our own table in the runtimes' words."""

    def value(index, number, operation, mask=0):
        return {"index": index, "value": number, "valueTwo": mask, "op": operation}

    refused = {"action": "SCMP_ACT_ERRNO", "errnoRet": seccomp.EPERM}
    rules = [
        {"names": sorted(seccomp.numbers(seccomp.DENIED, kernel.MACHINE)), **refused},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": seccomp.ENOSYS},
        {"names": ["socket"], "args": [value(0, seccomp.AF_VSOCK, "SCMP_CMP_EQ")], **refused},
    ]
    for bit in range(32):
        if seccomp.NAMESPACES >> bit & 1:
            rules.append({"names": ["clone"], "args": [value(0, 1 << bit, "SCMP_CMP_MASKED_EQ", 1 << bit)], **refused})
    return {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [ARCHITECTURES[kernel.MACHINE]], "syscalls": rules}


def group_of(spec):
    return "lamina-oci-%d" % os.stat(spec["upper"]).st_ino


def clean(spec, own):
    """Groups of a runtime that was killed before it could remove them, below any of `own`."""
    for folder in own:
        place = os.path.join(folder, group_of(spec))
        for _ in range(100):
            try:
                limits.remove(place)
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.01)  # what was killed is still leaving


def outcome(spec, report):
    """The runtime's own failures as the workload's codes or a set-up error; they are told by its log, not by its exit code."""
    if "setup_error" in report or not report["exit_code"]:
        return report
    message = ""
    try:
        with open(log_of(spec)) as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if entry.get("level") in ("error", "fatal"):
                    message = message or entry.get("msg", "")
    except OSError:
        return report
    if not message:
        return report
    text = message.lower()
    folder = "chdir" in text or "cwd" in text
    for code, words in ((127, ("not found", "no such file")), (126, ("permission denied", "exec format", "is a directory"))):
        if any(word in text for word in words) and ("exec" in text or folder):
            return {**report, "exit_code": 126 if folder else code, "signal": None}
    return {"setup_error": message}
