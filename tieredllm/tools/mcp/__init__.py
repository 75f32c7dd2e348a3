"""Tools of Model Context Protocol servers, by the official SDK (the extra `tieredllm[mcp]`)."""
