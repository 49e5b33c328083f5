"""The reference pages of the site, made from the code when the site is built; none is committed.

    commands        reference/cli.md: every command and option, from the command itself
    configuration   reference/configuration.md: every key, its range and default
    names           reference/api.md: public names, signatures and docstrings, from the source
    modules         reference/files.md: every module and what it says of itself
    hooks           what mkdocs calls

Needs rstar-math without extras, and loads no model library. `python -m docs.reference DIR` writes
the pages for a look without mkdocs.
"""
