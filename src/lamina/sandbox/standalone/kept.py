"""A container that outlives the engine which began it: its helper holds what goes in and out, writes the log and keeps the exit code, while engines
come and go. Stands alone, as keeper.py, whose helper becomes this when the spec says `kept`.

The container's folder has, beside the log:
  keeper       "PID STARTTIME\\n" of the helper, locked (flock) as long as it lives
  keeper.sock  mode 0600: where the next engine comes in
  exit.json    how it ended: the report, with `began` and `finished`

The engine sends frames: a letter, the length of what follows (4 bytes, big-endian), that.
  S number     a signal for the first process
  K 0 or 1     whether the container goes on when this connection ends; before the first one it does
  C            the end of standard input
  A            go on with a new file of the log (answer to `rotate`)
  N note       what the engine wants to find again
  H name       keep the descriptor that comes along; D name gives it up
We send lines of JSON: {"log": [number of the file, its bytes]} after writing; {"rotate": the same}, and nothing is read from the container until A
comes or the engine is gone; the report. Who comes in at the socket first gets {"hello": ...} with descriptors, named in the same order.
"""

import fcntl
import json
import os
import select
import signal
import socket
import struct
import time

HEAD = struct.Struct(">BxxxIQ")  # a frame of the log: server/containers/log.py
STDOUT, STDERR = 1, 2
PIECE = 1 << 16
MOST_DESCRIPTORS = 100  # in one message; the kernel takes 253
LOOKS = 5000  # milliseconds between looks at the folder, while there is no engine
LAST_WORDS = 5.0  # seconds for a terminal after the first process


class Log:
    """The writing half of server/containers/log.py: the same files, frames and bounds."""

    def __init__(self, folder, most, files):
        self.folder, self.most, self.files = folder, most, files
        found = sorted(int(name[4:] or 0) for name in os.listdir(folder) if name == "log" or (name[:4] == "log." and name[4:].isdecimal()))
        self.numbers = found or [0]
        self.open(os.O_CREAT)

    def open(self, flags):
        name = "log.%d" % self.numbers[-1] if self.numbers[-1] else "log"
        self.file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600, dir_fd=self.folder)
        self.size = os.fstat(self.file).st_size

    @property
    def place(self):
        return [self.numbers[-1], self.size]

    @property
    def full(self):
        return self.most and self.size >= self.most

    def append(self, stream, data):
        view = memoryview(HEAD.pack(stream, len(data), time.time_ns()) + data)
        written = 0
        try:
            while written < len(view):
                written += os.write(self.file, view[written:])
        except OSError:
            os.ftruncate(self.file, self.size)  # a full disk: what does not fit is lost, the container goes on
            return
        self.size += len(view)

    def rotate(self):
        old = self.file
        self.numbers.append(self.numbers[-1] + 1)
        try:
            self.open(os.O_CREAT | os.O_TRUNC)
        except OSError:
            self.numbers.pop()  # the container is being removed
            self.most = 0
            return
        os.close(old)
        while len(self.numbers) > self.files:
            number = self.numbers.pop(0)
            try:
                os.unlink("log.%d" % number if number else "log", dir_fd=self.folder)
            except OSError:
                pass


