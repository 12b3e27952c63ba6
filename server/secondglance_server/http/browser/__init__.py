"""What browsers need that other edges do not: the page, and leave for pages of other origins (CORS)."""
