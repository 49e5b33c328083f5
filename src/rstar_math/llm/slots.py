"""Assigns requests to the slots of the embedded server, so that a shared prefix is computed once.

llama.cpp gives each slot its own key/value cache and cannot copy part of one slot to another. It
can save a slot's state to a file and restore it into any slot. For 450 tokens of SmolLM2-135M this
takes 6 ms and 2 ms, while computing them takes a second. So this module names the slot of each
request, and restores a saved state first if the slot lacks the prompt's prefix. The files are in
memory only (memfd) and vanish with the process.

The server compares tokens before it reuses anything. A wrong record here costs time but never
changes an answer.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from rstar_math.errors import ModelError
from rstar_math.llm.client import OpenAIClient

Prompt = TypeVar("Prompt", str, tuple[int, ...])
"""A prompt as text or as tokens. Lengths in this module are in characters or tokens accordingly."""
STATE_FOLDER = "/proc/self/fd/"
"""Folder in which llama.cpp finds saved states: file descriptors of this process."""
STATES_BYTES = 1 << 30
"""Maximum memory for saved states."""
_MAX_STATES = 128
"""Maximum number of saved states; each takes a file descriptor."""
_RESTORE_GAIN = {str: 8, tuple: 3}
"""Minimum gain in cached length for which restoring a state is faster than computing."""
_SAVE_GAIN = {str: 32, tuple: 10}
"""Minimum gain in cached length for which to save a state or to wait for a pending prompt."""


def can_save() -> bool:
    """Whether this system has the in-memory files that saved states need."""
    return hasattr(os, "memfd_create") and os.path.isdir(STATE_FOLDER)


def common_length(a: Prompt, b: Prompt) -> int:
    """Returns the length of the longest common prefix, by bisection."""
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
    content: Prompt
    """Known beginning of the slot's cache."""
    keep: bool = False
    """Whether to save the slot's state before another prefix replaces it."""
    last_used: int = 0
    """Logical time of the last use."""


@dataclass(slots=True, eq=False)
class _State(Generic[Prompt]):
    """A saved state of a slot."""

    content: Prompt
    file: int
    """File descriptor."""
    size_bytes: int
    last_used: int
    readers: int = 0
    """Number of restores in progress; a state that is being read is not dropped."""


@dataclass(slots=True, eq=False)
class _Pending(Generic[Prompt]):
    """A prompt that is being computed and will be saved."""

    prompt: Prompt
    done: asyncio.Event


