# ruff: noqa: E501  (one case a line)
"""Time, memory, output, ends and parsing."""

from .case import programs

_TIMEOUTS = r"""
loop | while True: pass
sleep | import time; time.sleep(60)
swallows all | while True:\n    try:\n        while True: pass\n    except BaseException: pass
ignores signals | import signal\nfor s in (1, 2, 3, 14, 15, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass
blocks signals | import signal\nsignal.pthread_sigmask(0, range(1, 32))\nwhile True: pass
own alarm | import signal, time\nsignal.signal(14, lambda *a: signal.alarm(1))\nsignal.alarm(1)\nwhile True: time.sleep(9)
one C call | sum(range(10**13))
one power | 3**(10**9) % 7
regular expression | import re; re.match(r'(a+)+$', 'a'*60 + 'b')
empty pipe | import os; os.read(os.pipe()[0], 1)
lock | import threading; l = threading.Lock(); l.acquire(); l.acquire()
pause | import signal; signal.pause()
poll | import select; select.poll().poll()
sigwait | import signal; signal.sigwait([10])
hostile flush | import sys\nclass S:\n    def write(self, s): pass\n    def flush(self):\n        while True: pass\nsys.stdout = S()
hostile message | class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E
hostile class name | class M(type):\n    def __getattribute__(c, n):\n        while n == '__name__': pass\n        return type.__getattribute__(c, n)\nclass E(Exception, metaclass=M): pass\nraise E
in sympy | import sympy; sympy.factorint(2**521*0 + (2**127-1)*(2**107-1)*(2**89-1)*1000003*(10**40+121)*(10**41+9))
floods the report | import os\nwhile True: os.write(3, b'x'*65536)
report and stay | import os\nos.write(3, b'{"status":"ok"}')\nwhile True: pass
"""

_MEMORY = r"""
one block | bytearray(10**11)
list | l = []\nwhile True: l.append(bytearray(10**6))
doubling | s = 'x'\nwhile True: s += s
list of zeros | [0] * 10**11
big integer | 1 << 10**11
numpy | import numpy; numpy.zeros(10**11)
anonymous map | import mmap; mmap.mmap(-1, 1 << 36)
dictionary | d = {}\nwhile True: d[len(d)] = bytearray(10**5)
product | import itertools; list(itertools.product(range(10**4), repeat=4))
permanent garbage | class C:\n    pass\nx = None\nwhile True:\n    y = C(); y.x = x; y.b = bytearray(10**5); x = y
"""

_EXITS_OK = r"""
sys.exit | import sys; sys.exit()
sys.exit code | import sys; sys.exit(3)
sys.exit text | import sys; sys.exit('bye')
exit | exit()
quit | quit()
SystemExit | raise SystemExit(1)
nested | try:\n    raise ValueError\nfinally:\n    raise SystemExit
patched _exit | import os; os._exit = print
swallowed | try:\n    exit()\nexcept SystemExit: pass
"""

_EXITED = r"""
os._exit 0 | import os; os._exit(0)
os._exit 7 | import os; os._exit(7)
raw exit | import ctypes; ctypes.CDLL(None).syscall(231, 0)
C exit | import ctypes; ctypes.CDLL(None)._exit(0)
"""

_KILLED = r"""
null pointer | import ctypes; ctypes.string_at(0)
abort | import os; os.abort()
"""

_ERRORS = r"""
kills itself | import os; os.kill(os.getpid(), 9)
interrupt | raise KeyboardInterrupt
generator exit | raise GeneratorExit
message of a mile | raise ValueError('x' * 10**7)
hostile message that raises | class E(Exception):\n    def __str__(self): 1/0\nraise E
recursion | def f(): f()\nf()
"""

_FORGED = r"""
forged success | import os; os.write(3, b'{"status":"ok"}'); os._exit(0)
"""

_GARBLED = r"""
two reports | import os; os.write(3, b'{"status":"error","type":"X","message":"y"}')
too long a report | import os; os.write(3, b' ' * 9000)
not JSON | import os; os.write(3, b'[' * 5000)
"""

_CAPPED = r"""
print for ever | while True: print('x' * 100)
one line | print('x' * 10**8)
no new line | import sys\nwhile True: sys.stdout.write('x')
raw writes | import os\nwhile True: os.write(1, b'x' * 4096)
errors | import sys\nwhile True: print('x', file=sys.stderr)
caught | try:\n    while True: print('x' * 1000)\nexcept BaseException: pass
"""

_PRINTS = r"""
word error | print('error: timeout killed')
surrogate | print('\ud800')
raw bytes | import os; os.write(1, bytes(range(256)))
up to the cap | print('x' * 65535)
"""

_SYNTAX = r"""
unfinished | def f(
indentation | if 1:\nx = 1
null byte | x = 1${NUL}
bad character | x = 1 § 2
unterminated | x = '''abc
break outside | break
return outside | return 1
deep brackets | ${DEEP}
deep minus | ${MINUS}
lone surrogate | x = '${SURROGATE}'
"""


def _fill(table: str) -> str:
    return (
        table.replace("${NUL}", "\0")
        .replace("${DEEP}", "(" * 50_000)
        .replace("${MINUS}", "-" * 200_000 + "1")
        .replace("${SURROGATE}", "\ud800")
    )


TIME = (*programs("time", "timeout", _TIMEOUTS, "supervisor"),)
MEMORY = (*programs("memory", "memory", _MEMORY, "rlimits"),)
EXITS = (
    *programs("exits", "ok", _EXITS_OK),
    *programs("exits", "exited", _EXITED),
    *programs("exits", "killed", _KILLED),
    *programs("exits", "error", _ERRORS),
)
OUTPUT = (
    *programs("output", "output_cap", _CAPPED, "supervisor"),
    *programs("output", "ok", _PRINTS),
    *programs("output", "ok", _FORGED),
    *programs("output", "exited", _GARBLED),
)
PARSING = (*programs("parsing", "error", _fill(_SYNTAX)),)
