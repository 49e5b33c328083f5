"""Mutual reasoning by hand: what a peer is shown, which candidates are kept, and which answer is
chosen of them."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config import MutualConfig, load_config
from rstar_math.costs import add_cost
from rstar_math.errors import ConfigError, ContextLengthError, ModelUnreachableError, RequestError
from rstar_math.search import (
    ROOT,
    Choice,
    Tree,
    check_solutions,
    choose_by_agreement,
    from_record,
    to_record,
)
from rstar_math.search.mutual import (
    excluded_paths,
    is_kept,
    solution_votes,
    visible_prefix,
    visible_shares,
)
from rstar_math.types import Cost, Question, Step, Verdict
from tests.unit.toy import same_text

CODE = MutualConfig(splits=4, min_visible=0.2, max_visible=0.5, score="code")
FIVE = ["One.\n", "Two.\n", "Three.\n", "Four.\n", "Five.\n"]


@pytest.mark.parametrize(
    ("units", "share", "shown"),
    [
        (FIVE, 0.2, "One."),
        (FIVE, 0.21, "One.\nTwo."),
        (FIVE, 0.5, "One.\nTwo.\nThree."),
        (FIVE, 0.8, "One.\nTwo.\nThree.\nFour."),
        (FIVE, 0.99, "One.\nTwo.\nThree.\nFour."),
        (FIVE, 0.01, "One."),
        (["a = 1\n", "b = a\n\n"], 0.5, "a = 1"),
        (["First.", "Then.", "So."], 0.5, "First. Then."),
        (["x = 3\n", " \n", "y = x\n"], 0.9, "x = 3"),
        (["I add 3 and 4 to get 7."], 0.2, "I add"),
        (["I add 3 and 4 to get 7."], 0.5, "I add 3 and"),
        (["I add  3\nand 4."], 0.6, "I add  3"),
        (["Seven."], 0.5, ""),
        ([], 0.5, ""),
        (["\n"], 0.5, ""),
    ],
)
def test_the_beginning_that_a_peer_is_shown(units: list[str], share: float, shown: str) -> None:
    assert visible_prefix(units, share) == shown


def test_of_20_words_the_codes_shares_show_4_6_8_and_10() -> None:
    words = [f"w{at} " for at in range(20)]
    assert [len(visible_prefix(words, share).split()) for share in visible_shares(CODE, 0)] == [
        4,
        6,
        8,
        10,
    ]


@given(st.lists(st.text("ab \n", min_size=1).map(lambda s: f"x{s} "), max_size=9), st.floats(0, 1))
def test_something_is_shown_and_something_is_hidden(units: list[str], share: float) -> None:
    shown, whole = visible_prefix(units, share), "".join(units)
    assert whole.startswith(shown)
    words = len(whole.split())
    assert len(shown.split()) < words or not words
    assert shown or words < 2
    assert len(visible_prefix(units, min(1.0, share + 0.1))) >= len(shown)


def test_shares() -> None:
    assert visible_shares(CODE, 0) == visible_shares(CODE, 1) == pytest.approx([0.2, 0.3, 0.4, 0.5])
    drawn = [share for seed in range(300) for share in visible_shares(MutualConfig(), seed)]
    assert 0.2 <= min(drawn) < 0.22
    assert 0.78 < max(drawn) <= 0.8
    assert sum(drawn) / 300 == pytest.approx(0.5, abs=0.03)
    assert visible_shares(MutualConfig(min_visible=0.4, max_visible=0.4), 3) == [0.4]
    with pytest.raises(ConfigError, match="is above max_visible"):
        load_config(settings=["mutual.min_visible=0.6", "mutual.max_visible=0.5"])


@pytest.mark.parametrize(
    ("peers", "one", "half", "all_"),
    [
        ((0, 1), False, False, False),
        ((1, 1), True, True, True),
        ((1, 2), True, True, False),
        ((1, 3), True, False, False),
        ((2, 3), True, True, False),
        ((1, 4), True, False, False),
        ((2, 4), True, True, False),
        ((4, 4), True, True, True),
        ((0, 4), False, False, False),
        (None, False, False, False),
    ],
)
def test_who_is_kept(peers: tuple[int, int] | None, one: bool, half: bool, all_: bool) -> None:
    assert (is_kept(peers, "one"), is_kept(peers, "half"), is_kept(peers, "all")) == (
        one,
        half,
        all_,
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A candidate: a thought and the end with its answer."""

    answer: str
    peers: tuple[int, int] | None = None
    q: tuple[float | None, float | None] = (None, None)
    """Q of the thought and of the end."""
    confidence: float | None = None
    verdict: Verdict | None = None


