"""A model's files before they are a model: where they are, how they arrive, whether they fit."""
