"""Runs inside the sandbox: raises the walls around its own process, then runs the program and tells how it ended.

Standard library only and never imported by groundup: `sandbox.py` hands the text of this file to a fresh interpreter.
Standard input holds one JSON object (see `sandbox.py`), descriptor `result_fd` takes the verdict. Every wall that
cannot be raised ends the process before the program starts, so a missing wall can never look like a held attack.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import struct
import sys
import traceback

CLONE_THREAD = 0x00010000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_DUMPABLE = 38, 22, 4
SECCOMP_MODE_FILTER = 2
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, ENOSYS = 1, 38

# ---------------------------------------------------------------- system calls: name -> (x86_64, aarch64)

CLONE, CLONE3, KILL_CALL, TGKILL, PRLIMIT = (56, 220), (435, 435), (62, 129), (234, 131), (302, 261)
HIGHEST_KNOWN = 466  # whatever is newer than this table does not exist for the program

DENIED_TABLE = """
# other processes: none may be started, changed or signalled
fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, tkill 200 130, rt_sigqueueinfo 129 138
rt_tgsigqueueinfo 297 240, pidfd_open 434 434, pidfd_send_signal 424 424, pidfd_getfd 438 438, ptrace 101 117
process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440, kcmp 312 272, move_pages 279 239
migrate_pages 256 238, setsid 112 157, setpgid 109 154, setpriority 141 140, ioprio_set 251 30
sched_setaffinity 203 122, sched_setscheduler 144 119, sched_setparam 142 118, sched_setattr 314 274
capset 126 91, personality 135 92
# the network, and memory that no limit counts
socket 41 198, connect 42 203, memfd_create 319 279, memfd_secret 447 447, shmget 29 194, shmat 30 196
msgget 68 186, semget 64 190, mq_open 240 180
# what Landlock does not cover: owners, modes, times and attributes of files that are not the program's
chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -, fchown 93 55, lchown 94 -
fchownat 260 54, setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, setxattrat 463 463, removexattr 197 14
lremovexattr 198 15, fremovexattr 199 16, removexattrat 466 466, utime 132 -, utimes 235 -, futimesat 261 -
utimensat 280 88, open_by_handle_at 304 265, name_to_handle_at 303 264, fanotify_init 300 262
# namespaces and mounts
mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268, fsopen 430 430
fsconfig 431 431, fsmount 432 432, fspick 433 433, open_tree 428 428, move_mount 429 429, mount_setattr 442 442
# doors into the kernel that a program under test has no business with
bpf 321 280, io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427, userfaultfd 323 282
perf_event_open 298 241, keyctl 250 219, add_key 248 217, request_key 249 218, syslog 103 116
kexec_load 246 104, kexec_file_load 320 294, init_module 175 105, finit_module 313 273, delete_module 176 106
swapon 167 224, swapoff 168 225, reboot 169 142, settimeofday 164 170, clock_settime 227 112
clock_adjtime 305 266, adjtimex 159 171, quotactl 179 60, acct 163 89, sethostname 170 161
setdomainname 171 162, vhangup 153 58
"""


def read_table(table: str) -> dict[str, tuple[int | None, int | None]]:
    """`name x86_64 aarch64`, separated by commas; `-` where an architecture does not have the call."""
    rows = [row.split() for line in table.splitlines() if not line.startswith("#") for row in line.split(",")]
    numbers = {row[0]: tuple(None if cell == "-" else int(cell) for cell in row[1:]) for row in rows if row}
    return {name: (pair[0], pair[1]) for name, pair in numbers.items()}


DENIED = read_table(DENIED_TABLE)

# Landlock's rights on files (linux/landlock.h); the numbers in brackets are the ABI that brought them
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REMOVE_AND_MAKE = 0x1FF0 & ~(1 << 6 | 1 << 9 | 1 << 11)  # all but character devices, sockets, block devices
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15  # [2], [3], [5]
ALL_OF_ABI_1 = 0x1FFF


class WallError(Exception):
    """A wall could not be raised; nothing was run."""


def main() -> None:
    task = json.loads(sys.stdin.buffer.read())
    result_fd = task["result_fd"]
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        limit_resources(task["limits"])
        if task["walls"]:
            drop_capabilities(libc)
            if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
                raise WallError("no_new_privs was refused")
            abi = landlock(libc, task["read"], task["write"], required=task["landlock_required"])
            seccomp(libc)
        else:
            abi = 0
    except (WallError, OSError, ValueError) as error:
        os.write(result_fd, json.dumps({"wall_error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(97)
    os.write(result_fd, json.dumps({"started": True, "landlock": abi}).encode() + b"\n")
    outcome = run(task.pop("program"))
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # the program may have closed or replaced it
            continue
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * 1024}
    os.write(result_fd, json.dumps({"nonce": task["nonce"], **used, **outcome}).encode() + b"\n")
    os._exit(0)


def run(program: str) -> dict[str, str]:
    """Execute the program as `__main__`. It passes when it comes to its end, and in no other way."""
    namespace = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        exec(compile(program, "<program>", "exec"), namespace)
    except MemoryError:
        return {"kind": "memory", "detail": "MemoryError"}
    except BaseException as error:  # SystemExit and KeyboardInterrupt are ways not to reach the end, too
        last = traceback.format_exception_only(error)[-1].strip()
        return {"kind": "failed", "detail": last[:500]}
    return {"kind": "passed", "detail": ""}


# ---------------------------------------------------------------- walls


def limit_resources(limits: dict[str, int]) -> None:
    """Limits of the kernel for this process; without capabilities none of them can be raised again."""
    cpu = limits["cpu_seconds"]
    for what, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),  # the soft limit can be ignored, the hard one kills
        (resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"], limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Root without capabilities is an ordinary user who owns root's files; Landlock keeps those closed."""
    header = struct.pack("Ii", 0x20080522, 0)
    if libc.capset(header, struct.pack("6I", 0, 0, 0, 0, 0, 0)) != 0:
        raise WallError("capabilities could not be dropped")


