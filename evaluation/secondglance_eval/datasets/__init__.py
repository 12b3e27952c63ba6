"""Data sets from local directories, in the layouts in which they are published. Nothing is downloaded.

One module for each: it knows file names and fields, and which metric is the published one.
"""
