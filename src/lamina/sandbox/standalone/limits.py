"""Memory, processors and processes of one run: a control group below our own (version 2, or 1 for each controller), else what rlimits can do.

Groups are only made where a limit was asked for. Stands alone.
"""

import errno
import os
import resource
import time

ROOT = ""  # tests put another root before every path
PERIOD = 100000  # microseconds of the processor quota


class Group:
    """Made before the fork; `join` in the child, `close` in the helper."""

    def __init__(self, wanted):
        """`wanted`: {"memory": bytes, "cpus": number, "pids": number}, 0 for none. `only_groups`: where none can be made there is no limit."""
        self.wanted = {name: value for name, value in wanted.items() if value and name != "only_groups"}
        self.folders = []
        self.counter, self.before = None, 0
        own = own_groups()  # before a namespace of control groups hides where we are
        self.own = {*own.values()}
        if not self.wanted:
            place = own.get("memory", own.get(""))
            if place is not None:
                self.counter = place
                self.before = kills(place)
            return
        try:
            self._make(own)
        except OSError:
            self._remove()
            self.folders = []
            if wanted.get("only_groups"):
                self.wanted = {}

    @property
    def how(self):
        """What limits the run: "", "cgroup" or "rlimit"."""
        return "" if not self.wanted else "cgroup" if self.folders else "rlimit"

    def _make(self, own):
        name = "lamina-%d-%d" % (os.getpid(), time.monotonic_ns())
        unified = own.get("")
        controllers = {"memory": "memory", "cpus": "cpu", "pids": "pids"}
        needed = [controllers[key] for key in self.wanted]
        if unified is not None and all(part in words(unified + "/cgroup.controllers") for part in needed):
            if not all(part in words(unified + "/cgroup.subtree_control") for part in needed):
                write(unified + "/cgroup.subtree_control", " ".join("+" + part for part in needed))
            folder = self._folder(unified, name)
            for key, value in self.wanted.items():
                if key == "memory":
                    write(folder + "/memory.max", value)
                    write_if_there(folder + "/memory.swap.max", 0)
                    self.counter = folder
                elif key == "cpus":
                    write(folder + "/cpu.max", "%d %d" % (value * PERIOD, PERIOD))
                else:
                    write(folder + "/pids.max", value)
            return
        for key, value in self.wanted.items():
            above = own.get(controllers[key])
            if above is None:
                raise OSError(errno.ENOENT, "no control group for " + key)
            folder = self._folder(above, name)
            if key == "memory":
                write(folder + "/memory.limit_in_bytes", value)
                write_if_there(folder + "/memory.memsw.limit_in_bytes", value)
                self.counter = folder
            elif key == "cpus":
                write(folder + "/cpu.cfs_period_us", PERIOD)
                write(folder + "/cpu.cfs_quota_us", int(value * PERIOD))
            else:
                write(folder + "/pids.max", value)

    def _folder(self, above, name):
        sweep(above)
        folder = above + "/" + name
        if folder not in self.folders:
            os.mkdir(folder)
            self.folders.append(folder)
        return folder

    def join(self):
        """In the child, before it does anything: from now on it and its children are limited."""
        for folder in self.folders:
            write(folder + "/cgroup.procs", 0)
        if self.how == "rlimit":
            if "memory" in self.wanted:
                lower(resource.RLIMIT_AS, self.wanted["memory"])
            if "cpus" in self.wanted:
                most = sorted(os.sched_getaffinity(0))
                os.sched_setaffinity(0, most[: max(1, int(self.wanted["cpus"]))])
            if "pids" in self.wanted:
                lower(resource.RLIMIT_NPROC, self.wanted["pids"])

    def count_again(self):
        """The run begins now."""
        if self.counter is not None:
            self.before = kills(self.counter)

    def starved(self):
        """Whether the kernel has killed something of the run for want of memory."""
        return self.counter is not None and kills(self.counter) > self.before

    def close(self):
        """The same at the end; the groups go."""
        killed = self.starved()
        self._remove()
        return killed

    def _remove(self):
        for folder in self.folders:
            for _ in range(500):
                try:
                    remove(folder)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)  # what was killed is still leaving


def remove(folder):
    """With the groups that a runtime made below it."""
    for inner in os.scandir(folder):
        if inner.is_dir(follow_symlinks=False):
            remove(inner.path)
    os.rmdir(folder)


def own_groups():
    """controller ("" for version 2) -> folder of the group that we are in. In a container the path is often that of its own mount."""
    paths = {}
    for line in lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    found = {}
    for line in lines("/proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        base, point = fields.split(" ")[3:5]
        for controller in [""] if kind == "cgroup2" else options.split(","):
            path = paths.get(controller)
            if path is None:
                continue
            inside = path[len(base) :] if base != "/" and (path + "/").startswith(base + "/") else path
            for folder in (ROOT + point + inside, ROOT + point):
                if os.path.isdir(folder):
                    found[controller] = folder.rstrip("/")
                    break
    return found


def kills(folder):
    """How often the kernel killed for want of memory there, or below (version 1 counts each group by itself)."""
    count = own_kills(folder)
    if count == 0 and os.path.exists(folder + "/memory.oom_control"):
        count = sum(own_kills(item.path) for item in os.scandir(folder) if item.is_dir(follow_symlinks=False))
    return count


def own_kills(folder):
    for name in ("memory.events", "memory.oom_control"):
        for line in lines(folder + "/" + name, ""):
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def sweep(above):
    """Groups of processes that were killed."""
    for name in os.listdir(above):
        parts = name.split("-")
        if len(parts) == 3 and parts[0] == "lamina" and parts[1].isdigit() and not os.path.exists("/proc/" + parts[1]):
            try:
                remove(above + "/" + name)
            except OSError:
                continue


def lower(kind, value):
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def words(path):
    return [word for line in lines(path, "") for word in line.split()]


def lines(path, root=None):
    try:
        with open((ROOT if root is None else root) + path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def write(path, value):
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def write_if_there(path, value):
    try:
        write(path, value)
    except OSError:
        pass
