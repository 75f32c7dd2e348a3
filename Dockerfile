# The gateway on a CPU: docker build -t tieredllm . && docker run -p 4141:4141 -e GATEWAY_KEY=... tieredllm
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Not for the machine that builds, but for any x86-64 or ARM that may run it.
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF"
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -r requirements/runtime.txt \
    && /venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home --uid 1000 tieredllm \
    && install -d -o tieredllm /data
COPY --from=build /venv /venv
USER tieredllm
ENV PATH=/venv/bin:$PATH TIEREDLLM_HOME=/data
VOLUME /data
EXPOSE 4141
STOPSIGNAL SIGTERM
HEALTHCHECK CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:4141/livez')"]
ENTRYPOINT ["tieredllm"]
CMD ["serve", "--host", "0.0.0.0", "--key", "GATEWAY_KEY"]
