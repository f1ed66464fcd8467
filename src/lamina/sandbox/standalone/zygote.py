"""A single-threaded process that forks one helper for each RUN. Stands alone; started by child.py.

Protocol. Control socket: a message of one byte with three descriptors (stdout, stderr, run socket) starts a run; EOF ends the zygote and with it
everything. The byte is b"R", or b"S" for a run that needs nothing special before its namespaces are made (see `Spare`). Run socket: 4-byte length +
JSON spec from us, one line of JSON report back; meanwhile b"T" asks for SIGTERM, b"K" for SIGKILL, EOF means that nobody waits any more: kill.
"""

import json
import os
import signal
import socket
import struct

import first
import helper
import kernel
import limits
import seccomp
import wire


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
                helper.run(*descriptors)
                code = 0
            except BaseException:
                report_crash(descriptors[2])
            finally:
                os._exit(code)
        close(descriptors)
        if spare.gone:
            spare = Spare(control)


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
    helper.begin()
    inner, outer = socket.socketpair()
    group = limits.Group({})
    refused = helper.isolation_refused(kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWPID)
    read_error, write_error = os.pipe2(os.O_CLOEXEC)
    child = None
    if refused is None:
        child = os.fork()
        if child == 0:
            zygote.close()
            inner.close()
            os.close(read_error)
            wait_to_be_first(outer, write_error, group)
    outer.close()
    os.close(write_error)
    message, descriptors, _, _ = socket.recv_fds(zygote, 1, 3)
    if not message:
        os._exit(0)
    zygote.close()
    out, err, run = descriptors
    code = 1
    try:
        connection = socket.socket(fileno=run)
        header, body = wire.read_spec(connection)
        if refused is not None:
            wire.answer(connection, {"setup_error": refused})
        else:
            group.count_again()
            socket.send_fds(inner, [header], [out, err])
            inner.sendall(body)
            inner.close()
            helper.follow(child, connection, json.loads(body), (read_error, out, err), group)
        code = 0
    except BaseException:
        report_crash(run)
    finally:
        os._exit(code)


def wait_to_be_first(outer, write_error, group):
    """PID 1 of a spare helper: never returns."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    header, descriptors, _, _ = socket.recv_fds(outer, 4, 2)
    if len(header) != 4:
        os._exit(0)
    spec = json.loads(wire.read_exactly(outer, struct.unpack("!I", header)[0]))
    outer.close()
    first.become(spec, *descriptors, write_error, helper.made_list(spec), None, group)


def report_crash(descriptor):
    """Of the exception that is being handled."""
    import traceback  # dear to import; a helper is never in the image's root

    text = traceback.format_exc()
    try:
        os.write(
            descriptor,
            json.dumps({"setup_error": "the sandbox helper failed: " + text.strip().splitlines()[-1], "trace": text}).encode() + b"\n",
        )
    except OSError:
        pass
