"""Starts a zygote: `python -S -s -P -B __main__.py FD`, its socket to the parent being FD; or tries
the layers, with `probe` for FD."""

import ctypes
import importlib.util
import os
import sys

ADDR_NO_RANDOMIZE = 0x0040000
ASK = 0xFFFFFFFF


def fix_addresses() -> None:
    """Run again with one memory layout, so that what depends on addresses (the order of sets of
    functions, say) is the same in every zygote; where that is not allowed, go on without."""
    personality = getattr(ctypes.CDLL(None), "personality", None)
    if personality is None or "RSTAR_FIXED" in os.environ:
        return
    now = personality(ctypes.c_ulong(ASK))
    if now >= 0 and not now & ADDR_NO_RANDOMIZE:
        personality(ctypes.c_ulong(now | ADDR_NO_RANDOMIZE))
        os.environ["RSTAR_FIXED"] = "1"
        os.execv(sys.executable, sys.orig_argv)


def load() -> None:
    """Register this folder as the package `rstar_sandbox_child`."""
    here = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        "rstar_sandbox_child",
        os.path.join(here, "__init__.py"),
        submodule_search_locations=[here],
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["rstar_sandbox_child"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    if sys.argv[1] == "probe":
        load()
        importlib.import_module("rstar_sandbox_child.zygote").self_test()
    else:
        fix_addresses()
        load()
        importlib.import_module("rstar_sandbox_child.zygote").main(int(sys.argv[1]))
