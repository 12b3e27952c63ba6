"""`secondglance watch`: pictures that keep coming, from a folder or a camera, asked about in order.

sources (folder, camera) -> spool (on disk) -> pipeline (asks, waits out outages) -> delivery.
"""