def tree_of(*rows: Row, root: float | None = None) -> Tree:
    tree = Tree(Question("q", "?"))
    nodes = tree.nodes
    for at, row in enumerate(rows):
        thought = tree.add(ROOT, Step(prose=f"I think of {at}.\n", kind="A1"))
        step = Step(prose=row.answer, kind="A2", answer=row.answer, confidence=row.confidence)
        end = tree.add(thought, step)
        nodes[end].agreement, nodes[end].verdict = row.peers, row.verdict
        for node, q in zip((thought, end), row.q, strict=True):
            if q is not None:
                nodes[node].visits, nodes[node].value_sum = 2, 2 * q
    if root is not None:
        nodes[ROOT].visits, nodes[ROOT].value_sum = 4, 4 * root
    return tree


def chosen(tree: Tree, **options: Any) -> Choice:
    return asyncio.run(choose_by_agreement(tree, same_text, MutualConfig(**options)))


MIXED = (
    Row("A", (4, 4), (0.4, 0.6), 0.9),  # 0.5 x 0.9 = 0.45
    Row("A", (1, 4), (None, 0.2), 1.0),  # 0.2 x 1.0 = 0.20
    Row("B", (2, 4), (0.7, 0.5), 0.5),  # 0.6 x 0.5 = 0.30
    Row("B", (2, 4), (0.6, None), 0.8),  # 0.6 x 0.8 = 0.48
    Row("C", (0, 4), (1.0, 1.0), 1.0),  # 1.0 x 1.0, and nobody agrees
)
BARE = tuple(Row(row.answer, row.peers) for row in MIXED)


@pytest.mark.parametrize(
    ("rows", "score", "keep", "answer", "node", "votes"),
    [
        (MIXED, "paper", "one", "B", 8, {"B": 0.48, "A": 0.45}),
        (MIXED, "paper", "half", "B", 8, {"B": 0.48, "A": 0.45}),
        (MIXED, "paper", "all", "A", 2, {"A": 0.45}),
        # Without rewards and votes: the share of the five candidates; then how many are kept.
        (BARE, "paper", "one", "A", 2, {"A": 0.4, "B": 0.4}),
        (BARE, "paper", "half", "B", 6, {"A": 0.4, "B": 0.4}),
        (BARE, "paper", "all", "A", 2, {"A": 0.4}),
        # Kept A A B B: 2/4 + 2/2 each, and A is first; of the two A the one with the higher Q.
        (MIXED, "code", "one", "A", 2, {"A": 1.5, "B": 1.5}),
        (MIXED, "code", "half", "B", 6, {"B": 2 / 3 + 2 / 2, "A": 1 / 3 + 1 / 2}),
        (MIXED, "code", "all", "A", 2, {"A": 1 / 1 + 1 / 2}),
    ],
)
def test_the_choice_by_hand(
    rows: Sequence[Row], score: str, keep: str, answer: str, node: int, votes: dict[str, float]
) -> None:
    choice = chosen(tree_of(*rows), score=score, min_agreement=keep)
    assert (choice.answer, choice.node) == (answer, node)
    assert choice.votes == pytest.approx(votes)
    assert choice.share == pytest.approx(votes[answer] / sum(votes.values()))


def test_the_codes_score_does_not_follow_the_count_alone() -> None:
    """Kept: 2 of 2 A and 3 of 6 B. By count B leads; 2/5 + 2/2 against 3/5 + 3/6 it does not."""
    rows = [Row("A", (1, 1))] * 2 + [Row("B", (1, 1))] * 3 + [Row("B", (0, 1))] * 3
    choice = chosen(tree_of(*rows), score="code")
    assert choice.votes == pytest.approx({"A": 1.4, "B": 1.1})
    assert chosen(tree_of(*rows), score="paper").votes == pytest.approx({"B": 6 / 8, "A": 2 / 8})


