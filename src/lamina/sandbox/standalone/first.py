"""PID 1 of a run's namespaces, until it becomes the workload. Stands alone."""

import os
import signal

import kernel
import rootfs
import workload

PROC_REFUSED = "mounts: no new /proc is given here"  # lamina.sandbox.zygote then asks again with shared pids


def become(spec, out, err, write_error, created, teller, group, prepared=None):
    """Never returns. What fails before the workload starts is written to `write_error`, or is the workload's own exit code."""
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
