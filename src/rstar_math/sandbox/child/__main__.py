"""Starts a zygote: `python -S -s -P -B __main__.py FD`, where FD is its socket to the parent.

With `probe` instead of FD, tests each layer of confinement on this machine.
"""

import ctypes
import importlib.util
import os
import sys

ADDR_NO_RANDOMIZE = 0x0040000
QUERY_PERSONALITY = 0xFFFFFFFF
"""The argument with which `personality(2)` returns the current flags and changes nothing."""


def disable_address_randomization() -> None:
    """Restart this interpreter with a fixed memory layout, if the kernel allows it.

    Results that depend on addresses, such as the order of a set of functions, are then the same in
    every zygote.
    """
    personality = getattr(ctypes.CDLL(None), "personality", None)
    if personality is None or "RSTAR_FIXED_LAYOUT" in os.environ:
        return
    flags = personality(ctypes.c_ulong(QUERY_PERSONALITY))
    if flags >= 0 and not flags & ADDR_NO_RANDOMIZE:
        personality(ctypes.c_ulong(flags | ADDR_NO_RANDOMIZE))
        os.environ["RSTAR_FIXED_LAYOUT"] = "1"
        os.execv(sys.executable, sys.orig_argv)


def register_package() -> None:
    """Register this folder as the package `rstar_sandbox_child`."""
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        "rstar_sandbox_child",
        os.path.join(folder, "__init__.py"),
        submodule_search_locations=[folder],
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["rstar_sandbox_child"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    if sys.argv[1] == "probe":
        register_package()
        importlib.import_module("rstar_sandbox_child.zygote").self_test()
    else:
        disable_address_randomization()
        register_package()
        importlib.import_module("rstar_sandbox_child.zygote").main(int(sys.argv[1]))
