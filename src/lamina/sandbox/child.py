"""The zygote: a single-threaded process that forks one helper for each RUN and builds the sandbox around it.

Started by path (`python -I -S child.py FD`). Stands alone: standard library and ctypes only, nothing of lamina, and nothing is imported
or opened by name once the image is the root (a hostile image would be the one to answer). Siblings, loaded from the same folder before
that: kernel.py (system calls as data), seccomp.py (the filter), rootfs.py (mounts), workload.py (user, capabilities, exec).

Protocol. Control socket FD: a message of one byte with three descriptors (stdout, stderr, run socket) starts a run; EOF ends the zygote
and with it everything. The byte is b"R", or b"S" for a run that needs nothing special before its namespaces are made (see `Spare`). Run socket: 4-byte length + JSON spec from us, one line of JSON report back; meanwhile b"T" asks for SIGTERM,
b"K" for SIGKILL, EOF means that nobody waits any more: kill.
"""

import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)) + "/standalone")

import kernel
import limits
import owners
import rootfs
import seccomp
import workload

PROC_REFUSED = "mounts: no new /proc is given here"  # zygote.py then asks again with shared pids
GRACE = 0.5  # seconds between TERM and KILL


def serve(descriptor):
    control = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # helpers reap themselves
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: our side decides
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    spare = Spare(control)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 3)
        if not message:
            return
        if message == b"S" and spare.take(descriptors):
            close(descriptors)
            spare = Spare(control)
            continue
        child = os.fork()
        if child == 0:
            control.close()
            spare.close()
            code = 1
            try:
                helper(*descriptors)
                code = 0
            except BaseException:
                report_crash(descriptors[2], traceback.format_exc())
            finally:
                os._exit(code)
        close(descriptors)
        if spare.gone:
            spare = Spare(control)


def close(descriptors):
    for number in descriptors:
        os.close(number)


class Spare:
    """A helper that is forked before its run is known, with PID 1 of its namespaces waiting: a third of what a RUN costs has happened then,
    while the step before it ran. It begins nothing, holds nothing open of other runs, and dies with the zygote."""

    def __init__(self, control):
        self.ours, theirs = socket.socketpair()
        self.gone = False
        seccomp.code(kernel.MACHINE)  # inherited by every child
        try:
            child = os.fork()
        except OSError:  # too many processes: `take` says no
            child = None
        if child == 0:
            try:
                control.close()
                self.ours.close()
                wait_for_run(theirs)
            finally:
                os._exit(1)
        theirs.close()

    def take(self, descriptors):
        """Whether it took the run over; then another one is wanted."""
        try:
            socket.send_fds(self.ours, [b"R"], descriptors)
        except OSError:  # it was killed, or never began
            return False
        finally:
            self.close()
        return True

    def close(self):
        self.gone = True
        self.ours.close()


def wait_for_run(zygote):
    """The spare helper's life; never returns."""
    begin()
    inner, first = socket.socketpair()
    group = limits.Group({})
    refused = isolation_refused(kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWPID)
    read_error, write_error = os.pipe2(os.O_CLOEXEC)
    child = None
    if refused is None:
        child = os.fork()
        if child == 0:
            zygote.close()
            inner.close()
            os.close(read_error)
            wait_to_be_first(first, write_error, group)
    first.close()
    os.close(write_error)
    message, descriptors, _, _ = socket.recv_fds(zygote, 1, 3)
    if not message:
        os._exit(0)
    zygote.close()
    out, err, run = descriptors
    code = 1
    try:
        connection = socket.socket(fileno=run)
        header = read_exactly(connection, 4)
        body = read_exactly(connection, struct.unpack("!I", header)[0])
        if refused is not None:
            answer(connection, {"setup_error": refused})
        else:
            group.count_again()
            socket.send_fds(inner, [header], [out, err])
            inner.sendall(body)
            inner.close()
            watch(child, connection, json.loads(body), (read_error, out, err), group)
        code = 0
    except BaseException:
        report_crash(run, traceback.format_exc())
    finally:
        os._exit(code)


def wait_to_be_first(helper, write_error, group):
    """PID 1 of a spare helper: never returns."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    header, descriptors, _, _ = socket.recv_fds(helper, 4, 2)
    if len(header) != 4:
        os._exit(0)
    spec = json.loads(read_exactly(helper, struct.unpack("!I", header)[0]))
    helper.close()
    first_process(spec, *descriptors, write_error, made_list(spec), None, group)


def report_crash(descriptor, text):
    try:
        os.write(
            descriptor,
            json.dumps({"setup_error": "the sandbox helper failed: " + text.strip().splitlines()[-1], "trace": text}).encode() + b"\n",
        )
    except OSError:
        pass


def read_exactly(connection, count):
    parts = []
    while count:
        data = connection.recv(min(count, 1 << 20))
        if not data:
            os._exit(0)
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def begin():
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()


def helper(out, err, run):
    """One run, from spec to report. Lives in the host's mount namespace; PID 1 of the new namespaces is its child."""
    begin()
    connection = socket.socket(fileno=run)
    spec = json.loads(read_exactly(connection, struct.unpack("!I", read_exactly(connection, 4))[0]))
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
        first_process(spec, out, err, write_error, made_list(spec), teller, group, prepared)
    if teller is not None:
        teller.close()
    os.close(write_error)
    watch(child, connection, spec, (read_error, out, err), group, heard, mounts)


