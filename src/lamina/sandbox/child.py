"""The zygote's program: `python -I -S child.py FD`. A door only: what is run by path is compiled at each start, what it imports is not.

Stands alone, as all of standalone/: standard library and ctypes only, nothing of lamina, and nothing is imported or opened by name once the image is the
root (a hostile image would be the one to answer). The modules there: zygote.py (this process; the protocol), helper.py (one run), watching.py (until it
ends), first.py (PID 1 of its namespaces), rootfs.py (mounts), workload.py (user, capabilities, exec), kernel.py (system calls as data), seccomp.py
(the filter).
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)) + "/standalone")

import zygote

if __name__ == "__main__":
    zygote.alone(int(sys.argv[1]))
    zygote.serve(int(sys.argv[1]))