@pytest.mark.parametrize("score", ["paper", "code"])
@pytest.mark.parametrize(
    ("rows", "answer", "votes"),
    [
        ([], None, {}),
        # None is kept: a majority of all.
        ([Row("A", (0, 1)), Row("B", (0, 1)), Row("B", (0, 1))], "B", {"B": 2, "A": 1}),
        # One is kept: it is chosen, against the majority.
        ([Row("B", (0, 1)), Row("A", (1, 1)), Row("B", (0, 1)), Row("B", (0, 1))], "A", None),
        # Nobody was asked, as where all agree: all are kept.
        ([Row("A"), Row("B"), Row("B")], "B", None),
        # Asked about some: the others are not kept.
        ([Row("A"), Row("A"), Row("B", (1, 1))], "B", None),
        # Equal in all: the first.
        ([Row("A", (1, 1)), Row("B", (1, 1))], "A", None),
        ([Row("x" * 101, (1, 1)), Row("x" * 101, (1, 1)), Row("B", (1, 1))], "B", None),
        ([Row("x" * 101)], "x" * 101, None),
        ([Row(" ")], None, {}),
    ],
)
def test_what_is_left_to_choose_from(
    rows: list[Row], answer: str | None, votes: dict[str, float] | None, score: str
) -> None:
    choice = chosen(tree_of(*rows), score=score)
    assert choice.answer == answer
    assert votes is None or choice.votes == votes


def test_a_path_that_no_rollout_took_is_worth_what_the_rollouts_found_on_average() -> None:
    rows = Row("A", (1, 1), confidence=1.0), Row("B", (1, 1), (0.4, 0.4), 1.0)
    assert chosen(tree_of(*rows, root=0.5)).votes == pytest.approx({"A": 0.5, "B": 0.4})
    assert chosen(tree_of(*rows, root=0.3)).votes == pytest.approx({"B": 0.4, "A": 0.3})


def test_where_all_rewards_are_0_the_kept_are_counted() -> None:
    rows = [Row(answer, (1, 1), (0.0, 0.0)) for answer in "ABB"]
    choice = chosen(tree_of(*rows))
    assert choice.answer == "B"
    assert choice.share == pytest.approx(2 / 3)


def test_candidates_are_dropped_for_a_reason() -> None:
    tree = tree_of(Row("7"), Row("x" * 100), Row("x" * 101), Row("\n"))
    assert excluded_paths(tree) == {6: "long answer", 8: "blank answer"}
    assert [(ballot.answer, ballot.weight) for ballot in solution_votes(tree)] == [
        ("7", 1.0),
        ("x" * 100, 1.0),
    ]
    assert excluded_paths(tree_of(Row("x" * 101), Row(""))) == {4: "blank answer"}


values = st.sampled_from([None, -0.5, 0.0, 0.25, 1.0])
row_lists = st.lists(
    st.builds(
        Row,
        st.sampled_from("ABC"),
        st.integers(0, 2).map(lambda n: (n, 2)),
        st.tuples(values, values),
        st.sampled_from([None, 0.25, 1.0]),
    ),
    max_size=8,
)
modes = st.fixed_dictionaries(
    {
        "min_agreement": st.sampled_from(["one", "half", "all"]),
        "score": st.sampled_from(["paper", "code"]),
    }
)


