"""`secondglance watch`: pictures that keep coming, from a folder or a camera, asked about in order.

source (folder, camera) under a supervisor -> spool (on disk) -> pipeline (asks, waits out outages) -> answers
(wait on disk until a program or a web hook has taken them). The pulse says how all that fares.
"""
