"""Answer with llama-cpp-python alone: all cores, flash attention, on the rung named.

Usage: bare_llama.py MODEL THREADS QUESTION MAX_TOKENS RUNG
"""

import os
import sys

import llama_cpp

path, threads, question, max_tokens, rung = sys.argv[1:]
if rung != "repacked":
    # `Llama` has no parameter for it: the class takes what this function gives.
    defaults = llama_cpp.llama_model_default_params()
    defaults.use_extra_bufts = False
    llama_cpp.llama_cpp.llama_model_default_params = lambda: defaults
model = llama_cpp.Llama(
    path,
    n_ctx=4096,
    n_threads=int(threads) or os.cpu_count(),
    n_threads_batch=int(threads) or os.cpu_count(),
    flash_attn=True,
    verbose=False,
)
for chunk in model.create_chat_completion(
    [{"role": "user", "content": question}],
    max_tokens=int(max_tokens),
    temperature=0.0,
    stream=True,
):
    print(chunk["choices"][0]["delta"].get("content") or "", end="", flush=True)
print()
