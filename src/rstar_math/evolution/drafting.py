"""The stage of an evolution in which a model writes problems to learn from."""

from rstar_math.evolution import gathering
from rstar_math.evolution.fill import FREE
from rstar_math.evolution.journal import Facts, Journal, file_digest, identity
from rstar_math.evolution.models import strong_config
from rstar_math.evolution.recipe import Recipe
from rstar_math.evolution.synthesis import Onlooker, Order, solving, synthesise
from rstar_math.evolution.workshop import Workshop
from rstar_math.problems.decontamination import Rule
from rstar_math.problems.settings import SynthesisConfig
from rstar_math.problems.synthesis import Known
from rstar_math.seeding import derive

STAGE = "0/synthesis"


async def draft(shop: Workshop) -> Facts:
    """Have new problems written and solved, or what is left of them; counts, and what was left out
    and why. They are in `gathering.SYNTHETIC` from then on."""
    recipe, journal = shop.recipe, shop.journal
    order = _order(recipe, journal, shop.cluster)
    inputs = {
        "made_by": order.made_by,
        "synthesis": order.wanted.model_dump(mode="json"),
        "templates": recipe.problems.templates,
        "search": order.config.search.model_dump(mode="json", exclude={"ppm", *FREE["search"]}),
        "problems": (journal.facts("0/problems") or {})["files"],
    }

    async def work() -> Facts:
        look = Onlooker(shop.watch, shop.budget.charge, STAGE)
        found = await synthesise(order, journal.path("round-0"), look)
        path = journal.path("round-0", gathering.SYNTHETIC)
        found.write(path)
        return {**found.as_json(), "file": file_digest(path)}

    return await shop.stage(STAGE, inputs, work)


def _order(recipe: Recipe, journal: Journal, cluster: str | None) -> Order:
    """What the recipe asks for: the problems to learn from are the pattern; those held out and
    those that are measured on are asked by nobody."""
    model = recipe.writer
    assert model is not None
    strict = Rule(templates=recipe.problems.templates)
    names = gathering.title_sets(recipe.evaluation.sets)
    files = [gathering.evaluation_file(at) for at in range(1, len(names) + 1)]
    sets = {
        name: gathering.problems_in(journal, file) for name, file in zip(names, files, strict=True)
    }
    held_out = {"held out": gathering.problems_in(journal, gathering.HELD_OUT)}
    seeds = gathering.problems_in(journal, gathering.TRAIN)
    return Order(
        wanted=SynthesisConfig(**recipe.synthesis.model_dump(exclude={"model"})),
        config=solving(strong_config(recipe, model, seed=derive(recipe.search.seed, STAGE))),
        seeds=seeds,
        known=(
            Known("in a set that is measured on", sets, strict),
            Known("a held-out problem", held_out, strict),
            Known("a problem to learn from", {"to learn from": seeds}),
        ),
        made_by={"model.name": identity(model.name, model.url), "search.ppm": "none"},
        cluster=cluster,
    )
