"""The containers' zygote: a single-threaded process that forks one helper for each container, exec and archive copy. Stands alone, as child.py.

Started by path (`python -I -S keeper.py FD`). Protocol: a message of one byte with four descriptors (stdin, stdout, stderr, run socket)
starts a job; EOF ends the zygote and with it every container. Run socket: 4-byte length + JSON spec from us; lines of JSON back
(`started`, with the terminal's descriptor where there is one; `failed`; the report). Meanwhile b"S" + one byte asks for a signal to the
container's first process, EOF kills it.
"""

import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import copyfiles
import kept
import kernel
import limits
import rootfs
import seccomp
import workload
from wire import answer, read_spec

TIOCSPTLCK, TIOCGPTPEER = 0x40045431, 0x5441
NAMESPACES = (
    ("cgroup", kernel.CLONE_NEWCGROUP),
    ("ipc", kernel.CLONE_NEWIPC),
    ("uts", kernel.CLONE_NEWUTS),
    ("net", kernel.CLONE_NEWNET),
    ("pid", kernel.CLONE_NEWPID),
    ("mnt", kernel.CLONE_NEWNS),
)


def serve(descriptor):
    control = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # No death signal here: it would come when the thread ends that began us. The socket's end is what tells that the engine is gone.
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if not message:
            return
        child = os.fork()
        if child == 0:
            control.close()
            try:
                helper(*descriptors)
            except BaseException:
                answer(
                    socket.socket(fileno=descriptors[3]),
                    {"failed": {"code": 125, "message": "the helper failed: " + traceback.format_exc().strip().splitlines()[-1]}},
                )
            finally:
                os._exit(0)
        for number in descriptors:
            os.close(number)


def helper(stdin, out, err, run):
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    connection = socket.socket(fileno=run)
    spec = json.loads(read_spec(connection)[1])
    if spec["kind"] == "archive":
        copyfiles.serve(spec, stdin, out, lambda document: answer(connection, document))
        return
    keeping = kept.Keeping(spec["kept"]) if spec.get("kept") else None
    if keeping:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 0)  # an engine that goes before all is ready is seen at its end of the connection
        os.close(out)
        os.close(err)
        out, err = keeping.pipes()
    read_error, write_error = os.pipe2(os.O_CLOEXEC)
    created = os.path.join(spec.get("scratch", ""), "made")
    terminal, terminal_inside = socket.socketpair()
    group = limits.Group(spec["limits"]) if spec["kind"] == "start" and spec["limits"] else None
    doors = []
    try:
        if spec["kind"] == "start":
            doors = [door(folder) for folder in group.folders] if group else []
            namespaces(spec)
        else:
            doors = [door(folder) for folder in spec["control_groups"]]
            join(spec["pid"])
    except OSError as error:
        answer(connection, {"failed": {"code": 125, "message": "namespaces: " + str(error.strerror)}})
        if group:
            group.close()
        return
    child = os.fork()
    if child == 0:
        connection.close()
        terminal.close()
        first_process(spec, (stdin, out, err), write_error, created, terminal_inside, doors)
    for number in (write_error, stdin, out, err, *doors):
        os.close(number)
    terminal_inside.close()
    folders = group.folders if group else []
    report = None
    try:
        if keeping:
            keeping.settle()
        report = watch(spec, child, read_error, connection, terminal, folders, keeping)
    except OSError as error:
        if not keeping:
            raise
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        answer(connection, {"failed": {"code": 125, "message": "its keeper: " + str(error.strerror)}})
    if spec["kind"] == "start":
        rootfs.remove_made(spec["upper"], created)
    if group:
        killed = group.close()
        if report:
            report["oom"] = killed
    if report and keeping:
        keeping.end(report)
    elif report:
        answer(connection, report)


