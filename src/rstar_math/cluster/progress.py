"""How the workers fare: counts and rates of each, and who is slow."""

from dataclasses import dataclass, field
from statistics import median
from time import monotonic, process_time
from typing import Any

from rstar_math.types import Cost

STRAGGLING = 4.0
"""Times the mean search after which one under way is called a straggler."""


@dataclass(slots=True)
class Account:
    """What one worker did. Times are `time.monotonic`."""

    name: str
    node: str
    joined_at: float = field(default_factory=monotonic)
    left_at: float | None = None
    why: str = ""
    """Why it left."""
    done: int = 0
    given_back: int = 0
    """Searches that it did not finish and that were begun anew elsewhere."""
    busy_s: float = 0.0
    """Seconds of its finished searches, several side by side."""
    cost: Cost = field(default_factory=Cost)
    under_way: dict[str, float] = field(default_factory=dict)
    """By problem, since when."""

    def began(self, problem: str) -> None:
        """It was given a problem."""
        self.under_way[problem] = monotonic()

    def ended(self, problem: str) -> None:
        """Its search of a problem came to an end."""
        self.busy_s += monotonic() - self.under_way.pop(problem)

    def did(self, cost: Cost) -> None:
        """It finished a search."""
        self.done += 1
        self.cost.add(cost)

    def lost(self, problem: str) -> None:
        """It did not finish a search."""
        if self.under_way.pop(problem, None) is not None:
            self.given_back += 1

    @property
    def seconds(self) -> float:
        """How long it has been here."""
        return max((self.left_at or monotonic()) - self.joined_at, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """Its figures under plain names; rates are over the time that it was here."""
        return {
            "name": self.name,
            "node": self.node,
            "seconds": round(self.seconds, 3),
            "problems": self.done,
            "problems_a_minute": round(60 * self.done / self.seconds, 3),
            "tokens": self.cost.sampled_tokens,
            "tokens_a_second": round(self.cost.sampled_tokens / self.seconds, 1),
            "programs": self.cost.code_runs,
            "given_back": self.given_back,
            "left": self.why or None,
        }


class Progress:
    """All workers, those that left too."""

    def __init__(self) -> None:
        self.accounts: list[Account] = []
        self.began_at = monotonic()
        self.ended_at: float | None = None
        self._cpu = process_time()

    def joined(self, name: str, node: str) -> Account:
        """The account of a new worker."""
        account = Account(name, node)
        self.accounts.append(account)
        return account

    def left(self, account: Account, why: str) -> None:
        """A worker is gone."""
        account.left_at, account.why = monotonic(), why

    @property
    def done(self) -> int:
        """Finished searches."""
        return sum(account.done for account in self.accounts)

    def stragglers(self) -> list[dict[str, Any]]:
        """Searches under way for much longer than they take in the mean, the oldest first."""
        now = monotonic()
        mean = sum(account.busy_s for account in self.accounts) / max(self.done, 1)
        found = [
            {"problem": problem, "worker": account.name, "seconds": round(now - since, 1)}
            for account in self.accounts
            if account.left_at is None
            for problem, since in account.under_way.items()
            if self.done and now - since > STRAGGLING * mean
        ]
        return sorted(found, key=lambda one: -float(str(one["seconds"])))

    def slow_workers(self) -> list[str]:
        """Workers that take more than twice the median time for a search; of three or more that
        have done three each."""
        means = {
            account.name: account.busy_s / account.done
            for account in self.accounts
            if account.left_at is None and account.done >= 3
        }
        if len(means) < 3:
            return []
        middle = median(means.values())
        return [name for name, mean in means.items() if mean > 2 * middle]

    def line(self) -> str:
        """One line for a person: workers, rates, tokens so far, who is slow."""
        here = sum(account.left_at is None for account in self.accounts)
        seconds = max(monotonic() - self.began_at, 1e-9)
        tokens = sum(account.cost.sampled_tokens for account in self.accounts)
        parts = [
            f"{here} worker{'' if here == 1 else 's'}",
            f"{60 * self.done / seconds:.0f} problems/min",
            f"{tokens / seconds:.0f} tokens/s",
            f"{tokens:,} tokens so far",
        ]
        if late := self.stragglers():
            parts.append(f"{len(late)} stragglers, the oldest {late[0]['seconds']:.0f} s")
        if slow := self.slow_workers():
            parts.append(f"slow: {', '.join(slow[:3])}")
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """All figures under plain names."""
        seconds = max((self.ended_at or monotonic()) - self.began_at, 1e-9)
        return {
            "seconds": round(seconds, 3),
            "driver_cpu_share": round((process_time() - self._cpu) / seconds, 4),
            "problems": self.done,
            "searched_again": sum(account.given_back for account in self.accounts),
            "workers_lost": sum(account.left_at is not None for account in self.accounts),
            "slow_workers": self.slow_workers(),
            "workers": [account.as_json() for account in self.accounts],
        }
