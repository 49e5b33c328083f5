# ruff: noqa: E501  (one case a line)
"""Reading, writing and changing files. @SECRET@, @VICTIM@ and @DIR@ are canaries."""

from .case import attempts

READS = """
open | open('@SECRET@').read()
os.open | os.read(os.open('@SECRET@', os.O_RDONLY), 9)
pathlib | __import__('pathlib').Path('@SECRET@').read_text()
FileIO | __import__('io').FileIO('@SECRET@').read()
codecs | __import__('codecs').open('@SECRET@').read()
listdir | os.listdir('@DIR@')
scandir | list(os.scandir('@DIR@'))
glob | __import__('glob').glob('@DIR@/*') or os.listdir('@DIR@')
through a parent | open('/usr/lib/../..@SECRET@').read()
through a descriptor | os.open('../..@SECRET@', os.O_RDONLY, dir_fd=os.open('/usr/lib', os.O_RDONLY))
raw openat | call(257, -100, b'@SECRET@', 0, 0)
mmap | __import__('mmap').mmap(os.open('@SECRET@', os.O_RDONLY), 0, prot=1)
numpy.fromfile | __import__('numpy').fromfile('@SECRET@', dtype='u1')
numpy.loadtxt | __import__('numpy').loadtxt('@SECRET@', dtype=str)
source loader | __import__('importlib.machinery', fromlist=['x']).SourceFileLoader('m', '@SECRET@').get_data('@SECRET@')
tokenize | __import__('tokenize').open('@SECRET@').read()
a symbolic link | open('@DIR@/link').read()
the project | open('@REPO@/pyproject.toml').read()
/etc/passwd | open('/etc/passwd').read()
/tmp | os.listdir('/tmp')
the root folder | os.listdir('/')
/dev/shm | os.listdir('/dev/shm')
/sys | os.listdir('/sys')
"""

WRITES = """
create | open('@DIR@/new', 'w')
append | open('@VICTIM@', 'a')
read and write | open('@VICTIM@', 'r+b')
truncating open | os.open('@VICTIM@', os.O_RDONLY | os.O_TRUNC)
truncate | os.truncate('@VICTIM@', 0)
exclusive | open('@DIR@/new2', 'x')
unnamed file | os.open('@DIR@', os.O_TMPFILE | os.O_RDWR)
temporary file | __import__('tempfile').mkstemp(dir='@DIR@')
unlink | os.unlink('@VICTIM@')
rename | os.rename('@VICTIM@', '@DIR@/moved')
hard link | os.link('@VICTIM@', '@DIR@/hard')
symbolic link | os.symlink('/', '@DIR@/soft')
mkdir | os.mkdir('@DIR@/made')
rmdir | os.rmdir('@DIR@/empty')
fifo | os.mkfifo('@DIR@/fifo')
"""

CONTENTS = """
numpy.save | __import__('numpy').save('@DIR@/array', [1])
write | open('@VICTIM@', 'w').write('x' * 10**5)
copy | __import__('shutil').copyfile('@SECRET@', '@DIR@/copy')
"""

METADATA = """
chmod | os.chmod('@VICTIM@', 0o777)
chown | os.chown('@VICTIM@', os.getuid(), os.getgid())
utime | os.utime('@VICTIM@', (0, 0))
utime of a folder | os.utime('@DIR@', (0, 0))
change folder | os.chdir('@DIR@')
umask | call(95, 0)
file system figures | os.statvfs('@DIR@')
"""

HARMFUL = """
packages | open(__import__('sympy').__file__, 'a')
chroot | os.chroot('/usr')
device node | os.mknod('@DIR@/null', 0o20666, os.makedev(1, 3))
extended attribute | os.setxattr('@VICTIM@', 'user.x', b'1')
raw openat2 | call(437, -100, b'@SECRET@', (ctypes.c_uint64 * 3)(), 24)
handle | call(303, -100, b'@SECRET@', (ctypes.c_uint64 * 32)(), (ctypes.c_int * 1)(), 0)
memory by /proc | open('/proc/self/mem', 'rb')
maps by /proc | open('/proc/self/maps')
root by /proc | open('/proc/self/root@SECRET@')
"""

FILES = (
    *attempts("files", "landlock", READS),
    *attempts("files", "landlock seccomp", WRITES),
    *attempts("files", "landlock rlimits seccomp", CONTENTS),
    *attempts("files", "seccomp", METADATA),
    *attempts("files", "landlock seccomp capabilities", HARMFUL, teeth=False),
)
