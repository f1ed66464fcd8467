"""PID 1 of a run from its fork to its end: what it says, who asks for its end, when its time is over. Stands alone."""

import os
import select
import signal
import socket
import struct
import time

import owners

GRACE = 0.5  # seconds between TERM and KILL


class Watch:
    """PID 1 takes the whole tree with it: it is killed when that is asked for, when nobody listens any more, or when time is over."""

    def __init__(self, child, read_error, connection, timeout, heard, upper):
        """`read_error`: where set-up errors come from; `timeout`: seconds or None; `heard`: where the listener of the supervisor of owners comes from, or None."""
        self.child, self.read_error, self.connection, self.heard, self.upper = child, read_error, connection, heard, upper
        self.pidfd = os.pidfd_open(child)
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.kill_at = None
        self.timed_out = self.ended = False
        self.message = b""
        self.user = (0, 0)
        self.supervisor = None
        self.poll = select.poll()
        self.ready = {}  # descriptor -> what is done when it is
        self.meet(self.pidfd, self.has_ended)
        self.meet(connection.fileno(), self.is_asked)
        self.meet(read_error, self.says)
        if heard is not None:
            self.meet(heard.fileno(), self.gives_listener)

    def meet(self, descriptor, act):
        """From now on `act(event)` is called when there is something to read."""
        self.ready[descriptor] = act
        self.poll.register(descriptor, select.POLLIN)

    def report(self):
        """Waits for the end."""
        while not self.ended:
            for descriptor, event in self.poll.poll(self.due()):
                self.ready[descriptor](event)
        _, status, usage = os.wait4(self.child, 0)
        while data := os.read(self.read_error, 4096):
            self.message += data
        if self.message:
            return {"setup_error": self.message.decode("utf-8", "replace")}
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        return {
            "exit_code": 128 + ended_by if ended_by else os.WEXITSTATUS(status),
            "signal": ended_by,
            "timed_out": self.timed_out,
            "max_rss": usage.ru_maxrss * 1024,
            "cpu": usage.ru_utime + usage.ru_stime,
            "user": self.user,
            **(self.supervisor.found(self.upper) if self.supervisor is not None else {}),
        }

    def due(self):
        """Does what is due; milliseconds until something else is, or None."""
        now = time.monotonic()
        if self.deadline is not None and now >= self.deadline:
            self.timed_out, self.deadline = True, None
            self.terminate()
        if self.kill_at is not None and now >= self.kill_at:
            self.send(signal.SIGKILL)
            self.kill_at = None
        pending = [moment for moment in (self.deadline, self.kill_at) if moment is not None]
        return max(1, int((min(pending) - now) * 1000) + 1) if pending else None

    def has_ended(self, event):
        self.ended = True

    def is_asked(self, event):
        request = self.connection.recv(1)
        if request == b"T":
            self.terminate()
            return
        self.send(signal.SIGKILL)
        if not request:
            self.poll.unregister(self.connection)

    def says(self, event):
        data = os.read(self.read_error, 4096)
        self.message += data
        if not data:
            self.poll.unregister(self.read_error)

    def gives_listener(self, event):
        said, descriptors, _, _ = socket.recv_fds(self.heard, 9, 1)
        self.poll.unregister(self.heard)
        if said[:1] == b"U":
            self.user = struct.unpack("=II", said[1:])
        if descriptors:
            self.supervisor = owners.Supervisor(descriptors[0], self.upper)
            self.meet(descriptors[0], self.changes_owner)

    def changes_owner(self, event):
        if not event & select.POLLIN or not self.supervisor.answer():
            self.poll.unregister(self.supervisor.listener)

    def terminate(self):
        self.send(signal.SIGTERM)
        self.kill_at = time.monotonic() + GRACE

    def send(self, number):
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass
