# The server in a container. `compose.yaml` starts it; by hand:
#
#     docker build -t comfyk .                           # torch for the CPU
#     docker build -t comfyk --build-arg TORCH=cu130 .   # for NVIDIA's GPUs; rocm7.1 and xpu likewise
#     docker run --init -p 8188:8188 -v comfyk:/data comfyk
#
# It listens beyond the container, so clients need a token: `docker exec CONTAINER comfyk token create laptop`.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG TORCH=cpu
RUN python -m venv /opt/comfyk
WORKDIR /source
COPY constraints.txt .
# By itself, and first: it is large, and changes seldom.
RUN /opt/comfyk/bin/pip install --no-cache-dir -c constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/${TORCH} torch
COPY . .
RUN /opt/comfyk/bin/pip install --no-cache-dir -c constraints.txt ./kernel ./plugins/* .

FROM python:${PYTHON}-slim
COPY --from=build /opt/comfyk /opt/comfyk
ENV PATH=/opt/comfyk/bin:$PATH COMFYK_FOLDERS__BASE=/data COMFYK_HTTP__LISTEN=0.0.0.0
RUN useradd --create-home --uid 1000 comfyk && install --directory --owner comfyk --group comfyk /data
USER comfyk
WORKDIR /data
VOLUME /data
EXPOSE 8188
# Whatever it answers, a refusal for want of a token too, it answers.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["python", "-c", \
    "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8188, timeout=8); c.request('GET', '/prompt'); exit(c.getresponse().status >= 500)"]
CMD ["comfyk", "start"]
