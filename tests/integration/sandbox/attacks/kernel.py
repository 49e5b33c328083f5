# ruff: noqa: E501  (one case a line)
"""Kernel interfaces that calculation has no use for; raw numbers are those of x86_64."""

from .case import attempts

OPEN_TO_ALL = """
memfd | os.memfd_create('x')
eventfd | os.eventfd(0)
epoll | __import__('select').epoll()
timerfd | call(283, 0, 0)
signalfd | call(289, -1, (ctypes.c_uint64 * 1)(0), 8, 0)
inotify | call(294, 0)
shared memory | call(29, 0, 4096, 0o1600)
message queue | call(68, 0, 0o1600)
semaphores | call(64, 0, 1, 0o1600)
personality | call(135, 0xFFFFFFFF)
Landlock | call(444, 0, 0, 1)
timer | call(222, 1, 0, (ctypes.c_int * 1)())
host name | os.uname()
executable memory | __import__('mmap').mmap(-1, 4096, prot=7)
executable memory later | _libc.mprotect(ctypes.c_void_p(ctypes.addressof(ctypes.create_string_buffer(8192)) & -4096), 4096, 5) and os.memfd_create('y')
descriptor flags | __import__('fcntl').fcntl(0, 4, 0)
name the process | call(157, 15, b'x')
"""

OUTSIDE_THE_DOMAIN = """
be traced | call(101, 0, 0, 0, 0)
"""

HARMFUL = """
io_uring | call(425, 1, (ctypes.c_uint64 * 15)())
bpf | call(321, 0, (ctypes.c_uint64 * 16)(), 128)
perf | call(298, (ctypes.c_uint64 * 16)(), 0, -1, -1, 0)
user fault | call(323, 0)
key ring | call(250, 0, -3, 1)
add a key | call(248, b'user', b'x', b'y', 1, -2)
mount | call(165, b'none', b'/mnt', b'tmpfs', 0, 0)
user namespace | call(272, 0x10000000)
namespaces | call(272, 0x20000)
enter a namespace | call(308, 0, 0)
another filter | call(317, 1, 0, 0)
module | call(313, -1, b'', 0)
local descriptor table | call(154, 1, (ctypes.c_uint64 * 2)(), 16)
port access | call(172, 3)
kernel log | call(103, 10, 0, 0)
"""

KERNEL = (
    *attempts("kernel", "seccomp", OPEN_TO_ALL),
    *attempts("kernel", "seccomp landlock", OUTSIDE_THE_DOMAIN),
    *attempts("kernel", "seccomp capabilities", HARMFUL, teeth=False),
)