@given(row_lists, modes, st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_decides_ties_only(
    rows: list[Row], options: dict[str, Any], rng: random.Random
) -> None:
    choice = chosen(tree_of(*rows), **options)
    kept = [row.answer for row in rows if is_kept(row.peers, options["min_agreement"])]

    def standing(answer: str) -> tuple[float, int]:
        return round(choice.votes[answer], 9), kept.count(answer)

    shuffled = rng.sample(rows, len(rows))
    other = chosen(tree_of(*shuffled), **options)
    assert other.votes == pytest.approx(choice.votes)
    if choice.answer is None or other.answer is None:
        assert choice.answer == other.answer
        return
    assert standing(other.answer) == standing(choice.answer)
    assert all(standing(answer) <= standing(choice.answer) for answer in choice.votes)
    assert other.share == pytest.approx(choice.share)


@given(row_lists, modes, st.randoms(use_true_random=False))
def test_verdicts_change_nothing(
    rows: list[Row], options: dict[str, Any], rng: random.Random
) -> None:
    """The code's choice falls back to the majority where no kept answer is right, so it depends on
    the reference; a choice of ours cannot."""
    verdicts: list[Verdict | None] = [None, *Verdict]
    judged = [
        Row(row.answer, row.peers, row.q, row.confidence, rng.choice(verdicts)) for row in rows
    ]
    assert chosen(tree_of(*judged), **options) == chosen(tree_of(*rows), **options)


def test_what_peers_said_stays_with_the_path() -> None:
    run = tree_of(Row("A", (1, 4)), Row("B"))
    whole = tree_of(Row("C", (4, 4)))
    whole.merge(run)
    again = from_record(to_record(whole))
    assert [again.trajectory(end).agreement for end in again.answer_nodes()] == [
        (4, 4),
        (1, 4),
        None,
    ]
    assert "peers" not in str(to_record(tree_of(Row("B"))))


def lines(question: Question, steps: Sequence[Step]) -> list[str]:
    return [line for step in steps for line in step.text.splitlines(keepends=True)]


class Reader:
    """A Peer that answers from a function of what it is shown, after random pauses."""

    def __init__(self, answer: Callable[[str], str | None], delays: int = 0) -> None:
        self._answer = answer
        self._rng = random.Random(delays)
        self.asked: list[tuple[str, int]] = []
        self.flying = self.most = 0

    async def complete_answers(
        self, question: Question, partial: str, n: int, *, seed: int
    ) -> list[str | None]:
        """See `protocols.Discriminator`."""
        self.asked.append((partial, seed))
        self.flying += 1
        self.most = max(self.most, self.flying)
        for _ in range(self._rng.randrange(20)):
            await asyncio.sleep(0)
        self.flying -= 1
        add_cost(Cost(calls=1, samples=n, sampled_tokens=5))
        return [self._answer(partial)] * n


def solutions(*answers: str, same: bool = False) -> Tree:
    """Chains of ten lines that number their candidate, or all read the same."""
    tree = Tree(Question("q", "?"))
    for at, answer in enumerate(answers):
        text = "".join(f"{0 if same else at} {line}\n" for line in range(9)) + answer
        tree.add(ROOT, Step(prose=text, kind="answer", answer=answer))
    return tree


def examined(
    tree: Tree, peer: Reader, config: MutualConfig = CODE, seed: int = 0
) -> dict[str, int]:
    return asyncio.run(
        check_solutions(
            tree, discriminator=peer, segments=lines, group=same_text, config=config, seed=seed
        )
    )


def test_an_examination_by_hand() -> None:
    """Candidate 0 says 7, candidate 1 says 8. The peer comes to 7 from two or three lines of
    either, and to 8 from more of candidate 1; from more of candidate 0 it comes to nothing."""

    def answer(partial: str) -> str | None:
        if len(partial.splitlines()) < 4:
            return "7"
        return "8" if partial.startswith("1") else None

    tree, peer = solutions("7", "8"), Reader(answer)
    assert examined(tree, peer) == {"no answer stated": 2}
    assert [node.agreement for node in tree] == [None, (2, 4), (2, 4)]
    assert [len(partial.splitlines()) for partial, _ in peer.asked] == [2, 3, 4, 5] * 2
    assert peer.asked[0][0] == "0 0\n0 1"
    assert (peer.most, tree.cost.calls, tree.cost.sampled_tokens) == (8, 8, 40)


def test_one_cut_of_the_paper_differs_from_candidate_to_candidate() -> None:
    tree, peer = solutions("A", *"BCDEFGHIJKLMNOP"), Reader(lambda partial: "A")
    examined(tree, peer, MutualConfig())
    assert [node.agreement for node in tree.nodes[1:]] == [(1, 1)] + [(0, 1)] * 15
    shown = [len(partial.splitlines()) for partial, _ in peer.asked]
    assert min(shown) == 3
    assert max(shown) == 8
    assert len(set(shown)) > 3


def test_equal_beginnings_are_asked_for_once() -> None:
    tree, peer = solutions("7", "8", "7", same=True), Reader(lambda partial: "7")
    examined(tree, peer)
    assert len(peer.asked) == 4
    assert [node.agreement for node in tree.nodes[1:]] == [(4, 4), (0, 4), (4, 4)]
    short = Tree(Question("q", "?"))
    for answer in "78":
        short.add(ROOT, Step(prose=f"So\nit is {answer}", kind="answer", answer=answer))
    examined(short, peer)
    assert [partial for partial, _ in peer.asked[4:]] == ["So"]
    assert [node.agreement for node in short.nodes[1:]] == [(1, 1), (0, 1)]


@pytest.mark.parametrize("tree", [solutions("7", "7", "7"), solutions(), solutions("7", "x" * 101)])
def test_where_all_agree_nobody_is_asked(tree: Tree) -> None:
    peer = Reader(lambda partial: "7")
    assert examined(tree, peer) == {}
    assert not peer.asked
    assert all(node.agreement is None for node in tree)
    assert chosen(tree).answer == ("7" if len(tree) > 1 else None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RequestError("no"), "request failed"), (ContextLengthError("no"), "context exceeded")],
)
def test_a_request_that_cannot_be_served_is_nobodys_word(error: Exception, reason: str) -> None:
    def answer(partial: str) -> str:
        if partial.startswith("0") and len(partial.splitlines()) == 5:
            raise error
        return "7"

    tree = solutions("7", "8")
    assert examined(tree, Reader(answer)) == {reason: 1}
    assert [node.agreement for node in tree.nodes[1:]] == [(3, 3), (0, 4)]