def landlock(libc: ctypes.CDLL, read: list[str], write: list[str], *, required: bool) -> int:
    """Close the file system but for `read` (read only) and `write`; returns the kernel's Landlock ABI (0: none)."""
    create, add, restrict = 444, 445, 446
    abi = libc.syscall(create, None, 0, 1)
    if abi < 1:
        if required:
            raise WallError("this kernel has no Landlock")
        return 0
    handled = ALL_OF_ABI_1 | (REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0)
    handled |= IOCTL_DEV if abi >= 5 else 0
    attributes = struct.pack("Q", handled)
    if abi >= 4:
        attributes += struct.pack("Q", 3)  # TCP: bind, connect
    if abi >= 6:
        attributes += struct.pack("Q", 3)  # abstract sockets and signals stay inside
    ruleset = libc.syscall(create, attributes, len(attributes), 0)
    if ruleset < 0:
        raise WallError(f"Landlock ruleset: errno {ctypes.get_errno()}")
    reading = EXECUTE | READ_FILE | READ_DIR
    writing = reading | WRITE_FILE | REMOVE_AND_MAKE | TRUNCATE | REFER
    for paths, rights in ((read, reading), (write, writing)):
        for path in paths:
            try:
                descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # a place that this machine does not have needs no rule
            is_folder = os.path.isdir(path)  # noqa: PTH112 - pathlib is not worth its import time here
            of_files = rights if is_folder else rights & (EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE)
            rule = struct.pack("=Qi", of_files & handled, descriptor)
            if libc.syscall(add, ruleset, 1, rule, 0) != 0:
                raise WallError(f"Landlock rule for {path}: errno {ctypes.get_errno()}")
            os.close(descriptor)
    if libc.syscall(restrict, ruleset, 0) != 0:
        raise WallError(f"Landlock: errno {ctypes.get_errno()}")
    os.close(ruleset)
    return int(abi)


def seccomp(libc: ctypes.CDLL) -> None:
    """Install the system call filter for this process and every thread it starts."""
    program = b"".join(seccomp_filter(platform.machine(), os.getpid()))
    buffer = ctypes.create_string_buffer(program, len(program))
    sock_fprog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, sock_fprog, 0, 0) != 0:
        raise WallError(f"seccomp: errno {ctypes.get_errno()}")


def seccomp_filter(machine: str, pid: int) -> list[bytes]:
    """A classic BPF program over `struct seccomp_data` (number at 0, architecture at 4, first argument at 16)."""
    if machine not in ("x86_64", "aarch64"):
        raise WallError(f"no table of system calls for {machine}")
    column = 0 if machine == "x86_64" else 1
    architecture = (0xC000003E, 0xC00000B7)[column]

    def load(offset: int) -> bytes:
        return struct.pack("HBBI", 0x20, 0, 0, offset)

    def jump(test: int, value: int, if_true: int, if_false: int) -> bytes:
        return struct.pack("HBBI", test, if_true, if_false, value)

    def end(action: int) -> bytes:
        return struct.pack("HBBI", 0x06, 0, 0, action)

    equal, greater, has_bits = 0x15, 0x25, 0x45
    number_of = {"clone": CLONE, "clone3": CLONE3, "kill": KILL_CALL, "tgkill": TGKILL, "prlimit64": PRLIMIT}
    call = {name: numbers[column] for name, numbers in number_of.items()}
    code = [load(4), jump(equal, architecture, 1, 0), end(KILL), load(0)]
    code += [jump(greater, HIGHEST_KNOWN, 0, 1), end(ERRNO | ENOSYS)]  # x32 calls are far above, too
    # clone3 hides its flags behind a pointer; told that it does not exist, the C library uses clone
    code += [jump(equal, call["clone3"], 0, 1), end(ERRNO | ENOSYS)]
    code += [
        jump(equal, call["clone"], 0, 4),
        load(16),
        jump(has_bits, CLONE_THREAD, 0, 1),
        end(ALLOW),
        end(ERRNO | EPERM),
    ]
    for name in ("kill", "tgkill"):  # to itself only: abort() and raise() need it
        code += [jump(equal, call[name], 0, 4), load(16), jump(equal, pid, 0, 1), end(ALLOW), end(ERRNO | EPERM)]
    code += [jump(equal, call["prlimit64"], 0, 4), load(16), jump(equal, 0, 0, 1), end(ALLOW), end(ERRNO | EPERM)]
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            code += [jump(equal, number, 0, 1), end(ERRNO | EPERM)]
    return [*code, end(ALLOW)]


if __name__ == "__main__":
    main()
