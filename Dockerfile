# The image of all components: `make image`. The CUDA libraries come with torch's wheels; the node brings the driver.
# To pin the base image by digest:  make image BUILD_ARGS="--build-arg BASE=python:3.11.14-slim-bookworm@sha256:..."
# For nodes without a GPU:          make image BUILD_ARGS="--build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu"
ARG BASE=base

FROM python:3.11.14-slim-bookworm AS base

FROM ${BASE} AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements.lock ./
# Without triton: only compiled networks use it, and it needs a C compiler, which the image does not have either.
# TORCH_INDEX serves torch of the locked version without CUDA. Its wheels are other files, so the lock has no hashes of them.
RUN python3 -m venv --without-pip /opt/venv \
    && without='triton' \
    && if [ -n "${TORCH_INDEX}" ]; then \
        without='triton|torch|torchvision|nvidia-.*|cuda-.*' \
        && sed -n -E 's/^((torch|torchvision)==[^ ]+).*/\1/p' requirements.lock > torch.txt \
        && pip --python /opt/venv/bin/python install --no-deps --index-url "${TORCH_INDEX}" -r torch.txt; \
    fi \
    && awk -v without="^(${without})==" '/^[a-z0-9]/ {wanted = $0 !~ without} wanted' requirements.lock > wanted.lock \
    && pip --python /opt/venv/bin/python install --no-deps --require-hashes -r wanted.lock \
    && find /opt/venv -depth -type d -name tests -exec rm -rf {} + \
    && find /opt/venv -name '*.a' -delete \
    && rm -rf /opt/venv/lib/python3*/site-packages/torch/include \
        /opt/venv/lib/python3*/site-packages/nvidia/*/include \
        /opt/venv/lib/python3*/site-packages/nvidia/*/lib/libcusolverMg.so* \
        /opt/venv/lib/python3*/site-packages/nvidia/*/lib/libnvrtc*.alt.so*

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY components ./components
COPY pipeline ./pipeline
# below /own, so that new code is a small layer of its own
RUN pip --python /opt/venv/bin/python install --no-deps --no-build-isolation --root /own --prefix /opt/venv .

FROM ${BASE}
# KFP's launcher writes to /tmp: with the link, a volume at /scratch is all that a read-only root file system needs.
RUN mkdir -m 1777 /scratch && rm -rf /tmp && ln -s /scratch /tmp
COPY --from=build /opt/venv /opt/venv
COPY --from=build /own/opt/venv /opt/venv

# Any user id works: an id without a name needs USER (MLflow and torch ask for it), and all that is written is in /scratch.
ENV PATH=/opt/venv/bin:${PATH} PYTHONUNBUFFERED=1 USER=lhcnet HOME=/scratch TMPDIR=/scratch \
    LHCNET_JOURNAL=/scratch/journal \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=268435456
USER 10001:0
WORKDIR /scratch
RUN lhcnet --version && python -c "import kfp, kfp.kubernetes, mlflow, torch, torchvision" && rm -rf /scratch/* /scratch/.[!.]*

ARG VERSION="" COMMIT="" CREATED="" SOURCE=""
ENV LHCNET_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="lhcnet" \
    org.opencontainers.image.description="LHC-Net on FER2013: the components of its Kubeflow pipeline" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${COMMIT}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT []
CMD ["lhcnet", "--help"]
