# BentoML from its lock, installed as uv.Dockerfile installs; one service, one worker.
FROM @BASE@
USER 0:0
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/bento/venv
WORKDIR /opt/bento
COPY requirements.txt /tmp/requirements.txt
RUN --mount=type=bind,source=uv,target=/usr/local/bin/uv \
    --mount=type=cache,id=@WHEELS@,target=/root/.cache/uv @MOUNTS@\
    : @STEPS@ @WHEELS@ && \
    uv venv -q /opt/bento/venv && @CA@uv pip install -q --require-hashes -r /tmp/requirements.txt
COPY service.py model.joblib /opt/bento/
ENV PYTHONUNBUFFERED=1 PATH=/opt/bento/venv/bin:$PATH BENTOML_HOME=/tmp/bentoml BENTOML_DO_NOT_TRACK=true
EXPOSE 3000
USER 65532:65532
ENTRYPOINT ["bentoml", "serve", "service:Linear", "--host", "0.0.0.0", "--port", "3000"]
