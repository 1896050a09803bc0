# syntax=docker/dockerfile:1
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements/base.txt /tmp/base.txt
# pip compiles what it installs: without bytecode the worker takes three times as long to start.
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --require-hashes --only-binary :all: -r /tmp/base.txt
COPY worker.py /app/
COPY workflows /app/workflows
COPY activities /app/activities
COPY nightmill /app/nightmill
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /app \
    && printf '#!/bin/sh\nexec python -m nightmill.cli "$@"\n' > /opt/venv/bin/nightmill \
    && chmod 755 /opt/venv/bin/nightmill \
    && mkdir /data /scratch && chown 10001:10001 /data /scratch

FROM python:3.11-slim-bookworm
# For slicing: the sandbox, and the recognition of scanned pages.
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap tesseract-ocr tesseract-ocr-spa \
    && rm -rf /var/lib/apt/lists/*
# PYTHONPATH before site-packages: another distribution's `workflows` must not win.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NIGHTMILL_STORAGE_URL=/data/files
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
COPY --from=build --chown=10001:10001 /data /data
COPY --from=build --chown=10001:10001 /scratch /scratch
WORKDIR /app
USER 10001:10001
VOLUME /data
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker"]
