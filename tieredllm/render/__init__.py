"""Show a request: words, live Markdown, spinner and time line; events in, text out."""
