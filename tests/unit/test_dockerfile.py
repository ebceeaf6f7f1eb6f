"""A plan as a Dockerfile: quoting, templates, what goes beyond the plan, and the build context."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpack.contents import Contents, sha256_bytes
from mpack.dockerfile import SHARED_TEMPLATE, Stage, beyond_plan, not_embeddable, render
from mpack.dockerfile.context import index_secrets, must_stage_wheels, write_context
from mpack.dockerfile.quoting import copy_form, exec_form, fold, quoted, word
from mpack.dockerfile.render import instructions
from mpack.env.index import IndexSettings
from mpack.errors import InputError
from mpack.plan import BaseImage, Bytecode, Environment, ImagePlan
from mpack.spec import FileEntry, FileTree, HealthCheck, ImageConfig

ODD = b"weights\n"
DIGEST = sha256_bytes(ODD)
ONE_LINE = st.text(st.characters(exclude_characters="\r\n\x00", exclude_categories=("Cs",)))


@pytest.fixture
def plan() -> ImagePlan:
    """A small plan with odd names, without packages."""
    return ImagePlan(
        packager="docker-rest",
        model_name="wine",
        model_version="1",
        platform="linux/amd64",
        base=BaseImage("python:3.11-slim", "sha256:" + "a" * 64, "linux/amd64", "/usr/local/bin/python3.11", "3.11.9"),
        environment=Environment("3.11", "linux/amd64", ()),
        bytecode=None,
        trees=(
            FileTree("runtime", "/opt/mpack/runtime", (FileEntry("mpack_runtime/a.py", len(ODD), DIGEST),)),
            FileTree("model", "/opt/mpack/model", (FileEntry("a b/$x [1].bin", len(ODD), DIGEST, 0o755),)),
            FileTree("config", "/opt/mpack", (FileEntry("model.json", len(ODD), DIGEST),)),
        ),
        config=ImageConfig(
            env=(("MPACK_HOST", 'a "b" $HOME \\'),),
            ports=(5000,),
            entrypoint=("/opt/mpack/venv/bin/python", "-m", "mpack_runtime"),
            command=("serve",),
            healthcheck=HealthCheck(("true",), interval=2.5),
            labels=(("dev.mpack.signature", '{"a": "$b"}'),),
        ),
    )


CONTENTS = Contents({DIGEST: ODD})


def docker_unquotes(text: str) -> str:
    """What a Dockerfile parser reads in a double-quoted word: \\ before a letter of \\"$ is taken off, $ expands."""
    assert text[0] == text[-1] == '"'
    assert not re.search(r'(?<!\\)(?:\\\\)*["$]', text[1:-1])
    return re.sub(r'\\([\\"$])', r"\1", text[1:-1])


@given(ONE_LINE)
def test_quoted_values_survive(value: str) -> None:
    """Whatever the value, the parser reads exactly it, and no quote or variable is left open in it."""
    assert docker_unquotes(quoted(value)) == value


@given(ONE_LINE)
def test_words_survive(value: str) -> None:
    """An unquoted word reads as itself when the backslashes are taken off, and holds no bare special character."""
    assert re.sub(r"\\(.)", r"\1", word(value)) == value
    assert not re.search(r"(?<!\\)(?:\\\\)*[\s$\"']", word(value))


@given(st.lists(ONE_LINE))
def test_exec_form_is_json(values: list[str]) -> None:
    """A command reads back as the same list, on one line."""
    assert json.loads(exec_form(values)) == values
    assert "\n" not in exec_form(values)


def test_copy_escapes_variables() -> None:
    """COPY expands variables even in its JSON form."""
    assert json.loads(copy_form(["trees/0/", "/opt/$HOME x"])) == ["trees/0/", "/opt/\\$HOME\\ x"]


@pytest.mark.parametrize("value", ["a\nRUN evil", "a\rb", "a\0"])
def test_line_breaks_are_refused(plan: ImagePlan, value: str) -> None:
    """A value that would end its line is an error, not an instruction."""
    with pytest.raises(InputError, match="line break") as caught:
        render(replace(plan, config=replace(plan.config, env=(("A", value),))))
    assert caught.value.code == "template-invalid"


