"""One module for each command of `secondglance`, loaded when it is needed; see `secondglance.cli`."""
