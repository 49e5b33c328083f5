# ruff: noqa: E501  (one case a line)
"""What honest code does must work, and print this."""

from .case import Case

_PROGRAMS = (
    ("print", "print(6 * 7)", "42\n"),
    ("state", "x = 3\nx += 1\nprint(x)", "4\n"),
    (
        "function",
        "def f(n): return 1 if n < 2 else n * f(n - 1)\nprint(f(20))",
        "2432902008176640000\n",
    ),
    ("class", "class A:\n    def __init__(self): self.x = 2\nprint(A().x)", "2\n"),
    (
        "dataclass",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(3))",
        "P(x=3)\n",
    ),
    ("generator", "print(sum(i * i for i in range(10)))", "285\n"),
    (
        "comprehension in a function",
        "n = 3\ndef f(): return [n * i for i in range(3)]\nprint(f())",
        "[0, 3, 6]\n",
    ),
    ("fractions", "from fractions import Fraction as F\nprint(F(1, 3) + F(1, 6))", "1/2\n"),
    ("decimal", "from decimal import Decimal as D\nprint(D('0.1') + D('0.2'))", "0.3\n"),
    (
        "math",
        "import math\nprint(math.comb(50, 25), round(math.pi, 5))",
        "126410606437752 3.14159\n",
    ),
    ("statistics", "import statistics as s\nprint(s.median([3, 1, 2]))", "2\n"),
    (
        "itertools",
        "from itertools import permutations as p\nprint(len(list(p(range(6)))))",
        "720\n",
    ),
    (
        "collections",
        "from collections import Counter\nprint(Counter('aab').most_common(1))",
        "[('a', 2)]\n",
    ),
    (
        "functools",
        "from functools import lru_cache\n@lru_cache(None)\ndef f(n): return n if n < 2 else f(n-1)+f(n-2)\nprint(f(90))",
        "2880067194370816120\n",
    ),
    (
        "datetime",
        "from datetime import date\nprint((date(2024, 3, 1) - date(2024, 2, 1)).days)",
        "29\n",
    ),
    ("calendar", "import calendar\nprint(calendar.isleap(2000))", "True\n"),
    ("time zone", "from zoneinfo import ZoneInfo as Z\nprint(Z('UTC'))", "UTC\n"),
    ("re", "import re\nprint(re.findall(r'\\d+', 'a1b22'))", "['1', '22']\n"),
    ("json", "import json\nprint(json.dumps({'a': [1, None]}))", '{"a": [1, null]}\n'),
    ("heapq", "import heapq\nprint(heapq.nsmallest(2, [3, 1, 2]))", "[1, 2]\n"),
    ("big integer", "print(len(str(2 ** 20000)))", "6021\n"),
    ("unicode", "print('π ≈ 3.14 — ∑')", "π ≈ 3.14 — ∑\n"),
    ("f-string", "x = 2/3\nprint(f'{x:.3f}')", "0.667\n"),
    (
        "string io",
        "import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b): print(1)\nprint(repr(b.getvalue()))",
        "'1\\n'\n",
    ),
    (
        "exception caught",
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    print('caught', e)",
        "caught division by zero\n",
    ),
    ("no new line at the end", "print('x', end='')", "x"),
    ("nothing", "x = 1", ""),
    (
        "sympy solve",
        "from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 5*x + 6, x))",
        "[2, 3]\n",
    ),
    (
        "sympy integrate",
        "import sympy as sp\nx = sp.Symbol('x')\nprint(sp.integrate(sp.sin(x), (x, 0, sp.pi)))",
        "2\n",
    ),
    ("sympy matrix", "from sympy import Matrix\nprint(Matrix([[1, 2], [3, 4]]).det())", "-2\n"),
    (
        "sympy number theory",
        "from sympy import primerange, factorint\nprint(list(primerange(20)), factorint(360))",
        "[2, 3, 5, 7, 11, 13, 17, 19] {2: 3, 3: 2, 5: 1}\n",
    ),
    ("sympy latex", "from sympy import *\nprint(latex(sqrt(8) / 3))", "\\frac{2 \\sqrt{2}}{3}\n"),
    ("mpmath", "import mpmath\nprint(mpmath.nstr(mpmath.zeta(2), 8))", "1.6449341\n"),
    ("numpy", "import numpy as np\nprint(np.linalg.solve([[2, 0], [0, 4]], [2, 4]))", "[1. 1.]\n"),
    (
        "numpy big",
        "import numpy as np\na = np.ones((400, 400))\nprint((a @ a).sum())",
        "64000000.0\n",
    ),
    ("numpy 200 MB", "import numpy as np\nprint(np.ones(25_000_000).sum())", "25000000.0\n"),
    (
        "scipy",
        "from scipy.optimize import brentq\nprint(round(brentq(lambda x: x * x - 2, 0, 2), 6))",
        "1.414214\n",
    ),
    (
        "scipy statistics",
        "from scipy import stats\nprint(round(stats.norm.cdf(1.96), 3))",
        "0.975\n",
    ),
    ("random repeats", "import random\nrandom.seed(1)\nprint(random.randint(1, 100))", "18\n"),
    ("own seed", "import random\nprint(random.random())", "0.8444218515250481\n"),
    ("main guard", "if __name__ == '__main__':\n    print('main')", "main\n"),
    ("future import", "from __future__ import annotations\nprint(1)", "1\n"),
    (
        "deep recursion",
        "import sys\nsys.setrecursionlimit(20000)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(5000))",
        "5000\n",
    ),
    ("sorting", "print(sorted('banana', key=lambda c: -ord(c))[:2])", "['n', 'n']\n"),
    ("walrus and match", "match (n := 3):\n    case 3: print('three', n)", "three 3\n"),
    (
        "pickle",
        "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
        "True\n",
    ),
    (
        "event loop",
        "import asyncio\nasync def f(n):\n    await asyncio.sleep(n / 100)\n    return n\nasync def g(): return await asyncio.gather(f(2), f(1))\nprint(asyncio.run(g()))",
        "[2, 1]\n",
    ),
    ("warning", "import warnings\nwarnings.warn('careful')\nprint(1)", "1\n"),
    ("set order", "print(list({'a', 'b', 'c', 'd'}) == list({'a', 'b', 'c', 'd'}))", "True\n"),
)

_ERRORS = (
    ("division", "print('before')\n1 / 0", "before\n"),
    ("name", "print(undefined)", ""),
    ("input", "input()", ""),
    ("missing module", "import not_a_module", ""),
    ("assertion", "assert 1 == 2, 'no'", ""),
)

HONEST = (
    *(Case(f"honest: {name}", "honest", code, "ok", prints=out) for name, code, out in _PROGRAMS),
    *(Case(f"honest: {name}", "honest", code, "error", prints=out) for name, code, out in _ERRORS),
)
