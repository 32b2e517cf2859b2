# The one image of all components. The CUDA libraries come with torch's wheels; the node brings the driver.
#   docker build --build-arg COMMIT=$(git rev-parse HEAD) -t lhcnet:0.1.0 .
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

COPY requirements.lock ./
RUN pip install --no-deps --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY components ./components
COPY pipeline ./pipeline
RUN pip install --no-deps --no-build-isolation .

RUN useradd --create-home --uid 10001 lhcnet
USER 10001
WORKDIR /home/lhcnet

ARG COMMIT=""
ENV LHCNET_COMMIT=${COMMIT}
ENTRYPOINT []
CMD ["lhcnet", "--help"]
