# MLServer with its LightGBM runtime, installed as uv.Dockerfile installs; settings and model are MLServer's own layout.
FROM @BASE@
USER 0:0
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/mlserver/venv
WORKDIR /opt/mlserver
COPY requirements.txt /tmp/requirements.txt
RUN --mount=type=bind,source=uv,target=/usr/local/bin/uv \
    --mount=type=cache,id=@WHEELS@,target=/root/.cache/uv @MOUNTS@\
    : @STEPS@ @WHEELS@ && \
    uv venv -q /opt/mlserver/venv && @CA@uv pip install -q --require-hashes -r /tmp/requirements.txt
COPY models/ /opt/mlserver/models/
ENV PYTHONUNBUFFERED=1 PATH=/opt/mlserver/venv/bin:$PATH
EXPOSE 8080 8081
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["mlserver", "start", "/opt/mlserver/models"]
