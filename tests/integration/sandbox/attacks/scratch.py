# ruff: noqa: E501  (one case a line)
"""Abuse of the scratch folder. Every program has one, because it writes a file first."""

import re
from collections.abc import Iterable
from dataclasses import replace

from .case import Case, attempts

WRITE = "open('own', 'w').close()"

KINDS = """
symbolic link | os.symlink('@SECRET@', 'soft')
relative symbolic link | os.symlink('own', 'soft')
raw symlinkat | call(266, b'own', -100, b'soft')
hard link | os.link('own', 'hard')
hard link from outside | os.link('@SECRET@', 'hard')
raw linkat of a descriptor | call(265, os.open('own', os.O_RDWR), b'', -100, b'hard', 0x1000)
fifo | os.mkfifo('fifo')
device | os.mknod('null', 0o20666, os.makedev(1, 3))
node of a socket | os.mknod('socket', 0o140666)
socket | __import__('socket').socket(1).bind('socket')
extended attribute | os.setxattr('own', 'user.x', b'1')
extended attribute by descriptor | call(190, os.open('own', os.O_RDWR), b'user.x', b'1', 1, 0)
list of attributes | os.listxattr('own')
unnamed file | os.open('.', os.O_TMPFILE | os.O_RDWR)
mode | os.chmod('own', 0o777)
mode of a library | call(91, os.open(os.__file__, os.O_RDONLY), 0o777)
dates | os.utime('own', (0, 0))
file system figures | os.statvfs('.')
signals by a file | os.open('own', os.O_RDWR | 0o20000)
"""

OUT = """
rename out | os.rename('own', '@DIR@/moved')
rename in | os.rename('@VICTIM@', 'moved')
raw renameat2 exchange | call(316, -100, b'own', -100, b'@VICTIM@', 2)
replace | os.replace('own', '@VICTIM@')
append outside | open('@VICTIM@', 'a')
create outside | open('@DIR@/new', 'w')
truncating open outside | os.open('@VICTIM@', os.O_RDONLY | os.O_TRUNC)
truncating open inside | os.open('own', os.O_RDONLY | os.O_TRUNC)
truncate outside | os.truncate('@VICTIM@', 0)
through a parent | open('../..@VICTIM@', 'r+')
through a descriptor | os.open('../..@VICTIM@', os.O_RDWR, dir_fd=os.open('.', os.O_RDONLY))
read through a parent | open('../..@SECRET@').read()
the parent | os.listdir('..')
remove outside | os.unlink('@VICTIM@')
make a folder outside | os.mkdir('@DIR@/made')
remove a folder outside | os.rmdir('@DIR@/empty')
the folder itself | os.rename(os.getcwd(), '/moved')
remove the folder itself | os.rmdir(os.getcwd())
packages | open(__import__('sympy').__file__, 'a')
standard library | os.open(os.__file__, os.O_RDWR)
cache of a package | os.mkdir(os.path.dirname(os.__file__) + '/made')
write /dev/shm | open('/dev/shm/made', 'w')
write /tmp | open('/tmp/made', 'w')
write /proc | open('/proc/self/oom_score_adj', 'w')
random device | os.open('/dev/urandom', os.O_RDWR)
terminal | os.open('/dev/tty', os.O_RDWR)
copy of a secret | __import__('shutil').copyfile('@SECRET@', 'copy')
"""

NAMESPACES = """
mount | call(165, b'tmpfs', b'.', b'tmpfs', 0, 0)
unmount | call(166, os.getcwd().encode(), 2)
remount | call(165, 0, b'/', 0, 0x1020, 0)
mount attributes | call(442, -100, b'/', 0x8000, (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32)
copy of a mount | call(428, -100, b'/', 1)
new file system | call(430, b'tmpfs', 0)
new namespace | call(272, 0x20000)
new user namespace | call(272, 0x10000000)
enter a namespace | call(308, 3, 0)
root | os.chroot('.')
pivot | call(155, b'.', b'.')
folder of work | os.chdir('.')
capabilities | call(126, (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(1 << 21, 1 << 21))
"""

EXECUTION = """
execute | os.execv('own', ['own'])
"""

CODE_FROM_A_FILE = f"""
import ctypes, mmap
with open("code", "wb") as file:
    file.write(b"\\xc3" * 4096)
with open("code", "rb") as file:
    try:
        mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    except OSError as e:
        print(e)
    else:
        print("{"ESC" + "APED"}")
try:
    ctypes.CDLL("./code")
except OSError as e:
    print("not loaded")
"""

FULL = r"""
one file | f = open('a', 'wb')\nwhile True: f.write(bytes(1 << 20))
many files | for n in range(10**6): open(f'a{n}', 'w').close()
many folders | import os\nfor n in range(10**6): os.mkdir(f'a{n}')
deep folders | import os\npath = '.'\nfor n in range(10**6):\n    path += '/d'\n    os.mkdir(path)
sparse file | open('a', 'wb').truncate(1 << 40)
far write | f = open('a', 'wb')\nf.seek(1 << 40)\nf.write(b'x')\nf.flush()
preallocated | import os\nos.posix_fallocate(os.open('a', os.O_RDWR | os.O_CREAT), 0, 1 << 30)
small files | for n in range(10**6): open(f'a{n}', 'wb').write(bytes(1 << 18))
long name | open('a' * 300, 'w')
"""


def _full() -> list[Case]:
    cases = []
    for line in FULL.strip().splitlines():
        name, body = line.split(" | ", 1)
        code = f"{body}\nprint('ESCAPED')".replace("\\n", "\n")
        cases.append(Case(f"scratch: {name}", "scratch", code, "error"))
    return cases


def _attempts(layers: str, table: str) -> Iterable[Case]:
    """Cases that run to their end: each attempt raises OSError."""
    with_file = re.sub(r"^(.+?) \| ", rf"\1 | {WRITE}; ", table.strip(), flags=re.MULTILINE)
    for case in attempts("scratch", layers, with_file, teeth=False):
        yield replace(case, expect="ok")


SCRATCH = (
    *_attempts("seccomp landlock scratch", KINDS),
    *_attempts("landlock scratch", OUT),
    *_attempts("seccomp landlock", NAMESPACES),
    *_attempts("seccomp scratch", EXECUTION),
    Case("scratch: code from a file", "scratch", CODE_FROM_A_FILE, "ok"),
    *_full(),
)
