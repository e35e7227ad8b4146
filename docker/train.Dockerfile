# Training: torch with CUDA. Mount data/ and runs/ into /captioner; arguments are those of `captioner train`.
#
#   docker build -f docker/train.Dockerfile -t captioner-train .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/data:/captioner/data" -v "$PWD/runs:/captioner/runs" captioner-train --config coco

FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY captioner captioner
COPY configs configs
RUN pip install --no-cache-dir '.[train]'
WORKDIR /captioner
ENTRYPOINT ["captioner", "train"]
