"""One token more for many answers at a time."""
