# The server with the shipped bundle, on CPUs:
#
#   docker build -f launch/serve.Dockerfile -t melody .
#   docker run --rm -p 8000:8000 -e MELODY_TOKEN=... -v melody-cache:/cache melody
#
# Compiled programs stay in /cache, so that the next start is warm.
FROM python:3.11-slim-bookworm

WORKDIR /melody
COPY setup.py constraints.txt packages-no-deps.txt README.md ./
COPY melody_jax melody_jax
COPY data_pipelines data_pipelines
COPY launch launch
COPY configs configs
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[serve]' \
    && pip install --no-cache-dir --no-deps --requirement packages-no-deps.txt
COPY bundles bundles

RUN useradd --create-home melody && mkdir /cache && chown melody /cache
USER melody
ENV JAX_COMPILATION_CACHE_DIR=/cache PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2
VOLUME /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=120s CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"
ENTRYPOINT ["melody", "serve", "--host", "0.0.0.0"]
