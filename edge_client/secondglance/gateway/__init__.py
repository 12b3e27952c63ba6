"""An OpenAI-compatible endpoint on the edge: apps talk to it as to any other, pictures leave in two stages.

Needs the extra `gateway` (starlette, uvicorn, python-multipart); nothing else of the edge imports this
package. What it honours, ignores and refuses is in docs/gateway.md.
"""