def test_bad_variable_names_are_refused(plan: ImagePlan) -> None:
    """A name with a space cannot become a second variable."""
    with pytest.raises(InputError, match="cannot be the name"):
        render(replace(plan, config=replace(plan.config, env=(("A B", "x"),))))


@given(st.lists(st.sampled_from(['\\"', "\\\\", "\\$", "abc", " #", "ü"]), max_size=9))
def test_long_lines_are_folded(parts: list[str]) -> None:
    """Continued lines join to the same text; none is long, starts like a comment or ends in an escaped backslash."""
    line = 'LABEL a="' + "".join([*parts, "end"]) * 9000 + '"'
    folded = fold(line)
    assert folded.replace("\\\n", "") == line
    for piece in folded.split("\n"):
        assert len(piece) < 10_000
        assert piece[0] not in " #"
    for piece in folded.split("\n")[:-1]:
        assert piece.endswith("\\") and not piece.endswith("\\\\")


def test_dockerfile(plan: ImagePlan) -> None:
    """The whole text of a small plan: two stages on one base, exec forms only, no RUN in the image's own stage."""
    text = render(plan, stage=Stage(base="local:base", secrets=("mpack-index",), cache=True))
    mounts = "--mount=type=cache,id=mpack-uv,target=/mpack-build-cache --mount=type=secret,id=mpack-index"
    assert instructions(text) == [
        "FROM local:base AS base",
        "FROM base AS environment",
        "USER 0:0",
        'COPY ["build/", "/mpack-build/"]',
        f'RUN {mounts} ["/usr/local/bin/python3.11", "/mpack-build/assemble.py", "/mpack-build/job.json"]',
        "FROM base",
        "USER 0:0",
        "WORKDIR /opt/mpack",
        'COPY --from=environment ["/opt/mpack/venv", "/opt/mpack/venv"]',
        'COPY ["trees/0-runtime/", "/opt/mpack/runtime/"]',
        'COPY ["trees/1-model/", "/opt/mpack/model/"]',
        'COPY ["trees/2-config/", "/opt/mpack/"]',
        'ENV PATH="/opt/mpack/venv/bin:${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"',
        'ENV MPACK_HOST="a \\"b\\" \\$HOME \\\\"',
        'LABEL "dev.mpack.signature"="{\\"a\\": \\"\\$b\\"}"',
        "EXPOSE 5000",
        "USER 65532:65532",
        "STOPSIGNAL SIGTERM",
        'HEALTHCHECK --interval=2.5s --timeout=5s --start-period=10s --retries=3 CMD ["true"]',
        'ENTRYPOINT ["/opt/mpack/venv/bin/python", "-m", "mpack_runtime"]',
        'CMD ["serve"]',
    ]
    assert "# syntax" not in text and "<<" not in text and "--link" not in text


def test_bytecode_is_compiled_from_what_stands_before_the_model(plan: ImagePlan) -> None:
    """The build stage has venv and runtime when it compiles; the byte code is copied before the model."""
    lines = instructions(render(replace(plan, bytecode=Bytecode("3.11.9", ("/opt/mpack/runtime/mpack_runtime/a.py",)))))
    compiled = lines.index('RUN ["/usr/local/bin/python3.11", "/mpack-build/compile_stage.py", "/mpack-build"]')
    assert lines[compiled - 2 : compiled] == [
        'COPY ["trees/0-runtime/", "/opt/mpack/runtime/"]',
        'COPY ["compile/", "/mpack-build/"]',
    ]
    copied = lines.index('COPY --from=environment ["/mpack-build/bytecode/", "/"]')
    assert lines[copied + 1] == 'COPY ["trees/1-model/", "/opt/mpack/model/"]'


