"""HTTP: one Starlette app, and the fast lane beside it.

A request to an ordinary route, in order:

app          the routes, built from the table; errors become problem documents
operations   the table of routes, from which the OpenAPI document is made, too
endpoints    one function an operation
bodies       bodies read within their limit and decoded
problems     errors on the wire
threads      for what waits for a disk or a fit

fastlane     predictions, inference and labels inside uvicorn's protocol class; `connection` is what they come and go by, `heads`
             knows heads that it has seen before
codec        the shapes of predictions and labels, for both ways
limits       how large things may be
events       `/v1/events`, `metrics` `/metrics`, `openapi` and `docs_page` the documentation
"""
