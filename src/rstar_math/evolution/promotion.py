"""Putting new models to use, or not: the gates of a round."""

import asyncio

from rstar_math.evolution import gate, gathering
from rstar_math.evolution.journal import Facts, digest
from rstar_math.evolution.models import Made, Pair
from rstar_math.evolution.workshop import Workshop
from rstar_math.search.strategy import Strategy


async def policy_gate(shop: Workshop, number: int, pair: Pair, new: Made) -> Pair:
    """The pair with a new policy, if that is better on held-out problems."""
    results = await shop.held_out(number, new)
    if pair.policy.round == 0 and not shop.recipe.first:
        return pair.with_policy(new)
    old = await shop.held_out(pair.policy.round, pair.policy)

    async def work() -> Facts:
        return decision(gate.decide(old, results, shop.recipe.gate.sure), pair.policy.round)

    inputs = {**shop.part("gate"), "old": digest(old), "new": digest(results)}
    verdict = await shop.stage(f"{number}/policy-gate", inputs, work)
    shop.watch.say(said("policy", number, verdict))
    return pair.with_policy(new) if verdict["promoted"] else pair


async def ppm_gate(shop: Workshop, number: int, pair: Pair, new: Made, fixed: Made | None) -> Pair:
    """The pair with a new preference model, if that chooses better than the one in use, or than the
    majority, among samples of held-out problems; `fixed` is a policy whose samples all rounds'
    preference models are tried on."""
    samples = Strategy("sc", shop.recipe.gate.samples)
    sources = {made.round: made for made in (pair.policy, fixed) if made is not None}
    digests = {}
    for made_in, policy in sources.items():
        path = shop.journal.path(f"round-{made_in}", "samples.rstar")
        facts = await shop.sampled(f"{made_in}/samples", path, Pair(policy), [samples])
        digests[made_in] = facts["digest"]
    old = pair.ppm
    inputs = {
        **shop.part("gate"),
        "samples": digests[pair.policy.round],
        "fixed": fixed and digests[fixed.round],
        "old": old and old.digest,
        "new": new.digest,
    }

    async def work() -> Facts:
        shop.watch.begin(f"{number}/ppm-gate", "weigh the preference model", None, 0)
        ours = await _reranked(shop, pair.policy, new, samples)
        theirs = await _reranked(shop, pair.policy, old, samples)
        before = theirs.majority if old is None else theirs.weighted
        held_against = None if old is None else old.round
        verdict = gate.decide(before, ours.weighted, shop.recipe.gate.sure)
        found = {**decision(verdict, held_against), "shares": ours.shares()}
        if fixed is not None:
            found["fixed_policy"] = (await _reranked(shop, fixed, new, samples)).shares()
        return found

    verdict = await shop.stage(f"{number}/ppm-gate", inputs, work)
    shop.watch.say(said("preference model", number, verdict))
    return pair.with_ppm(new) if verdict["promoted"] else pair


async def _reranked(
    shop: Workshop, policy: Made, ppm: Made | None, samples: Strategy
) -> gate.Reranked:
    """What a preference model makes of a policy's samples of held-out problems."""
    path = shop.journal.path(f"round-{policy.round}", "samples.rstar")
    problems = gathering.problems_in(shop.journal, gathering.HELD_OUT)
    if ppm is None:
        return await gate.rerank(path, samples.name, problems, None, shop.recipe.grading)
    from rstar_math.models.preference import PreferenceModel

    alone = shop.recipe.engine == "transformers"
    scorer = await asyncio.to_thread(PreferenceModel.load, ppm.folder, alone=alone)
    try:
        return await gate.rerank(path, samples.name, problems, scorer, shop.recipe.grading)
    finally:
        await scorer.aclose()


def decision(found: gate.Decision, old: int | None) -> Facts:
    """A decision as facts; `old` is the round whose model it was held against, None for none."""
    return {"promoted": found.promoted, "sure": found.sure, "old": old, **found.comparison}


def said(what: str, number: int, verdict: Facts) -> str:
    """A decision in words."""
    points, low, high = (100 * x for x in (verdict["difference"], *verdict["interval"]))
    state = "is used" if verdict["promoted"] else "is not used, the old one stays"
    return (
        f"round {number}: the new {what} {state} ({100 * verdict['first']:.1f} % before, "
        f"{100 * verdict['second']:.1f} % with it; {points:+.1f} points, 95 % from {low:+.1f} to "
        f"{high:+.1f}, {verdict['problems']} held-out problems)"
    )
