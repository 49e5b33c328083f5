"""`python -m rstar_math.cli`: the command without its script."""

from rstar_math.cli import main

main()
