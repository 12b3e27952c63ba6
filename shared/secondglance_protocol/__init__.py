"""What both sides of Second Glance agree on: messages, error table, geometry, names and numbers."""