class Keeping:
    def __init__(self, spec):
        self.spec = spec
        self.folder = os.open(spec["folder"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.note = ""
        self.held = {}
        self.sources = {}  # descriptor -> stream of the log
        self.terminal = -1
        self.engine = None
        self.keep = True
        self.incoming, self.arrived, self.outgoing = b"", [], b""
        self.untold = self.waiting = False
        self.began = 0.0

    def pipes(self):
        """(stdout, stderr) for the container; the other ends are ours."""
        found = []
        for stream in (STDOUT, STDERR):
            read, write = os.pipe2(os.O_CLOEXEC)
            self.sources[read] = stream
            found.append(write)
        return found

    def settle(self):
        """After the fork, so that nothing of it gets into the container: the lock, the way in, the log. OSError."""
        self.lock = os.open("keeper", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self.folder)
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # the helper of the run before may still be leaving
        os.ftruncate(self.lock, 0)
        os.write(self.lock, b"%d %d\n" % (os.getpid(), start_time("self")))
        for name in ("exit.json", "keeper.sock"):
            try:
                os.unlink(name, dir_fd=self.folder)
            except FileNotFoundError:
                pass
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            self.door.bind("/proc/self/fd/%d/keeper.sock" % self.folder)  # a path in a deep folder would be too long
        finally:
            os.umask(before)
        self.door.listen(8)
        self.log = Log(self.folder, self.spec["most"], self.spec["files"])

    def watch(self, child, connection, terminal, groups):
        """Until the container has ended and all that it wrote is in the log: the report."""
        self.child, self.groups, self.engine = child, groups, connection
        self.began = time.time()
        if terminal >= 0:
            for source in self.sources:
                os.close(source)
            self.terminal, self.sources = terminal, {terminal: STDOUT}
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)  # the engine's own error output must end with it
        os.close(null)
        self.pidfd = os.pidfd_open(child)
        self.started = start_time(child)
        report, last = None, None
        while report is None or (self.sources and (last is None or time.monotonic() < last)):
            poll = select.poll()
            if report is None:
                poll.register(self.pidfd, select.POLLIN)
            poll.register(self.door, select.POLLIN)
            if self.engine is not None:
                poll.register(self.engine, select.POLLIN | (select.POLLOUT if self.outgoing else 0))
            if self.may_read():
                for source in self.sources:
                    poll.register(source, select.POLLIN)
            ready = {number for number, _ in poll.poll(LOOKS if self.engine is None else 500 if last is not None else None)}
            if self.engine is None and not os.fstat(self.lock).st_nlink:
                self.signal(signal.SIGKILL)  # its folder was removed: nobody could ever find it again
            if self.engine is not None and self.engine.fileno() in ready:
                self.hear()
            if self.door.fileno() in ready:
                self.let_in()
            for source in [source for source in self.sources if source in ready]:
                self.read(source)
            if self.untold and not self.outgoing and self.engine is not None:
                self.untold = False
                self.tell({"log": self.log.place})
            self.flush()
            if self.pidfd in ready and report is None:
                report = self.reap()
                last = time.monotonic() + LAST_WORDS if self.terminal >= 0 else None
        return report

    def may_read(self):
        if not self.log.full:
            return True
        if self.engine is None:
            self.log.rotate()
            return True
        if not self.waiting:
            self.waiting = True
            self.tell({"rotate": self.log.place})
            self.flush()
        return self.engine is None

    def read(self, source):
        try:
            data = os.read(source, PIECE)
        except OSError:  # EIO: the terminal's other side was closed
            data = b""
        if data:
            self.log.append(self.sources[source], data)
            self.untold = True
            return
        del self.sources[source]
        if source != self.terminal:
            os.close(source)

    def reap(self):
        _, status, usage = os.wait4(self.child, 0)
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = 128 + ended_by if ended_by else os.WEXITSTATUS(status)
        return {"exit_code": code, "signal": ended_by, "max_rss": usage.ru_maxrss * 1024, "cpu": usage.ru_utime + usage.ru_stime}

    def end(self, report):
        """Keep the report, then tell it."""
        data = json.dumps({**report, "began": self.began, "finished": time.time(), "note": self.note}).encode()
        try:
            descriptor = os.open("exit.json.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self.folder)
            os.write(descriptor, data)
            os.close(descriptor)
            os.rename("exit.json.new", "exit.json", src_dir_fd=self.folder, dst_dir_fd=self.folder)
            os.unlink("keeper.sock", dir_fd=self.folder)
        except OSError:
            pass  # the folder is gone, or the disk full: 137 will be said
        if self.engine is not None:
            try:
                self.engine.settimeout(10.0)
                self.engine.sendall(self.outgoing + line({"log": self.log.place}) + line(report))
            except OSError:
                pass

    # The engine

    def let_in(self):
        connection, _ = self.door.accept()
        peer = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if peer[1] not in (0, os.geteuid()):
            connection.close()
            return
        if self.engine is not None:
            self.engine.close()
        self.engine, self.keep = connection, True
        self.incoming, self.arrived, self.outgoing = b"", [], b""
        self.waiting = False
        named = dict(self.held)
        if self.terminal >= 0:
            named["terminal"] = self.terminal
        names = list(named)
        hello = {
            "pid": self.child, "started": self.started, "groups": self.groups, "began": self.began, "log": self.log.place,
            "note": self.note, "descriptors": names,
        }  # fmt: skip
        data = line({"hello": hello})
        try:
            connection.settimeout(10.0)
            while len(names) > MOST_DESCRIPTORS:
                socket.send_fds(connection, [data[:1]], [named[name] for name in names[:MOST_DESCRIPTORS]])
                data, names = data[1:], names[MOST_DESCRIPTORS:]
            sent = socket.send_fds(connection, [data], [named[name] for name in names])
            connection.sendall(data[sent:])
            connection.settimeout(None)
        except OSError:
            self.gone()

    def gone(self):
        self.engine.close()
        self.engine = None
        self.outgoing, self.waiting = b"", False
        for number in self.arrived:
            os.close(number)
        self.arrived = []
        if not self.keep:
            self.signal(signal.SIGKILL)

    def hear(self):
        try:
            data, descriptors, _, _ = socket.recv_fds(self.engine, PIECE, MOST_DESCRIPTORS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self.arrived += descriptors
        if not data:
            self.gone()
            return
        self.incoming += data
        while len(self.incoming) >= 5:
            kind, length = struct.unpack_from(">cI", self.incoming)
            if len(self.incoming) < 5 + length:
                return
            content, self.incoming = self.incoming[5 : 5 + length], self.incoming[5 + length :]
            self.heard(kind, content)

    def heard(self, kind, content):
        if kind == b"S":
            self.signal(content[0])
        elif kind == b"K":
            self.keep = content == b"\1"
        elif kind == b"C":
            self.drop("stdin")
        elif kind == b"A":
            self.waiting = False
            self.log.rotate()
            self.untold = True
        elif kind == b"N":
            self.note = content.decode()
        elif kind == b"H" and self.arrived:
            self.drop(content.decode())
            self.held[content.decode()] = self.arrived.pop(0)
        elif kind == b"D":
            self.drop(content.decode())

    def drop(self, name):
        if name in self.held:
            os.close(self.held.pop(name))

    def signal(self, number):
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except (ProcessLookupError, OSError):
            pass

    def tell(self, document):
        self.outgoing += line(document)

    def flush(self):
        if self.engine is None or not self.outgoing:
            return
        try:
            sent = self.engine.send(self.outgoing, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            self.outgoing = self.outgoing[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.gone()


def line(document):
    return json.dumps(document).encode() + b"\n"


def start_time(process):
    """In ticks since the machine began: with the number it names a process for good."""
    with open("/proc/%s/stat" % process) as file:
        return int(file.read().rpartition(")")[2].split()[19])
