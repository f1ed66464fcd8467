"""The system call filter as raw BPF, made from tables. Denied with EPERM what docker's default profile denies; docs/dev/sandbox.md. Stands alone."""

import ctypes
import struct

import kernel

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, ERRNO, NOTIFY = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
NEW_LISTENER, WAIT_KILLABLE = 8, 32
EPERM, ENOSYS = 1, 38
X32 = 0x40000000

# name -> (x86_64, aarch64); None where the machine has no such call
DENIED = {
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "clock_adjtime": (305, 266), "clock_settime": (227, 112),
    "create_module": (174, None), "delete_module": (176, 106), "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433), "get_kernel_syms": (177, None), "init_module": (175, 105),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219), "lookup_dcookie": (212, 18),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239), "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42), "open_by_handle_at": (304, 265), "open_tree": (428, 428), "perf_event_open": (298, 241), "pivot_root": (155, 41),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "query_module": (178, None), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "reboot": (169, 142), "request_key": (249, 218), "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268),
    "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224), "_sysctl": (156, None), "sysfs": (139, None), "umount2": (166, 39),
    "unshare": (272, 97), "uselib": (134, None), "userfaultfd": (323, 282), "ustat": (136, None), "vhangup": (153, 58),
}  # fmt: skip
# Where one id is mapped: answered by owners.py …
NOTIFIED = {
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "mknod": (133, None), "mknodat": (259, 33),
}  # fmt: skip
# … and answered with success though nothing happens: there is no other id to become.
PRETENDED = {
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143), "setgroups": (116, 159),
    "setresuid": (117, 147), "setresgid": (119, 149), "setfsuid": (122, 151), "setfsgid": (123, 152),
}  # fmt: skip
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
PERSONALITY = {"x86_64": 135, "aarch64": 92}
SOCKET = {"x86_64": 41, "aarch64": 198}
PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
NAMESPACES = 0x7E020000
AF_VSOCK = 40

LD, JEQ, JGE, JSET, RET, AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54


def numbers(table, machine):
    """name -> number, of what the machine has."""
    column = 0 if machine == "x86_64" else 1
    return {name: row[column] for name, row in table.items() if row[column] is not None}


def notified(machine):
    return numbers(NOTIFIED, machine)


def program(machine, deny=True, single=False):
    """The filter as a list of (code, jump if true, jump if false, value). `single`: owners are kept by a supervisor."""
    out = [
        (LD, 0, 0, 4),
        (JEQ, 1, 0, AUDIT_ARCH[machine]),
        (RET, 0, 0, ERRNO | ENOSYS),  # 32-bit programs: their table is not known here
        (LD, 0, 0, 0),
    ]
    if machine == "x86_64":
        out += [(JGE, 0, 1, X32), (RET, 0, 0, ERRNO | ENOSYS)]
    if deny:
        out += _denied(machine)
    if single:
        for number in sorted(notified(machine).values()):
            out += [(JEQ, 0, 1, number), (RET, 0, 0, NOTIFY)]
        for number in sorted(numbers(PRETENDED, machine).values()):
            out += [(JEQ, 0, 1, number), (RET, 0, 0, ERRNO)]
    out.append((RET, 0, 0, ALLOW))
    return out


def _denied(machine):
    out = [(JEQ, 0, 1, CLONE3), (RET, 0, 0, ERRNO | ENOSYS)]  # glibc then uses clone, whose flags can be looked at
    out += _argument(CLONE[machine], 0, [(JSET, 0, 1, NAMESPACES), (RET, 0, 0, ERRNO | EPERM)])
    out += _argument(SOCKET[machine], 0, [(JEQ, 0, 1, AF_VSOCK), (RET, 0, 0, ERRNO | EPERM)])
    allowed = [(JEQ, len(PERSONALITIES) - n, 0, value) for n, value in enumerate(PERSONALITIES)]
    out += _argument(PERSONALITY[machine], 0, [*allowed, (RET, 0, 0, ERRNO | EPERM)])
    for number in sorted(numbers(DENIED, machine).values()):
        out += [(JEQ, 0, 1, number), (RET, 0, 0, ERRNO | EPERM)]
    return out


def _argument(number, index, test):
    """If the call is `number`: load the low half of argument `index`, test it, then load the number again."""
    body = [(LD, 0, 0, 16 + 8 * index), *test, (LD, 0, 0, 0)]
    return [(JEQ, 0, len(body), number), *body]


_CODES = {}


def code(machine, deny=True, single=False):
    """The filter's bytes, put together once a process; b"" where its numbers are not known."""
    if machine not in AUDIT_ARCH:
        return b""
    if (machine, deny, single) not in _CODES:
        _CODES[machine, deny, single] = b"".join(struct.pack("HBBI", *instruction) for instruction in program(machine, deny, single))
    return _CODES[machine, deny, single]


def install(machine, deny=True, single=False):
    """For this process and its children. Needs CAP_SYS_ADMIN in its user namespace (no_new_privs stays off, so that sudo works).

    With `single` returns the descriptor by which the supervisor hears of calls.
    """
    filter = code(machine, deny, single)
    buffer = ctypes.create_string_buffer(filter)

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    value = Program(len(filter) // 8, ctypes.addressof(buffer))
    if not single:
        return kernel.call(kernel.NUMBERS["seccomp"], 1, 0, ctypes.byref(value))
    try:
        return kernel.call(kernel.NUMBERS["seccomp"], 1, NEW_LISTENER | WAIT_KILLABLE, ctypes.byref(value))
    except OSError:
        return kernel.call(kernel.NUMBERS["seccomp"], 1, NEW_LISTENER, ctypes.byref(value))
