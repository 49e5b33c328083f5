"""Ready-made configurations: TOML files, named by what they are for."""
