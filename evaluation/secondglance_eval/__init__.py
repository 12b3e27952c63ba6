"""Measures what the method is for: accuracy against bytes on the wire, next to what one would do otherwise.

A package of its own and not `secondglance-server evaluate`: server and edge never import each other, and
this needs both, the server as a child process and the edge as its client. It imports `shared`, `edge_client`,
`server` and `scenes`; none of them imports it.
"""