@pytest.mark.parametrize("packager", ["mpack_docker_rest", "mpack_docker_cli"])
def test_own_packagers_add_nothing(plan: ImagePlan, packager: str) -> None:
    """The templates of mpack's own packagers make the shared Dockerfile: every builder can build them."""
    template = Path(__file__).parents[2] / "packagers" / packager / "Dockerfile.j2"
    assert beyond_plan(plan, template) is None


def write_template(directory: Path, text: str) -> Path:
    """A user's template."""
    path = directory / "Mine.j2"
    path.write_text(text)
    return path


def test_comments_are_nothing_beyond_the_plan(plan: ImagePlan, tmp_path: Path) -> None:
    """A template that only comments and spaces differently is embeddable."""
    template = write_template(
        tmp_path,
        '{% extends "base.j2" %}\n{% block files %}\n# the files\n\n{{ super() }}\n{% endblock %}\n',
    )
    assert beyond_plan(plan, template) is None


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        ("{% block after_files %}RUN echo hi\n{% endblock %}", "RUN echo hi"),
        ("{% block before_files %}RUN apt-get update && \\\n    apt-get install git\n{% endblock %}", "RUN apt-get"),
        ("{% block config %}{{ super() }}ENV MORE=1\n{% endblock %}", "ENV MORE=1"),
        ("{% block config %}{% endblock %}", "(left out)"),
        ("{% block dependencies %}{% endblock %}", "(left out or moved)"),
    ],
)
def test_steps_beyond_the_plan(plan: ImagePlan, tmp_path: Path, block: str, shown: str) -> None:
    """Whatever a template adds or leaves out is found and shown, and refused by name."""
    template = write_template(tmp_path, '{% extends "base.j2" %}\n' + block)
    extra = beyond_plan(plan, template)
    assert extra is not None and shown in extra
    error = not_embeddable(template, extra)
    assert error.code == "plan-not-embeddable"
    assert str(template) in error.message and shown in error.message
    assert "--builder docker" in error.hint


def test_template_may_include_its_neighbours(plan: ImagePlan, tmp_path: Path) -> None:
    """A template finds files beside it; a base.j2 beside it does not stand in for the shared one."""
    (tmp_path / "base.j2").write_text("FROM evil")
    (tmp_path / "part.j2").write_text("RUN echo part")
    template = write_template(
        tmp_path, '{% extends "base.j2" %}{% block after_files %}{% include "part.j2" %}{% endblock %}'
    )
    text = render(plan, template)
    assert "RUN echo part" in text and "evil" not in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{% extends "base.j2" %}\n{% block files %}', "line 2"),
        ("{{ nonsense }}", "nonsense"),
        ('{% extends "missing.j2" %}', "missing.j2"),
    ],
)
def test_wrong_templates(plan: ImagePlan, tmp_path: Path, text: str, told: str) -> None:
    """A template's mistake is the user's: its file, its line, and the reason."""
    template = write_template(tmp_path, text)
    with pytest.raises(InputError) as caught:
        render(plan, template)
    assert caught.value.code == "template-invalid"
    assert "Mine.j2" in caught.value.message and told in caught.value.message


def test_missing_template(plan: ImagePlan, tmp_path: Path) -> None:
    """A template that is not there is named."""
    with pytest.raises(InputError, match=r"nowhere\.j2"):
        render(plan, tmp_path / "nowhere.j2")


# --- the context


def test_context(plan: ImagePlan, tmp_path: Path) -> None:
    """Trees with exact modes under any umask, the assembling program with its job, uv; nothing of this host's paths."""
    import os

    old = os.umask(0o077)
    try:
        write_context(plan, CONTENTS, tmp_path, index=IndexSettings())
    finally:
        os.umask(old)
    model = tmp_path / "trees/1-model/a b/$x [1].bin"
    assert model.read_bytes() == ODD
    assert stat.S_IMODE(model.stat().st_mode) == 0o755
    for path in tmp_path.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o755 if path.is_dir() or path.name in ("uv", "$x [1].bin") else 0o644), path
    job = json.loads((tmp_path / "build/job.json").read_text())
    assert job["destination"] == "/opt/mpack/venv"
    assert job["settings"] is None
    assert {path.name for path in (tmp_path / "build").iterdir()} == {
        "job.json",
        "assemble.py",
        "layout.py",
        "uv",
        "wheels",
    }
    assert str(tmp_path) not in (tmp_path / "build/job.json").read_text() + (tmp_path / "Dockerfile").read_text()


