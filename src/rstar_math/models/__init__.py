"""Named language models: file locations, downloads and loading."""