class DecodingSlots(Generic[Prompt]):
    """Hands out the slots of a server, first come, first served.

    Each slot comes with as much of the prompt in its cache as any slot or saved state has. `empty`
    is the empty prompt: "" or (). `states_bytes` limits the memory for saved states.
    """

    def __init__(
        self, client: OpenAIClient, total: int, *, empty: Prompt, states_bytes: int | None = None
    ) -> None:
        self._client = client
        self._empty: Prompt = empty
        self._idle: list[Slot[Prompt]] = [Slot(number, empty) for number in range(total)]
        self._idle_count = asyncio.Semaphore(total)
        self._states: list[_State[Prompt]] = []
        self._spare_files: list[int] = []
        self._pending: list[_Pending[Prompt]] = []
        self._clock = 0
        self._restore_gain, self._save_gain = _RESTORE_GAIN[type(empty)], _SAVE_GAIN[type(empty)]
        limit = _default_states_bytes() if states_bytes is None else states_bytes
        self._max_bytes = limit if can_save() else 0

    @property
    def states_bytes(self) -> int:
        """Memory that the saved states take, in bytes."""
        return sum(state.size_bytes for state in self._states)

    def close(self) -> None:
        """Frees the saved states. Call it only after the server has stopped: the server opens files
        by number, and the number of a closed file may be reused for another file."""
        for file in [state.file for state in self._states] + self._spare_files:
            os.close(file)
        self._states, self._spare_files, self._max_bytes = [], [], 0

    @asynccontextmanager
    async def acquire(self, prompt: Prompt, *, keep: bool = False) -> AsyncIterator[Slot[Prompt]]:
        """Reserves a slot for the block, with the longest known prefix of `prompt` in its cache.

        The block sets `slot.content` to what it leaves in the cache. `keep` says that a later
        prompt probably continues from there. If the block fails or is cancelled, the slot stays
        usable, with unknown content.
        """
        async with self._idle_count:
            slot = self._choose(prompt)
            self._idle.remove(slot)
            slot.last_used = self._tick()
            previous, slot.content = slot.content, self._empty
            try:
                slot.content = await self._prepare(slot, previous, prompt)
                slot.keep = keep
                yield slot
            except BaseException:
                slot.content = self._empty
                raise
            finally:
                self._idle.append(slot)

    async def share(
        self, prompt: Prompt, n: int, compute: Callable[[Slot[Prompt]], Any]
    ) -> Any | None:
        """Computes `prompt` once and saves the slot's state, if that pays.

        It pays if `n` > 1 samples start from the prompt, or if a long part of it is in no cache.
        Returns the result of `await compute(slot)`, which is None for a failure; None if nothing
        was computed. Of several prompts with a common prefix that arrive together, the first is
        computed alone, and the others start from its state.
        """
        if not self._max_bytes:
            return None
        while (pending := self._pending_worth_waiting_for(prompt)) is not None:
            await pending.done.wait()
        stored = self._best_state(prompt)[1]
        missing = len(prompt) - max(stored, self._longest_idle(prompt))
        if stored == len(prompt) or (n == 1 and missing < 8 * self._save_gain):
            return None
        with self._mark_pending(prompt):
            async with self.acquire(prompt) as slot:
                result = await compute(slot)
                slot.content = self._empty if result is None else prompt
                if result is not None:
                    await self._save(slot, prompt)
                return result

    def _pending_worth_waiting_for(self, prompt: Prompt) -> _Pending[Prompt] | None:
        """Returns the pending prompt with a clearly longer common prefix than any cache has."""
        cached = max(self._best_state(prompt)[1], self._longest_idle(prompt))
        lengths = [(common_length(pending.prompt, prompt), pending) for pending in self._pending]
        longest, pending = max(lengths, key=lambda pair: pair[0], default=(0, None))
        return pending if longest >= cached + self._save_gain else None

    @contextmanager
    def _mark_pending(self, prompt: Prompt) -> Iterator[None]:
        """Lets others wait for this prompt's state while the block runs."""
        pending = _Pending(prompt, asyncio.Event())
        self._pending.append(pending)
        try:
            yield
        finally:
            self._pending.remove(pending)
            pending.done.set()

    def _longest_idle(self, prompt: Prompt) -> int:
        """Returns the length of the longest prefix of a prompt in an idle slot."""
        return max((common_length(slot.content, prompt) for slot in self._idle), default=0)

    def _best_state(self, prompt: Prompt) -> tuple[_State[Prompt] | None, int]:
        """Returns the saved state with the longest prefix of a prompt, and that length."""
        lengths = [(common_length(state.content, prompt), state) for state in self._states]
        length, state = max(lengths, key=lambda pair: pair[0], default=(0, None))
        return state, length

    def _choose(self, prompt: Prompt) -> Slot[Prompt]:
        """Returns the idle slot with clearly more of the prompt than the saved states have. Without
        one, returns the slot whose content is least likely to be needed again."""
        best = self._idle[0]
        for slot in self._idle:
            if common_length(slot.content, prompt) > common_length(best.content, prompt):
                best = slot
        if common_length(best.content, prompt) >= self._best_state(prompt)[1] + self._restore_gain:
            return best
        return min(self._idle, key=lambda slot: (slot.keep, slot.last_used))

    async def _prepare(self, slot: Slot[Prompt], previous: Prompt, prompt: Prompt) -> Prompt:
        """Saves the slot's previous content if needed, and restores the best saved state.

        Returns the slot's new content.
        """
        cached = common_length(previous, prompt)
        state, stored = self._best_state(prompt)
        lost = len(previous) - max(cached, self._best_state(previous)[1])
        if slot.keep and lost >= self._save_gain:
            await self._save(slot, previous)
        if state is None or stored < cached + self._restore_gain:
            return previous[:cached]
        state.last_used = self._tick()
        state.readers += 1
        try:
            reply = await self._post_action(slot, "restore", state.file)
        finally:
            state.readers -= 1
        return self._empty if reply is None else prompt[:stored]

    async def _save(self, slot: Slot[Prompt], content: Prompt) -> None:
        """Saves a slot's state. Drops states that are prefixes of it and, if needed for space, the
        least recently used ones."""
        if not self._max_bytes:
            return
        file = self._spare_files.pop() if self._spare_files else os.memfd_create("rstar-state")
        try:
            reply = await self._post_action(slot, "save", file)
        except BaseException:
            self._spare_files.append(file)
            raise
        size = int((reply or {}).get("n_written") or 0)
        new = _State(content, file, size, self._tick())
        if not 0 < size <= self._max_bytes:
            self._drop(new)
            return
        for state in self._unread_states():
            if content[: len(state.content)] == state.content:
                self._drop(state)
        oldest_first = sorted(self._unread_states(), key=lambda state: state.last_used)
        self._states.append(new)
        while oldest_first and (
            self.states_bytes > self._max_bytes or len(self._states) > _MAX_STATES
        ):
            self._drop(oldest_first.pop(0))

    def _unread_states(self) -> list[_State[Prompt]]:
        return [state for state in self._states if not state.readers]

    def _drop(self, state: _State[Prompt]) -> None:
        """Frees a state's memory. Its file stays open: the server may still open it by number, and
        that number must never mean another file of this process."""
        if state in self._states:
            self._states.remove(state)
        os.ftruncate(state.file, 0)
        self._spare_files.append(state.file)

    async def _post_action(
        self, slot: Slot[Prompt], action: Literal["save", "restore"], file: int
    ) -> dict[str, Any] | None:
        """Returns the server's reply; None for a failure."""
        route = f"/slots/{slot.number}?action={action}"
        try:
            reply = await self._client.post(route, {"filename": str(file)}, outside_v1=True)
        except ModelError:
            return None
        return reply if isinstance(reply, dict) else None

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _default_states_bytes() -> int:
    """Returns `STATES_BYTES`, or a quarter of the machine's memory if that is less."""
    return min(STATES_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)
