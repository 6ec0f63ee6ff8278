"""The HTTP face: an ordinary Starlette app, and the fast lane beside it."""
