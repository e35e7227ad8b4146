# The demo: the light package and Gradio, no torch.
#
#   docker build -f docker/demo.Dockerfile -t captioner-demo . && docker run --rm -p 7860:7860 captioner-demo

FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY captioner captioner
COPY configs configs
RUN pip install --no-cache-dir '.[demo]' && useradd --create-home captioner
USER captioner
WORKDIR /home/captioner
EXPOSE 7860
ENTRYPOINT ["captioner", "demo", "--host", "0.0.0.0", "--port", "7860"]
