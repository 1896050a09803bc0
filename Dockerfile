# syntax=docker/dockerfile:1
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements/base.txt /tmp/base.txt
# pip compiles what it installs: without bytecode the worker takes three times as long to start.
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: -r /tmp/base.txt
WORKDIR /app
COPY pyproject.toml worker.py ./
COPY workflows ./workflows
COPY activities ./activities
COPY nightmill ./nightmill
# The code is not installed but lies on PYTHONPATH; the folder of metadata is what says its version.
RUN version=$(python -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])') \
    && mkdir "nightmill-$version.dist-info" \
    && printf 'Metadata-Version: 2.1\nName: nightmill\nVersion: %s\n' "$version" > "nightmill-$version.dist-info/METADATA" \
    && rm pyproject.toml \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash . \
    && printf '#!/bin/sh\nexec python -m nightmill.cli "$@"\n' > /opt/venv/bin/nightmill \
    && chmod 755 /opt/venv/bin/nightmill \
    && mkdir /data /scratch

FROM python:${PYTHON}
# tini reaps what slicers leave behind, also where nobody says `--init`. The rest is for slicing: the sandbox, and the
# recognition of scanned pages. No versions: a release of Debian changes them for its fixes only, and drops the old ones.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap tesseract-ocr tesseract-ocr-spa tini \
    && rm -rf /var/lib/apt/lists/*
# PYTHONPATH before site-packages: another distribution's `workflows` must not win. Health and metrics are asked from
# outside the container. Whatever else writes, writes to /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NIGHTMILL_STORAGE_URL=/data/files \
    NIGHTMILL_WORKER__HOST=0.0.0.0
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
COPY --from=build --chown=10001:10001 /data /data
COPY --from=build --chown=10001:10001 /scratch /scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Nightmill" \
      org.opencontainers.image.description="Slow AI work as durable Temporal workflows" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /app
USER 10001:10001
VOLUME ["/data"]
EXPOSE 8081 9464
STOPSIGNAL SIGTERM
# Alive, not ready: without its database a worker cannot work, and starting it anew does not help.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-m", "nightmill.health"]
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["python", "-m", "worker"]
