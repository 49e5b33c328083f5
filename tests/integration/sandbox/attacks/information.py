"""What a snippet must not learn, and what must not pass from one snippet to the next."""

from .case import Case, attempts

KNOWLEDGE = """
environment | os.environ['RSTAR_TEST_CANARY']
C environment | _libc.getenv(b'RSTAR_TEST_CANARY') or os.listdir('@DIR@')
parent's environment | open(f'/proc/{os.getppid()}/environ', 'rb').read()
test's environment | open('/proc/@SELF@/environ', 'rb').read()
test's command line | open('/proc/@SELF@/cmdline', 'rb').read()
mounts | open('/proc/self/mounts').read()
network addresses | open('/proc/net/tcp').read()
machine id | open('/etc/machine-id').read()
target of a link | os.readlink('@DIR@/link')
processes | os.listdir('/proc')
users | __import__('pwd').getpwnam('root') and open('/etc/passwd')
"""

PROJECT = """
import sys
try:
    import rstar_math
    print("ESCAPED")
except ImportError:
    pass
if any(p and "@REPO@".startswith(p) for p in sys.path):
    print("ESCAPED")
"""

DESCRIPTORS = """
import os, stat
for fd in range(0, 4096):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode) or fd == 10:
            print("ESCAPED")
    except OSError:
        pass
"""

SECRETS_IN_MEMORY = """
import gc, sys
found = [o for o in gc.get_objects() if isinstance(o, dict) and "RSTAR_TEST_CANARY" in o]
if found or "RSTAR_TEST_CANARY" in repr(sys.argv) + repr(sys.orig_argv):
    print("ESCAPED")
"""

INFORMATION = (
    *(
        Case(c.name, c.group, c.code.replace("OSError", "(OSError, KeyError)"))
        for c in attempts("information", "", KNOWLEDGE, teeth=False)
    ),
    Case("information: the project", "information", PROJECT),
    Case(
        "information: descriptors",
        "information",
        DESCRIPTORS,
        stopped_by=frozenset({"descriptors"}),
        teeth=True,
    ),
    Case("information: objects", "information", SECRETS_IN_MEMORY),
)

_LEAKS = (
    ("builtins", "import builtins; builtins.len = lambda x: 99", "len([]) == 99"),
    ("module", "import math; math.pi = 3", "__import__('math').pi == 3"),
    ("new module", "import sys; sys.modules['mine'] = sys", "'mine' in __import__('sys').modules"),
    ("environment", "import os; os.environ['X'] = '1'", "'X' in __import__('os').environ"),
    ("global", "leak = 1", "'leak' in globals()"),
    (
        "random numbers",
        "import random; random.seed(5)",
        "__import__('random').random() != 0.8444218515250481",
    ),
    ("class", "import fractions; fractions.Fraction.__add__ = 3", "1 == 0"),
    (
        "numpy",
        "import numpy as n; n.set_printoptions(2)",
        "__import__('numpy').get_printoptions()['precision'] == 2",
    ),
    (
        "recursion",
        "import sys; sys.setrecursionlimit(50)",
        "__import__('sys').getrecursionlimit() == 50",
    ),
    (
        "signal",
        "import signal; signal.signal(10, lambda *a: 0)",
        "__import__('signal').getsignal(10) != 0",
    ),
    (
        "decimal",
        "import decimal; decimal.getcontext().prec = 3",
        "__import__('decimal').getcontext().prec == 3",
    ),
    ("sympy", "import sympy; sympy.solve = None", "__import__('sympy').solve is None"),
    ("streams", "import sys; sys.stdout = None", "__import__('sys').stdout is None"),
)

LEAKS = tuple(
    Case(f"leaks: {name}", "leaks", first, "ok", then=f"if {test}: print('ESCAPED')")
    for name, first, test in _LEAKS
)
