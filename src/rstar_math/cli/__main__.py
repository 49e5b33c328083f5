"""`python -m rstar_math.cli` runs `rstar`."""

from rstar_math.cli import main

main()