def test_context_with_bytecode(plan: ImagePlan, tmp_path: Path) -> None:
    """The list of sources goes along, with the image's own environment for the compiler."""
    sources = ("/opt/mpack/runtime/mpack_runtime/a.py",)
    write_context(replace(plan, bytecode=Bytecode("3.11.9", sources)), CONTENTS, tmp_path, index=IndexSettings())
    job = json.loads((tmp_path / "compile/sources.json").read_text())
    assert job["sources"] == list(sources)
    command = ["/opt/mpack/venv/bin/python", "-S", "-B", "-m", "mpack_runtime.compile"]
    assert job["command"] == command
    assert (tmp_path / "compile/compile_stage.py").is_file()
    short = replace(plan, bytecode=Bytecode("3.11.9", sources, short_docstrings=True))
    write_context(short, CONTENTS, tmp_path / "short", index=IndexSettings())
    job = json.loads((tmp_path / "short/compile/sources.json").read_text())
    assert job["command"] == [*command, "--short-docstrings"]


def test_changed_content_is_refused(plan: ImagePlan, tmp_path: Path) -> None:
    """A file that no longer has its hash ends the build by name."""
    changed = tmp_path / "changed"
    changed.write_bytes(b"other")
    (tmp_path / "context").mkdir()
    with pytest.raises(InputError, match="changed while the image was being built") as caught:
        write_context(plan, Contents({DIGEST: changed}), tmp_path / "context", index=IndexSettings())
    assert caught.value.code == "artifact-changed"


def test_index_settings_become_secrets(tmp_path: Path) -> None:
    """Index and password travel as one secret, CA and client certificate as files that it names."""
    ca = tmp_path / "ca.pem"
    index = IndexSettings(default="https://me:pw@host/simple", ca_bundle=ca)
    secrets = index_secrets(index)
    settings = json.loads(str(secrets["mpack-index"]))
    assert settings["UV_DEFAULT_INDEX"] == "https://me:pw@host/simple"
    assert settings["SSL_CERT_FILE"] == "/run/secrets/mpack-ca"
    assert secrets["mpack-ca"] == ca


def test_local_indexes_are_staged(plan: ImagePlan, tmp_path: Path) -> None:
    """A directory of wheels cannot be seen by a build stage, so its wheels go into the context."""
    assert must_stage_wheels(plan, IndexSettings(find_links=(tmp_path.as_uri(),)))
    assert not must_stage_wheels(plan, IndexSettings(default="https://host/simple"))


def test_shared_template_is_its_own_measure(plan: ImagePlan) -> None:
    """The shared template adds nothing to itself."""
    assert beyond_plan(plan, SHARED_TEMPLATE) is None


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r", "\n"])
def test_nothing_of_a_model_begins_a_line(plan: ImagePlan, end: str) -> None:
    """Characters that end a line for Python, in a model's name, version or columns, add no instruction."""
    odd = f"1{end}RUN touch /owned #"
    labels = (("dev.mpack.signature", odd),) if end not in "\r\n" else ()
    text = render(replace(plan, model_name=odd, model_version=odd, config=replace(plan.config, labels=labels)))
    assert not [line for line in text.split("\n") if line.startswith("RUN touch")]
    assert instructions(text)[0].startswith("FROM ")


@pytest.mark.parametrize("name", ["a\nRUN touch /owned", "a AS b", "$IMAGE", "--platform=x", ""])
def test_a_base_name_that_is_none_is_refused(plan: ImagePlan, name: str) -> None:
    """A lock edited by hand cannot add an instruction through its base's name."""
    with pytest.raises(InputError, match="base"):
        render(replace(plan, base=replace(plan.base, reference=name)))
