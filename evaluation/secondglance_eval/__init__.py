"""Measures accuracy against bytes on the wire, beside every baseline, and chooses the gate.

A package of its own: server and edge never import each other, and this needs both, the server as a child
process and the edge as its client. In a checkout it also uses `scenes`; none of them imports it.
"""
