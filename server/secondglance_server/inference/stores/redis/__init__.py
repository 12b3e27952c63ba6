"""Stores in Redis, which all servers of a fleet share; needs the extra `second-glance-server[redis]`."""
