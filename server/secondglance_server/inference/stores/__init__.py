"""Where a server keeps what outlives a request: in its own memory, or in a store that a fleet shares."""
