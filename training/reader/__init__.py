"""How the model that reads is made: rendered scenes, what the reader sees of them, three stages."""
