# The peer BuildKit + uv: what one writes by hand after uv's guide for docker, here for mpack's lock and mpack's server.
FROM @BASE@
USER 0:0
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/mpack/venv
WORKDIR /opt/mpack
COPY requirements.txt /tmp/requirements.txt
RUN --mount=type=bind,source=uv,target=/usr/local/bin/uv \
    --mount=type=cache,id=@WHEELS@,target=/root/.cache/uv @MOUNTS@\
    : @STEPS@ @WHEELS@ && \
    uv venv -q /opt/mpack/venv && @CA@uv pip install -q --require-hashes -r /tmp/requirements.txt
COPY runtime/ /opt/mpack/runtime/
COPY config/ /opt/mpack/
COPY model/ /opt/mpack/model/
ENV PYTHONPATH=/opt/mpack/runtime PYTHONUNBUFFERED=1 PATH=/opt/mpack/venv/bin:$PATH
EXPOSE 5000
USER 65532:65532
ENTRYPOINT ["/opt/mpack/venv/bin/python", "-m", "mpack_runtime"]
CMD ["serve"]