def door(folder):
    """Who writes 0 there is in the group; opened while the machine's files are still in sight."""
    return os.open(folder + "/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def namespaces(spec):
    flags = kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWPID
    if spec["network_of"]:
        joined = os.open(spec["network_of"], os.O_RDONLY | os.O_CLOEXEC)
        kernel.setns(joined, kernel.CLONE_NEWNET)
        os.close(joined)
    elif spec["network"] == "none":
        flags |= kernel.CLONE_NEWNET
    kernel.unshare(flags)
    try:
        kernel.unshare(kernel.CLONE_NEWCGROUP)
    except OSError:
        pass


def join(pid):
    """All namespaces of a process, the mounts last. A namespace that is ours already is left alone."""
    held = []
    for name, kind in NAMESPACES:
        place = "/proc/%d/ns/%s" % (pid, name)
        if os.stat(place).st_ino != os.stat("/proc/self/ns/" + name).st_ino:
            held.append((os.open(place, os.O_RDONLY | os.O_CLOEXEC), kind))
    for descriptor, kind in held:
        kernel.setns(descriptor, kind)
        os.close(descriptor)


def first_process(spec, streams, write_error, created, terminal, doors):
    """PID 1 of a container, or a process that joined one: never returns. What goes wrong is one JSON line for `watch`."""
    failed = {"code": 125, "message": ""}
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        for number in doors:
            os.write(number, b"0")
        if spec["kind"] == "start":
            rootfs.build(spec, created)
            kernel.sethostname(spec["hostname"])
            if spec["readonly"]:
                kernel.mount_setattr("/", kernel.MOUNT_ATTR_RDONLY)
            if spec["init"]:
                init(streams, write_error, terminal)
        process(spec, streams, write_error, terminal)
    except workload.CannotExecute as problem:
        failed = {"code": problem.code, "message": str(problem)}
    except BaseException as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        name = getattr(error, "filename", None)
        failed["message"] = text + (" (%s)" % (name,) if name else "")
    os.write(spec.get("error_fd", write_error), json.dumps({"failed": failed}).encode())
    os._exit(125)


def init(streams, write_error, terminal):
    """Stay as PID 1: pass signals on to a child, which alone returns, reap what is left to us, end as the child did."""
    wanted = {number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
        return
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # what is inside sees nothing of this program
    try:
        with open("/proc/self/comm", "w") as file:
            file.write("init")
    except OSError:
        pass
    os.closerange(0, 1 << 16)
    while True:
        number = signal.sigwait(wanted)
        if number != signal.SIGCHLD:
            try:
                os.kill(child, number)
            except ProcessLookupError:
                pass
            continue
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not ended:
                break
            if ended == child:
                os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def process(spec, streams, write_error, terminal):
    """Streams, user, limits, capabilities, filter, exec."""
    sys.path.clear()
    sys.meta_path.clear()
    if os.getsid(0) != os.getpid():
        os.setsid()
    os.umask(0o022)
    uid, gid, groups, home = workload.identity(spec["user"])
    groups = sorted({*groups, *(workload_group(name) for name in spec["groups"])})
    for name, soft, hard in spec["rlimits"]:
        workload.resource.setrlimit(workload._LIMITS[name], (soft, hard))
    stdin, out, err = streams
    if spec["tty"]:
        stdin = out = err = open_terminal(spec, uid, terminal)
    held = [fcntl.fcntl(number, fcntl.F_DUPFD, 16) for number in (stdin, out, err)]
    keep = fcntl.fcntl(write_error, fcntl.F_DUPFD_CLOEXEC, 16)
    for number, source in enumerate(held):
        os.dup2(source, number)
    spec["error_fd"] = os.dup2(keep, 3, inheritable=False)
    os.closerange(4, 1 << 16)
    try:
        os.makedirs(spec["cwd"], 0o755, exist_ok=True)
    except OSError:
        pass  # chdir says what is wrong
    os.chdir("/")
    other = bool(uid or gid) and one_id()
    if other:
        workload.become(uid, gid)
    if not spec["insecure"]:
        if kernel.MACHINE in seccomp.AUDIT_ARCH and not spec["unconfined"]:
            seccomp.install(kernel.MACHINE)
        workload.drop_bounding(spec["capabilities"])
    try:
        os.setgroups(groups)
    except PermissionError:
        pass  # one id only
    if not other:
        try:
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except OSError:
            raise ValueError("user %d:%d is not mapped here: the range in /etc/subuid is too small for it" % (uid, gid)) from None
    if not spec["insecure"]:
        workload.set_capabilities(spec["capabilities"] if uid == 0 else 0)
    if spec["no_new_privileges"]:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    environment = dict(item.split("=", 1) for item in spec["env"] if "=" in item)
    environment.setdefault("HOME", home)
    try:
        os.chdir(spec["cwd"])
    except OSError as error:
        raise workload.CannotExecute(126, "cannot enter the working directory %s: %s" % (spec["cwd"], error.strerror)) from None
    execute(spec["argv"], environment)


def one_id():
    """Whether a single id is mapped; who wants to be another becomes it in a namespace of its own."""
    with open("/proc/self/uid_map") as file:
        fields = file.read().split()
    return len(fields) == 3 and fields[2] == "1"


def workload_group(name):
    if name.isdigit():
        return int(name)
    for row in workload.rows("/etc/group"):
        if len(row) >= 3 and row[0] == name and row[2].isdigit():
            return int(row[2])
    raise ValueError("the image has no group %r in /etc/group" % name)


def open_terminal(spec, uid, terminal):
    """A pseudo terminal of the container's own devpts; its other end goes to our side."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    rows, columns = spec["size"]
    if rows and columns:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    try:
        os.fchown(slave, uid, -1)
    except OSError:
        pass  # an id that is not mapped here: the mode lets it in all the same
    socket.send_fds(terminal, [b"T"], [master])
    terminal.close()
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    return slave


def execute(argv, environment):
    """As runc words it: clients tell 126 from 127 by these texts."""
    name = argv[0]
    candidates = [name]
    if "/" not in name:
        candidates = [os.path.join(folder or ".", name) for folder in environment.get("PATH", os.defpath).split(":")]
    code, why = 127, "executable file not found in $PATH" if "/" not in name else "no such file or directory"
    for path in candidates:
        try:
            os.execve(path, argv, environment)
        except FileNotFoundError:
            if os.path.exists(path):
                code, why = 127, "no such file or directory: its interpreter is not in the image"
        except NotADirectoryError:
            continue
        except OSError as error:
            if error.errno == errno.EACCES and os.path.isdir(path):
                code, why = 126, "is a directory: permission denied"
            else:
                code, why = 126, (error.strerror or "").lower()
    raise workload.CannotExecute(code, 'exec: "%s": %s' % (name, why))


def watch(spec, child, read_error, connection, terminal, groups, keeping):
    """Tell that it runs (or why not), pass signals on; its end as the report. `keeping` takes over when it runs."""
    message = b""
    while True:
        data = os.read(read_error, 65536)
        if not data:
            break
        message += data
    os.close(read_error)
    if message:
        os.waitpid(child, 0)
        try:
            answer(connection, json.loads(message))
        except ValueError:
            answer(connection, {"failed": {"code": 125, "message": message.decode("utf-8", "replace")}})
        return
    descriptors = []
    if spec["tty"]:
        _, descriptors, _, _ = socket.recv_fds(terminal, 1, 1)
    terminal.close()
    try:
        socket.send_fds(connection, [json.dumps({"started": child, "groups": groups}).encode() + b"\n"], descriptors)
    except OSError:
        os.kill(child, signal.SIGKILL)
    if keeping:
        return keeping.watch(child, connection, descriptors[0] if descriptors else -1, groups)
    for number in descriptors:
        os.close(number)
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(connection, select.POLLIN)
    ended = False
    while not ended:
        for number, _ in poll.poll():
            if number == pidfd:
                ended = True
            else:
                asked = connection.recv(2)
                wanted = asked[1] if len(asked) == 2 else signal.SIGKILL
                if not asked:
                    poll.unregister(connection)
                try:
                    signal.pidfd_send_signal(pidfd, wanted)
                except (ProcessLookupError, OSError):
                    pass
    _, status, usage = os.wait4(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = 128 + ended_by if ended_by else os.WEXITSTATUS(status)
    return {"exit_code": code, "signal": ended_by, "max_rss": usage.ru_maxrss * 1024, "cpu": usage.ru_utime + usage.ru_stime}


if __name__ == "__main__":
    serve(int(sys.argv[1]))
