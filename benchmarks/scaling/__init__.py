"""What a question costs each part of a fleet, and how far the fleet grows by that."""
