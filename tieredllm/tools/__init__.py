"""Tools that a model may call: what there is, one call, and what a request remembers of them."""
