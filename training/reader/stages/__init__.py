"""The stages that train, one a module, and their order; `training.reader.__main__` runs them."""
