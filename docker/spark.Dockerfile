# syntax=docker/dockerfile:1
# Spark master, workers and jobs, for x86-64 and aarch64 (R-I3):
#
#   docker buildx build -f docker/spark.Dockerfile --platform linux/amd64,linux/arm64 -t lensdata-spark .
#
# The base is pinned by digest; --build-arg BASE=… takes another. Debian 12 has the Python and Java that EMR 7.13 runs.
ARG BASE=debian:12-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171
FROM ${BASE}
COPY docker/install-system.sh /opt/lensdata/docker/
RUN /opt/lensdata/docker/install-system.sh spark
WORKDIR /opt/lensdata
# From the slowest to change to the fastest: packages, then code.
COPY docker/install-python.sh docker/requirements-spark.txt docker/
COPY requirements.lock ./
RUN docker/install-python.sh spark
COPY pyproject.toml README.md LICENSE ./
COPY docker/install-project.sh docker/write_licences.py docker/
COPY configs configs
COPY lensdata lensdata
COPY spark_jobs spark_jobs
COPY ray_train ray_train
COPY infra infra
RUN docker/install-project.sh
ENV PATH=/opt/lensdata/venv/bin:$PATH \
    PYSPARK_PYTHON=/opt/lensdata/venv/bin/python
USER 10001:10001
WORKDIR /work
LABEL org.opencontainers.image.licenses="MIT" org.opencontainers.image.title="lensdata Spark jobs"
# A master answers on 8080, a worker on 8081; a job's container has no such page and says --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import socket, sys; sys.exit(all(socket.socket().connect_ex(('127.0.0.1', port)) for port in (8080, 8081)))"]
ENTRYPOINT ["tini", "--"]
CMD ["lensdata", "--help"]
