"""Engines that schedule for themselves: what is asked of one (`core`), and places around it (`engine`)."""