def watch(child, connection, spec, descriptors, group, heard=None, mounts=None):
    """From the fork of PID 1 to the report. `descriptors`: (what set-up errors come from, the workload's stdout and stderr)."""
    read_error, out, err = descriptors
    os.close(out)
    os.close(err)
    spec["secrets"] = []
    report = wait(child, read_error, connection, spec["timeout"], heard, spec["upper"])
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


def first_process(spec, out, err, write_error, created, teller, group, prepared=None):
    """PID 1 of the new namespaces: never returns."""
    stage = "start"
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        stage = "limits"
        group.join()
        stage = "mounts"
        if spec["oci"]:
            import oci  # seldom asked for, and nothing of the image is in sight yet

            oci.start(spec, out, err, write_error, created)
        if spec["tree"] is None:
            rootfs.build(spec, created, prepared)
        stage = "process"
        workload.start(spec, out, err, write_error, None if teller is None else teller.fileno())
    except rootfs.ProcRefused:
        os.write(write_error, PROC_REFUSED.encode())
        os._exit(125)
    except workload.CannotExecute as problem:
        os.write(2, (str(problem) + "\n").encode("utf-8", "surrogateescape"))
        os._exit(problem.code)
    except BaseException as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        name = getattr(error, "filename", None)
        where = f" ({name})" if name else ""
        os.write(spec.get("error_fd", write_error), f"{stage}: {text}{where}".encode("utf-8", "replace"))
    os._exit(125)


def wait(child, read_error, connection, timeout, heard, upper):
    """The report. `heard`: where the listener of the supervisor of owners comes from. Kills the whole tree (PID 1 takes all with it) when asked to, when nobody listens, or when time is over."""
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(connection, select.POLLIN)
    poll.register(read_error, select.POLLIN)
    supervisor = listener = None
    user = (0, 0)
    if heard is not None:
        poll.register(heard, select.POLLIN)
    deadline = None if timeout is None else time.monotonic() + timeout
    kill_at = None
    timed_out = False
    message = b""
    while True:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            timed_out, deadline = True, None
            send(pidfd, signal.SIGTERM)
            kill_at = now + GRACE
        if kill_at is not None and now >= kill_at:
            send(pidfd, signal.SIGKILL)
            kill_at = None
        pending = [t for t in (deadline, kill_at) if t is not None]
        events = poll.poll(max(1, int((min(pending) - now) * 1000) + 1) if pending else None)
        ended = False
        for number, event in events:
            if supervisor is not None and number == listener:
                if not event & select.POLLIN or not supervisor.answer():
                    poll.unregister(listener)
            elif heard is not None and number == heard.fileno():
                said, descriptors, _, _ = socket.recv_fds(heard, 9, 1)
                poll.unregister(heard)
                if said[:1] == b"U":
                    user = struct.unpack("=II", said[1:])
                if descriptors:
                    listener = descriptors[0]
                    supervisor = owners.Supervisor(listener, upper)
                    poll.register(listener, select.POLLIN)
            elif number == read_error:
                data = os.read(read_error, 4096)
                message += data
                if not data:
                    poll.unregister(read_error)
            elif number == pidfd:
                ended = True
            else:
                request = connection.recv(1)
                if request == b"T":
                    send(pidfd, signal.SIGTERM)
                    kill_at = time.monotonic() + GRACE
                else:
                    send(pidfd, signal.SIGKILL)
                    if not request:
                        poll.unregister(connection)
        if ended:
            break
    _, status, usage = os.wait4(child, 0)
    while True:
        data = os.read(read_error, 4096)
        if not data:
            break
        message += data
    if message:
        return {"setup_error": message.decode("utf-8", "replace")}
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = 128 + ended_by if ended_by else os.WEXITSTATUS(status)
    return {
        "exit_code": code,
        "signal": ended_by,
        "timed_out": timed_out,
        "max_rss": usage.ru_maxrss * 1024,
        "cpu": usage.ru_utime + usage.ru_stime,
        "user": user,
        **(supervisor.found(upper) if supervisor is not None else {}),
    }


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


def send(pidfd, number):
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass


def answer(connection, report):
    try:
        connection.sendall(json.dumps(report).encode() + b"\n")
    except OSError:
        pass


def alone(descriptor):
    """Hold nothing open that our side had from who started it, and no folder of it."""
    os.chdir("/")
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = range(os.sysconf("SC_OPEN_MAX"))
    for number in numbers:
        if number > 2 and number != descriptor:
            try:
                os.close(number)
            except OSError:
                pass  # that of the listing itself


if __name__ == "__main__":
    alone(int(sys.argv[1]))
    serve(int(sys.argv[1]))
