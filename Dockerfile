# To pin it by digest (docs/kubernetes.md has the command that finds it):
#   docker build --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:... .
ARG PYTHON_IMAGE=python:3.13-slim

# Build: the wheel of this checkout, and a virtual environment with it and the packages of the lock.
FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements.lock requirements-build.lock pyproject.toml README.md LICENSE ./
COPY keys keys
COPY webhook webhook
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.lock \
 && /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --no-cache-dir --wheel-dir /wheels . \
 && python -m venv /opt/leeway \
 && /opt/leeway/bin/python -m pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock \
 && /opt/leeway/bin/python -m pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && /opt/leeway/bin/python -m pip uninstall --yes pip

# Run: not as root; the root file system can be read-only. Only the data directory (a volume) and
# /tmp (a tmpfs) are written: docker run --read-only --tmpfs /tmp ...
FROM ${PYTHON_IMAGE}
ARG COMMIT=""
ENV LEEWAY_COMMIT=${COMMIT} \
    LEEWAY_DATA_DIR=/var/lib/leeway \
    PATH=/opt/leeway/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/leeway /opt/leeway
RUN install -d -m 0700 -o 65532 -g 65532 /var/lib/leeway
USER 65532:65532
VOLUME /var/lib/leeway
EXPOSE 8443
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-m", "webhook.health_probe"]
ENTRYPOINT ["leeway"]
CMD ["serve", "--bind", "0.0.0.0:8443"]
