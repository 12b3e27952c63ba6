"""Measuring what crosses a network, and networks that misbehave on order. Nothing but tests imports it."""
