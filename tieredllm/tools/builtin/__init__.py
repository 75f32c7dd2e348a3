"""The tools that come with tieredllm."""
