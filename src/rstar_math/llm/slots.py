"""Assigns requests of the embedded server to slots, so that a shared prefix is computed once.

llama.cpp gives each slot a key/value cache of its own, and cannot copy from one slot to another for
a different prompt. It can save a slot's state to a file and restore it into any slot, which for
450 tokens of SmolLM2-135M takes 6 ms and 2 ms instead of the second that computing them takes. So
each request names its slot here, and a slot that lacks the prompt's prefix is restored from a saved
state first. The files are in memory only (memfd), and vanish with the process.

The server itself compares tokens before it reuses anything: a wrong record here costs time and
never changes an answer.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rstar_math.errors import ModelError
from rstar_math.llm.client import OpenAIClient

Prompt = TypeVar("Prompt", str, tuple[int, ...])
"""A prompt as text or as tokens. Lengths below are characters or tokens accordingly."""
STATE_FOLDER = "/proc/self/fd/"
"""Where llama.cpp finds the files of saved states: file descriptors of this process."""
STATES_BYTES = 1 << 30
"""Most memory for saved states."""
_STATES = 128
"""Most saved states: each holds a file descriptor."""
_RESTORE = {str: 8, tuple: 3}
"""A prefix that is this much longer is worth a restore: computing 3 tokens takes longer."""
_GAIN = {str: 32, tuple: 10}
"""A prefix that is this much longer is worth a wait for a prompt in progress, or saving."""


def can_save() -> bool:
    """Whether this system has the files in memory that saved states need."""
    return hasattr(os, "memfd_create") and os.path.isdir(STATE_FOLDER)


def common_length(a: Prompt, b: Prompt) -> int:
    """Length of the longest common prefix, by bisection."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass(slots=True, eq=False)
class Slot(Generic[Prompt]):
    """One slot of the server."""

    number: int
    holds: Prompt
    """What its cache begins with, as far as known here."""
    keep: bool = False
    """Whether its state is saved before another prefix replaces it."""
    used: int = 0
    """When it was last given out, as a running number."""


@dataclass(slots=True, eq=False)
class _State(Generic[Prompt]):
    """A saved state."""

    holds: Prompt
    file: int
    size_bytes: int
    used: int
    readers: int = 0
    """Restores in progress; such a state is not dropped."""


@dataclass(slots=True, eq=False)
class _Pending(Generic[Prompt]):
    """A prompt that is being computed and will be saved."""

    prompt: Prompt
    done: asyncio.Event


