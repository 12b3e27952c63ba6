"""Pure-ASGI layers around the app, outermost first: observe, keys, body."""
