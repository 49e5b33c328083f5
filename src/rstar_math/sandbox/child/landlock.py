"""Landlock: what a process may open, connect to and signal, given up for good (kernel 5.13 on).

Source: Linux `Documentation/userspace-api/landlock.rst`. Calls and numbers are the same on all
architectures.
"""

import os
import struct
from collections.abc import Iterable

from . import kernel

CREATE_RULESET = 444
ADD_RULE = 445
RESTRICT_SELF = 446
VERSION = 1
PATH_BENEATH = 1

READ_FILE = 1 << 2
READ_DIR = 1 << 3
FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""ABI -> number of file-system rights that can be handled; later ABIs as 5."""
NET_TCP = 0b11
SCOPE_SOCKETS_AND_SIGNALS = 0b11


def abi() -> int:
    """The kernel's Landlock ABI, from 1; 0 where there is none."""
    try:
        return kernel.call(CREATE_RULESET, 0, 0, VERSION)
    except OSError:
        return 0


def _restrict(attributes: bytes, readable: Iterable[str]) -> None:
    import ctypes

    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = kernel.call(CREATE_RULESET, ctypes.addressof(buffer), len(attributes))
    try:
        for path in readable:
            _allow_reading(ruleset, path)
        kernel.call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_reading(ruleset: int, path: str) -> None:
    import ctypes

    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # nothing there, nothing to allow
    try:
        rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        rule = struct.pack("=QI", rights, fd)
        buffer = ctypes.create_string_buffer(rule, len(rule))
        kernel.call(ADD_RULE, ruleset, PATH_BENEATH, ctypes.addressof(buffer), 0)
    finally:
        os.close(fd)


def read_only(version: int, readable: Iterable[str]) -> None:
    """Give up all access to files but reading below the paths, all TCP, and abstract sockets and
    signals outside; as much of it as the ABI has. Raises OSError."""
    rights = (1 << FS_BITS.get(version, 16)) - 1
    fields = [rights]
    if version >= 4:
        fields.append(NET_TCP)
    if version >= 6:
        fields.append(SCOPE_SOCKETS_AND_SIGNALS)
    _restrict(struct.pack(f"={len(fields)}Q", *fields), readable)


def own_scope(version: int) -> None:
    """Enter a domain of one's own: no signals, ptrace or abstract sockets to the zygote either."""
    if version >= 6:
        _restrict(struct.pack("=3Q", 0, 0, SCOPE_SOCKETS_AND_SIGNALS), ())
    elif version >= 1:
        _restrict(struct.pack("=Q", 1), ("/lib", "/usr/lib"))
