"""Language models by name: where their files are, how they are downloaded and loaded."""
