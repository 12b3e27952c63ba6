"""The model that reads: a frozen text reader as part of the vision tower, its lines laid out as tokens."""
