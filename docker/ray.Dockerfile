# syntax=docker/dockerfile:1
# Ray head, workers and jobs, for x86-64 and aarch64 (GH200), with CUDA or without (R-I3):
#
#   docker buildx build -f docker/ray.Dockerfile --platform linux/amd64,linux/arm64 -t lensdata-ray .
#   docker build -f docker/ray.Dockerfile --build-arg TORCH_INDEX_URL=ADDRESS -t lensdata-ray:cpu .
#
# torch brings CUDA's libraries itself, so the base needs none; the host needs NVIDIA's driver and container toolkit.
# TORCH_INDEX_URL: the index of CPU builds that pytorch.org names, for a smaller image without CUDA.
ARG BASE=debian:12-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171
FROM ${BASE}
COPY docker/install-system.sh /opt/lensdata/docker/
RUN /opt/lensdata/docker/install-system.sh ray
WORKDIR /opt/lensdata
# From the slowest to change to the fastest: packages, then code.
COPY docker/install-python.sh docker/requirements-ray.txt docker/
COPY requirements.lock ./
ARG TORCH_INDEX_URL=
RUN TORCH_INDEX_URL="${TORCH_INDEX_URL}" docker/install-python.sh ray
COPY pyproject.toml README.md LICENSE ./
COPY docker/install-project.sh docker/write_licences.py docker/
COPY configs configs
COPY lensdata lensdata
COPY ray_train ray_train
COPY infra infra
RUN docker/install-project.sh
# Token authentication is on whatever starts Ray here; the dashboard's Train page needs its state kept.
ENV PATH=/opt/lensdata/venv/bin:$PATH \
    RAY_AUTH_MODE=token \
    RAY_TRAIN_ENABLE_STATE_TRACKING=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /work
LABEL org.opencontainers.image.licenses="MIT" org.opencontainers.image.title="lensdata training"
# Exit 0 while the head answers; on a worker node the address comes from the environment of `ray start`.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 \
  CMD ["sh", "-c", "ray health-check --address \"${RAY_HEAD:-127.0.0.1:6379}\""]
ENTRYPOINT ["tini", "--"]
CMD ["lensdata", "--help"]
