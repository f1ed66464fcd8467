"""One run, from its spec to its report. Stands alone. Lives in the host's mount namespace; PID 1 of the run's namespaces is its child."""

import json
import os
import signal
import socket

import first
import kernel
import limits
import rootfs
from watching import Watch
from wire import answer, read_spec


def begin():
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()


def run(out, err, run_socket):
    """A run that no spare helper took. What is raised is a bug."""
    begin()
    connection = socket.socket(fileno=run_socket)
    _, body = read_spec(connection)
    spec = json.loads(body)
    read_error, write_error = os.pipe2(os.O_CLOEXEC)
    group = limits.Group(spec["limits"])
    mounts = prepared = None
    if spec.get("fuse"):
        import fuse  # seldom needed, and nothing of the image is in sight yet

        mounts = fuse.Mounts(spec["fuse"])
        try:
            prepared = rootfs.prepare_by_fuse(spec, mounts)
        except (OSError, fuse.Failed) as error:
            mounts.end()
            group.close()
            answer(connection, {"setup_error": "mounts: %s" % (getattr(error, "strerror", None) or error)})
            return
    if spec["tree"] is None and not isolate(spec, connection):
        if mounts is not None:
            mounts.end()
        group.close()
        return
    if shares_processes(spec):
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    heard = teller = None
    if spec["single"]:
        heard, teller = socket.socketpair()
    child = os.fork()
    if child == 0:
        connection.close()
        os.close(read_error)
        first.become(spec, out, err, write_error, made_list(spec), teller, group, prepared)
    if teller is not None:
        teller.close()
    os.close(write_error)
    follow(child, connection, spec, (read_error, out, err), group, heard, mounts)


def follow(child, connection, spec, descriptors, group, heard=None, mounts=None):
    """From the fork of PID 1 to the report. `descriptors`: (what set-up errors come from, the workload's stdout and stderr)."""
    read_error, out, err = descriptors
    os.close(out)
    os.close(err)
    spec["secrets"] = []
    report = Watch(child, read_error, connection, spec["timeout"], heard, spec["upper"]).report()
    if shares_processes(spec):
        end_descendants([child for child, _ in mounts.running] if mounts is not None else ())
    if spec["oci"]:
        import oci

        report = oci.outcome(spec, report)
        oci.clean(spec, group.own)
    killed = group.close()
    # Without a group of its own others may have been killed: then only what died by SIGKILL counts.
    report["oom"] = killed and (bool(report.get("exit_code")) if group.folders else report.get("exit_code") == 137)
    report["limited"] = group.how
    if mounts is not None:
        import fuse

        mounts.end()
        fuse.normalise(spec["upper"], spec["lowers"])
    if spec["tree"] is None:
        rootfs.remove_made(spec["upper"], made_list(spec))
    answer(connection, report)


def made_list(spec):
    """The host file that names what had to be made in the upper."""
    return os.path.join(spec["scratch"], "made")


def shares_processes(spec):
    return spec["tree"] is not None or spec["shared_pids"]


def isolate(spec, connection):
    """The next child is PID 1 of new namespaces. False: they were refused, and that is answered."""
    flags = kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    if not spec["shared_pids"]:
        flags |= kernel.CLONE_NEWPID
    if spec["network"] == "none" and not spec["network_of"]:
        flags |= kernel.CLONE_NEWNET
    refused = isolation_refused(flags, spec["network_of"])
    if refused is not None:
        answer(connection, {"setup_error": refused})
    return refused is None


def isolation_refused(flags, network_of=""):
    """Makes the namespaces; why they were refused, or None."""
    try:
        if network_of:
            joined = os.open(network_of, os.O_RDONLY | os.O_CLOEXEC)
            kernel.setns(joined, kernel.CLONE_NEWNET)
            os.close(joined)
        kernel.unshare(flags)
    except OSError as error:
        return "new namespaces: " + error.strerror
    try:
        kernel.unshare(kernel.CLONE_NEWCGROUP)
    except OSError:
        pass  # an old kernel; the cgroup file system is not shown anyway
    return None


def end_descendants(spared=()):
    """Without a pid namespace: what the workload left running comes to us, one generation after the other. `spared`: children of our own."""
    while True:
        found = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and parent_of(entry) == os.getpid()]
        found = [child for child in found if child not in spared]
        if not found:
            return
        for child in found:
            os.kill(child, signal.SIGKILL)
        for child in found:
            os.waitpid(child, 0)


def parent_of(process):
    try:
        with open("/proc/%s/stat" % process, "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
