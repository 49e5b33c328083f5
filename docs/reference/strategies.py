"""The page of strategies."""

from docs.reference.markdown import cell


def strategies_page() -> str:
    """The page of strategies, selection rules and scorers, from their tables."""
    from rstar_math.search.selection import SELECTION_RULES
    from rstar_math.search.strategies import STRATEGIES
    from rstar_math.solver.components import SCORER_FACTORIES

    lines = [
        "# Strategies",
        "",
        "`--strategy NAME@SIZE`, as in `sc@8`; `mcts@16x4` makes 4 runs of 16 rollouts. `rstar "
        "strategies` lists them. Your own is `module:SPEC`, see examples/extensions.",
        "",
        "| name | default size | scorer | what it does |",
        "|---|---|---|---|",
    ]
    for name, spec in STRATEGIES.items():
        size = "" if spec.default_size is None else str(spec.default_size)
        lines.append(f"| `{name}` | {size} | {spec.scorer} | {cell(spec.summary)} |")
    lines += [
        "",
        "Scorer: none (not used), optional (used where `search.scorer` names one), required, or "
        "the model's own.",
        "",
        f"`search.scorer`: {', '.join(f'`{name}`' for name in SCORER_FACTORIES)}, or "
        "`module:factory`.",
        "",
        f"`search.selection`: `auto`, {', '.join(f'`{name}`' for name in SELECTION_RULES)}, or "
        "`module:rule`.",
        "",
    ]
    return "\n".join(lines)
