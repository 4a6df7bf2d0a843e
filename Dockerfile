# CUDA runtime, the same pinned requirements, an ordinary user. Datasets and run folders lie in a mounted folder:
#   docker build -t aras400k .
#   docker run --gpus all --ipc=host --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" aras400k python /opt/aras400k/segmentation_train.py
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

# gcc and Python's headers are what Triton compiles its launchers with.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home aras

COPY requirements.txt /opt/aras400k/
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir uv \
    && /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python -r /opt/aras400k/requirements.txt
ENV PATH=/opt/venv/bin:$PATH NO_ALBUMENTATIONS_UPDATE=1 HOME=/data HF_HOME=/data/.cache/huggingface

COPY . /opt/aras400k
USER aras
WORKDIR /data
CMD ["python", "/opt/aras400k/dataset_creator.py", "--help"]
