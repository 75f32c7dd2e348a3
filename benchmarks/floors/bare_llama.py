"""Answer with llama-cpp-python alone: all cores, flash attention, 64 tokens."""

import os
import sys

from llama_cpp import Llama

threads = int(sys.argv[2]) or os.cpu_count()
model = Llama(
    sys.argv[1],
    n_ctx=4096,
    n_threads=threads,
    n_threads_batch=threads,
    flash_attn=True,
    verbose=False,
)
for chunk in model.create_chat_completion(
    [{"role": "user", "content": sys.argv[3]}], max_tokens=64, temperature=0.0, stream=True
):
    print(chunk["choices"][0]["delta"].get("content") or "", end="", flush=True)
print()
