"""Where an edge and a server can be put: network namespaces, or containers."""
