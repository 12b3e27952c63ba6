"""Every method on every link: asking, the order of the cells, and the report."""
