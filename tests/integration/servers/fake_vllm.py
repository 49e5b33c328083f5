"""Stands for `vllm serve`: takes its options, starts processes of its own that are hard to get rid
of, and answers like a model server. What it does is set by environment variables:

FAKE_PIDS    file that gets the numbers of all its processes
FAKE_FAULT   "crash" before it answers, "hang" without ever answering, "taken" the first time as if
             its port were taken, "deaf" to being told to end
FAKE_ADDS    if set, it answers questions for sums
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rstar_math.testing import PromptCache, serving

Answers = Callable[[Mapping[str, Any]], list[str]]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--lora-modules", nargs="*", default=[])
    found, rest = parser.parse_known_args()
    print("options:", sys.argv[1:], "CUDA:", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    del rest
    return found


def breed(pids: Path) -> None:
    """A child as vLLM's engine, and a grandchild that leaves the session and ignores all."""
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
        _note(pids)
        time.sleep(600)
        os._exit(0)
    _note(pids)


def _note(pids: Path) -> None:
    with pids.open("a") as file:
        file.write(f"{os.getpid()}\n")


def answers() -> Answers:
    """What it says."""
    if "FAKE_ADDS" not in os.environ:
        return lambda body: ["It is \\boxed{42}.<answer/>"] * int(body["n"])
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    from tests.e2e.adder import answer

    return answer


def main() -> None:
    found = options()
    fault = os.environ.get("FAKE_FAULT", "")
    pids = Path(os.environ["FAKE_PIDS"])
    breed(pids)
    if fault == "crash":
        print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
        sys.exit(3)
    if fault == "taken" and not (mark := pids.with_suffix(".taken")).exists():
        mark.touch()
        print("OSError: [Errno 98] Address already in use", flush=True)
        sys.exit(1)
    if fault == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if fault == "hang":
        time.sleep(600)
    with serving(answers(), model=found.served_model_name, port=found.port) as fake:
        fake.key = os.environ["VLLM_API_KEY"]
        fake.adapters = tuple(one.partition("=")[0] for one in found.lora_modules)
        fake.cache = PromptCache(block_tokens=4)
        if fault != "deaf":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        time.sleep(600)


if __name__ == "__main__":
    main()