class DecodingSlots(Generic[Prompt]):
    """Gives out the slots of a server in the order of asking, each with as much of the prompt in
    its cache as any slot or saved state has. `empty` is the empty prompt: "" or ()."""

    def __init__(
        self, http: OpenAIClient, total: int, *, empty: Prompt, states_bytes: int | None = None
    ) -> None:
        self._http = http
        self._empty: Prompt = empty
        self._idle: list[Slot[Prompt]] = [Slot(number, empty) for number in range(total)]
        self._free = asyncio.Semaphore(total)
        self._states: list[_State[Prompt]] = []
        self._files: list[int] = []
        self._pending: list[_Pending[Prompt]] = []
        self._clock = 0
        self._restore, self._gain = _RESTORE[type(empty)], _GAIN[type(empty)]
        limit = _quarter_of_memory() if states_bytes is None else states_bytes
        self._limit = limit if can_save() else 0

    @property
    def states_bytes(self) -> int:
        """Memory that the saved states take."""
        return sum(state.size_bytes for state in self._states)

    def close(self) -> None:
        """Free the saved states. Only after the server has ended: it opens files by number, and
        the number of a closed file may come to name another one."""
        for file in [state.file for state in self._states] + self._files:
            os.close(file)
        self._states, self._files, self._limit = [], [], 0

    @asynccontextmanager
    async def acquire(self, prompt: Prompt, *, keep: bool = False) -> AsyncIterator[Slot[Prompt]]:
        """A slot for as long as the block runs, with the longest known prefix of `prompt` in its
        cache. The block sets `slot.holds` to what it leaves there; `keep` says that the next
        prompt probably goes on from that. A block that fails or is cancelled leaves the slot
        usable, with unknown content."""
        async with self._free:
            slot = self._choose(prompt)
            self._idle.remove(slot)
            self._clock += 1
            slot.used = self._clock
            held, slot.holds = slot.holds, self._empty
            try:
                slot.holds = await self._filled(slot, held, prompt)
                slot.keep = keep
                yield slot
            except BaseException:
                slot.holds = self._empty
                raise
            finally:
                self._idle.append(slot)

    async def share(
        self, prompt: Prompt, n: int, compute: Callable[[Slot[Prompt]], Any]
    ) -> Any | None:
        """Make `prompt` a saved state where that pays: where `n` > 1 samples start from it, or
        where a long part of it is in no cache. Returns what `await compute(slot)` returned, which
        is None where it failed, or None where nothing was computed. Of several prompts with a
        common prefix that come together, the first is computed alone and the others start from its
        state."""
        if not self._limit:
            return None
        while (pending := self._worth_waiting(prompt)) is not None:
            await pending.done.wait()
        stored = self._best(prompt)[1]
        new = len(prompt) - max(stored, self._longest_idle(prompt))
        if stored == len(prompt) or (n == 1 and new < 8 * self._gain):
            return None
        with self._computing(prompt):
            async with self.acquire(prompt) as slot:
                found = await compute(slot)
                slot.holds = self._empty if found is None else prompt
                if found is not None:
                    await self._save(slot, prompt)
                return found

    def _worth_waiting(self, prompt: Prompt) -> _Pending[Prompt] | None:
        """A prompt in progress that has clearly more of this one than any cache."""
        have = max(self._best(prompt)[1], self._longest_idle(prompt))
        lengths = [(common_length(one.prompt, prompt), one) for one in self._pending]
        longest, pending = max(lengths, key=lambda pair: pair[0], default=(0, None))
        return pending if longest >= have + self._gain else None

    @contextmanager
    def _computing(self, prompt: Prompt) -> Iterator[None]:
        """A block during which others may wait for this prompt's state."""
        pending = _Pending(prompt, asyncio.Event())
        self._pending.append(pending)
        try:
            yield
        finally:
            self._pending.remove(pending)
            pending.done.set()

    def _longest_idle(self, prompt: Prompt) -> int:
        return max((common_length(slot.holds, prompt) for slot in self._idle), default=0)

    def _best(self, prompt: Prompt) -> tuple[_State[Prompt] | None, int]:
        """The saved state with the longest prefix of a prompt, and that length."""
        lengths = [(common_length(state.holds, prompt), state) for state in self._states]
        length, state = max(lengths, key=lambda pair: pair[0], default=(0, None))
        return state, length

    def _choose(self, prompt: Prompt) -> Slot[Prompt]:
        """The idle slot that holds clearly more of the prompt than the saved states do; without
        one, the slot whose content is least likely to be asked for again."""
        best = self._idle[0]
        for slot in self._idle:
            if common_length(slot.holds, prompt) > common_length(best.holds, prompt):
                best = slot
        if common_length(best.holds, prompt) >= self._best(prompt)[1] + self._restore:
            return best
        return min(self._idle, key=lambda slot: (slot.keep, slot.used))

    async def _filled(self, slot: Slot[Prompt], held: Prompt, prompt: Prompt) -> Prompt:
        """Restore the best saved state into a slot that held something else, and return what the
        slot holds then."""
        have = common_length(held, prompt)
        state, stored = self._best(prompt)
        lost = len(held) - max(have, self._best(held)[1])
        if slot.keep and lost >= self._gain:
            await self._save(slot, held)
        if state is None or stored < have + self._restore:
            return held[:have]
        self._clock += 1
        state.used = self._clock
        state.readers += 1
        try:
            restored = await self._act(slot, "restore", state.file)
        finally:
            state.readers -= 1
        return self._empty if restored is None else prompt[:stored]

    async def _save(self, slot: Slot[Prompt], holds: Prompt) -> None:
        """Keep a slot's state, in the place of those that are prefixes of it and of the least
        recently used."""
        if not self._limit:
            return
        file = self._files.pop() if self._files else os.memfd_create("rstar-state")
        try:
            answer = await self._act(slot, "save", file)
        except BaseException:
            self._files.append(file)
            raise
        self._clock += 1
        size = int((answer or {}).get("n_written") or 0)
        state = _State(holds, file, size, self._clock)
        if not 0 < size <= self._limit:
            self._drop(state)
            return
        unread = [one for one in self._states if not one.readers]
        for old in [one for one in unread if holds[: len(one.holds)] == one.holds]:
            self._drop(old)
        unread = sorted((one for one in self._states if not one.readers), key=lambda one: one.used)
        self._states.append(state)
        while unread and (self.states_bytes > self._limit or len(self._states) > _STATES):
            self._drop(unread.pop(0))

    def _drop(self, state: _State[Prompt]) -> None:
        """Free a state's memory. Its file stays open: the server may yet be asked for it by
        number, and the number must never name another file of this process."""
        if state in self._states:
            self._states.remove(state)
        os.ftruncate(state.file, 0)
        self._files.append(state.file)

    async def _act(self, slot: Slot[Prompt], action: str, file: int) -> dict[str, Any] | None:
        """Save or restore a slot; None where the server could not."""
        route = f"/slots/{slot.number}?action={action}"
        try:
            answer = await self._http.post(route, {"filename": str(file)}, beside_v1=True)
        except ModelError:
            return None
        return answer if isinstance(answer, dict) else None


def _quarter_of_memory() -> int:
    """`STATES_BYTES`, or a quarter of the machine's memory where that is less."""
    return min(STATES_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)