def test_a_server_that_is_down_ends_it_and_what_was_found_stays() -> None:
    def answer(partial: str) -> str:
        if partial.startswith("2") and down:
            raise ModelUnreachableError("down")
        return "7"

    class Patient(Reader):
        """Answers for the last candidate after all others."""

        async def complete_answers(
            self, question: Question, partial: str, n: int, *, seed: int
        ) -> list[str | None]:
            for _ in range(100 * partial.startswith("2")):
                await asyncio.sleep(0)
            return await super().complete_answers(question, partial, n, seed=seed)

    down, tree = True, solutions("7", "8", "9")
    with pytest.raises(ModelUnreachableError):
        examined(tree, Patient(answer))
    assert [node.agreement for node in tree.nodes[1:]] == [(4, 4), (0, 4), None]
    down, peer = False, Reader(answer)
    examined(tree, peer)
    assert len(peer.asked) == 4
    assert tree.nodes[3].agreement == (0, 4)
    examined(tree, peer)
    assert len(peer.asked) == 4


def test_a_cancelled_examination_leaves_nothing_behind() -> None:
    class Never(Reader):
        async def complete_answers(
            self, question: Question, partial: str, n: int, *, seed: int
        ) -> list[str | None]:
            if partial.startswith("1"):
                await asyncio.Event().wait()
            return await super().complete_answers(question, partial, n, seed=seed)

    tree, peer = solutions("7", "8"), Never(lambda partial: "7")

    async def cancelled() -> int:
        work = check_solutions(
            tree, discriminator=peer, segments=lines, group=same_text, config=CODE, seed=0
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work, 0.05)
        return len(asyncio.all_tasks())

    assert asyncio.run(cancelled()) == 1
    assert [node.agreement for node in tree.nodes[1:]] == [(4, 4), None]
    assert chosen(tree).answer == "7"


@pytest.mark.parametrize("config", [CODE, MutualConfig()], ids=["code", "paper"])
def test_arrival_order_changes_nothing(config: MutualConfig) -> None:
    def answer(partial: str) -> str | None:
        return random.Random(partial).choice(["7", "8", None])

    trees = [solutions("7", "8", "7", "9", "8") for _ in range(6)]
    peers = [Reader(answer, delays) for delays in range(6)]
    for tree, peer in zip(trees, peers, strict=True):
        examined(tree, peer, config, seed=3)
    assert all(to_record(tree) == to_record(trees[0]) for tree in trees)
    assert all(sorted(peer.asked) == sorted(peers[0].asked) for peer in peers)
    other = Reader(answer)
    examined(solutions("7", "8", "7", "9", "8"), other, config, seed=4)
    assert {seed for _, seed in other.asked}.isdisjoint(seed for _, seed in peers[0].asked)
