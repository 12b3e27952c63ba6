"""Pictures with text to read: words, placards, photo textures, scenes and their views; `render` uses it."""
