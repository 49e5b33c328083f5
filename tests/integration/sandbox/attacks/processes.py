# ruff: noqa: E501  (one case a line)
"""Starting processes and threads, and reaching others. @NEIGHBOUR@ is a process the test started."""

from .case import Case, attempts

STARTS = """
fork | os.fork() or os._exit(0)
raw fork | call(57) or os._exit(0)
raw clone | call(56, 17, 0, 0, 0, 0) or os._exit(0)
system | os.system('true') and os.fork()
multiprocessing | __import__('multiprocessing').get_context('fork').Process().start()
"""

COMMANDS = """
forkpty | os.forkpty()[0] or os._exit(0)
subprocess | __import__('subprocess').run(['/bin/true'])
popen | os.popen('true').read()
posix_spawn | os.posix_spawn('/bin/true', ['true'], {})
"""

THREADS = """
thread | __import__('_thread').start_new_thread(id, (1,))
threading.Thread | __import__('threading').Thread(target=id, args=(1,)).start()
thread pool | __import__('concurrent.futures').futures.ThreadPoolExecutor(1).submit(id, 1)
timer | __import__('threading').Timer(0, id).start()
"""

REACHES = """
signal 0 to the zygote | os.kill(os.getppid(), 0)
signal 0 to a neighbour | os.kill(@NEIGHBOUR@, 0)
SIGTERM to a neighbour | os.kill(@NEIGHBOUR@, 15)
group of a neighbour | os.killpg(@NEIGHBOUR@, 15)
tgkill | call(234, @NEIGHBOUR@, @NEIGHBOUR@, 15)
tkill | call(200, @NEIGHBOUR@, 15)
"""

SCHEDULES = """
affinity of a neighbour | os.sched_setaffinity(@NEIGHBOUR@, {0})
niceness of a neighbour | os.setpriority(0, @NEIGHBOUR@, 19)
"""

CONTROLS = """
prlimit of a neighbour | __import__('resource').prlimit(@NEIGHBOUR@, 7)
own affinity | os.sched_setaffinity(0, {0})
pidfd | os.pidfd_open(@NEIGHBOUR@)
become dumpable | call(157, 4, 1)
outlive the zygote | call(157, 1, 0)
"""

HARMFUL = """
fork bomb | exec('while True: os.fork()')
thread bomb | exec('import _thread\\nwhile True: _thread.start_new_thread(exec, ("while True: pass",))')
kill everyone | os.kill(-1, 9)
kill the zygote | os.kill(os.getppid(), 9)
stop the zygote | os.kill(os.getppid(), 19)
kill the session | os.killpg(os.getpgid(os.getppid()), 9)
signal by fcntl | __import__('fcntl').fcntl(os.pipe()[0], 8, @NEIGHBOUR@)
signal by ioctl | __import__('fcntl').ioctl(os.pipe()[0], 0x8901, (ctypes.c_int * 1)(@NEIGHBOUR@))
attach to the zygote | call(101, 16, os.getppid(), 0, 0)
attach to a neighbour | call(101, 16, @NEIGHBOUR@, 0, 0)
read the zygote's memory | call(310, os.getppid(), (ctypes.c_uint64 * 2)(0, 8), 1, (ctypes.c_uint64 * 2)(0, 8), 1, 0)
write the zygote's memory | call(311, os.getppid(), (ctypes.c_uint64 * 2)(0, 8), 1, (ctypes.c_uint64 * 2)(0, 8), 1, 0)
take a descriptor | call(438, call(434, os.getppid(), 0), 0, 0)
new process group | os.setpgid(0, 0)
new session | os.setsid()
vfork | call(435, (ctypes.c_uint64 * 11)(), 88)
x32 getpid | call(0x40000000 + 39)
raise own limits | __import__('resource').setrlimit(4, (1 << 30, 1 << 30))
"""

EXECUTE = f"""
import os
for program in ("/bin/echo", "/usr/bin/echo"):
    try:
        os.execv(program, ["echo", "{"ESC" + "APED"}"])
    except OSError as e:
        print(e)
"""

PROCESSES = (
    *attempts("processes", "seccomp rlimits", STARTS),
    *attempts("processes", "seccomp rlimits", THREADS, teeth=False),
    *attempts("processes", "seccomp landlock", REACHES),
    *attempts("processes", "landlock rlimits seccomp", COMMANDS),
    *attempts("processes", "capabilities seccomp", SCHEDULES),
    *attempts("processes", "seccomp", CONTROLS),
    *attempts("processes", "seccomp landlock dumpable", HARMFUL, teeth=False),
    Case("processes: exec", "processes", EXECUTE, stopped_by=frozenset({"seccomp", "landlock"})),
)
