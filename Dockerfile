# Expertune on a CPU, for a machine that has Docker. Build with a network, run without one:
#   docker build -t expertune .
#   docker run --rm --network none --user "$(id -u):$(id -g)" -v "$PWD:/work" expertune check --input formatted_dataset.csv
# Ollama on the host, and the page and `expertune serve`, which listen on 127.0.0.1: --network host in place of --network none.
# Each container runs one command and ends, so there is no HEALTHCHECK.

FROM python:3.12-slim AS build
# torch's builds for the CPU: those on the package index bring gigabytes of GPU libraries
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=all
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /opt/expertune \
 && /opt/expertune/bin/pip install --no-cache-dir --disable-pip-version-check \
        --extra-index-url "$TORCH_INDEX" -c constraints.txt ".[$EXTRAS]"

FROM python:3.12-slim
# the OpenMP library, which llama.cpp's wheel (xllamacpp) takes from the system
RUN apt-get update \
 && apt-get install --no-install-recommends --yes libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/expertune /opt/expertune
RUN useradd --create-home --uid 1000 expertune \
 && install --directory --owner=expertune /work
# caches in /tmp: with --user the home of user 1000 cannot be written
ENV PATH=/opt/expertune/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib
USER expertune
WORKDIR /work
# `docker stop` is Ctrl-C: the first process of a container does not end by SIGTERM, the default, unless it handles it
STOPSIGNAL SIGINT
ENTRYPOINT ["expertune"]
CMD ["--help"]
