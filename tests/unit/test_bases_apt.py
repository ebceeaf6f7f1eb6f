"""Asking apt: mirrors, stand-ins, the host's own state, and errors; assembling packages made by the test."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mpack.bases import apt as apt_module
from mpack.bases.apt import AptPackage, Mirror, find_mirror, require_tools
from mpack.bases.debian import assemble, debian_architecture
from mpack.bases.recipe import make_recipe
from mpack.errors import EnvironmentFault, InputError
from mpack.oci.layer import write_tar


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH; `apt-get` in it prints the file `answer` and fails if `fails` exists."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("apt-get", "apt-config", "dpkg-deb"):
        script = (
            f'#!/bin/sh\nd="{directory}"\necho "$@" >> "$d/asked"\n'
            '[ -f "$d/fails" ] && /bin/cat "$d/fails" >&2 && exit 100\n'
            '[ -f "$d/answer" ] && /bin/cat "$d/answer"\nexit 0\n'
        )
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("MPACK_DEBIAN_MIRROR", raising=False)
    return directory


INDEX = """https://third.example/debian/|bookworm|stable|Third
https://third.example/other/|bookworm|main|Third
https://mirror.example/debian/|bookworm-updates|main|Debian
https://mirror.example/debian/|bookworm|main|Debian
https://mirror.example/security/|bookworm-security|main|Debian
"""


def test_mirror_of_the_host(fake_apt: Path) -> None:
    """The host's Debian archive and security archive are found among third parties' sources."""
    (fake_apt / "answer").write_text(INDEX)
    assert find_mirror() == Mirror("https://mirror.example/debian/", "https://mirror.example/security/")


def test_mirror_named_by_the_user(fake_apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPACK_DEBIAN_MIRROR wins over the host's sources."""
    (fake_apt / "answer").write_text(INDEX)
    monkeypatch.setenv("MPACK_DEBIAN_MIRROR", "https://mine.example/debian")
    assert find_mirror() == Mirror("https://mine.example/debian", None)


def test_no_mirror(fake_apt: Path) -> None:
    """A host whose apt knows no Debian archive (Ubuntu) is told how to name one."""
    (fake_apt / "answer").write_text("https://mirror.example/ubuntu/|jammy|main|Ubuntu\n")
    with pytest.raises(EnvironmentFault) as caught:
        find_mirror()
    assert caught.value.code == "base-unavailable" and "MPACK_DEBIAN_MIRROR" in caught.value.hint


def test_missing_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without apt (macOS) the error names what to install and what to do instead."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="apt-get, apt-config, dpkg-deb") as caught:
        require_tools()
    assert caught.value.code == "tool-missing" and "--base" in caught.value.hint


def make_apt(fake_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> apt_module.Apt:
    monkeypatch.setattr(apt_module, "KEYRING", Path("/dev/null"))
    monkeypatch.setenv("MPACK_DEBIAN_MIRROR", "https://user:s3cret@mine.example/debian")
    return apt_module.Apt(tmp_path / "apt", "bookworm", "amd64", ("debconf", "mawk", "python3"))


def test_state_of_its_own(fake_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt gets the host's way to mirrors, but neither its hooks nor its sources; stand-ins provide what they must."""
    (fake_apt / "answer").write_text(
        'Acquire::http::Proxy "http://proxy:1";\nAPT::Update::Post-Invoke:: "rm -rf /x";\n'
    )
    make_apt(fake_apt, tmp_path, monkeypatch)
    config = (tmp_path / "apt" / "apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy:1";' in config and "Post-Invoke" not in config
    assert f'Dir::State "{tmp_path}/apt/state";' in config and 'Dir::Etc::parts "/dev/null";' in config
    status = (tmp_path / "apt" / "status").read_text()
    assert "Provides: debconf-2.0" in status and "Provides: awk" in status
    sources = (tmp_path / "apt" / "sources.list").read_text().splitlines()
    assert [line.split()[3] for line in sources] == ["bookworm", "bookworm-updates"]


def test_closure(fake_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages are read from apt's list, sorted, with the file names that apt gives them."""
    apt = make_apt(fake_apt, tmp_path, monkeypatch)
    lines = [
        "Reading…",
        "'https://m/z_1.deb' zlib1g_1%3a1.3_amd64.deb 88 ",
        "'https://m/c_1.deb' libc6_2_amd64.deb 9 MD5Sum:0",
    ]
    (fake_apt / "answer").write_text("\n".join(lines))
    assert apt.closure(["zlib1g"]) == (
        AptPackage("libc6", "libc6_2_amd64.deb"),
        AptPackage("zlib1g", "zlib1g_1%3a1.3_amd64.deb"),
    )


@pytest.mark.parametrize("name", ["-o=APT::x", "git;rm", "Git", "", "a b"])
def test_package_names_are_checked(fake_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What is no package's name never reaches apt's command line."""
    apt = make_apt(fake_apt, tmp_path, monkeypatch)
    (fake_apt / "asked").unlink(missing_ok=True)
    with pytest.raises(InputError, match="not the name of a Debian package"):
        apt.closure([name])
    assert not (fake_apt / "asked").exists()


@pytest.mark.parametrize(
    ("says", "kind", "expected"),
    [
        ("E: Unable to locate package no-such-thing", InputError, "has no package no-such-thing"),
        ("E: Failed to fetch https://user:s3cret@mine.example/x  503", EnvironmentFault, "Failed to fetch"),
        ("E: The repository is not signed.", EnvironmentFault, "not signed"),
    ],
)
def test_failures(
    fake_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, kind: type[Exception], expected: str
) -> None:
    """An unknown package is the user's; all else the environment's; a mirror's password is not shown."""
    apt = make_apt(fake_apt, tmp_path, monkeypatch)
    (fake_apt / "fails").write_text(says + "\n")
    with pytest.raises(kind, match=expected) as caught:
        apt.closure(["git"])
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("platform", "name"), [("linux/amd64", "amd64"), ("linux/arm64/v8", "arm64"), ("linux/ppc64le", "ppc64el")]
)
def test_architectures(platform: str, name: str) -> None:
    """OCI's architectures in Debian's words."""
    assert debian_architecture(platform) == name


@pytest.mark.parametrize("platform", ["windows/amd64", "linux/riscv32", "linux"])
def test_unknown_architectures(platform: str) -> None:
    """A platform that Debian has no port for is refused."""
    with pytest.raises(InputError, match="no base image recipe"):
        debian_architecture(platform)


def deb(
    directory: Path, name: str, version: str, files: dict[str, str], links: dict[str, str] | None = None
) -> AptPackage:
    """A Debian package made by dpkg-deb."""
    root = directory / f"{name}-root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: test\nDescription: test\n"
    )
    # A maintainer script that must never run.
    (root / "DEBIAN/postinst").write_text(f"#!/bin/sh\ntouch {directory}/ran\n")
    (root / "DEBIAN/postinst").chmod(0o755)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(0o4755 if "/bin/" in path else 0o640)
    for path, target in (links or {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    file = f"{name}_{version}_amd64.deb"
    subprocess.run(["dpkg-deb", "--build", root, directory / file], check=True, capture_output=True)
    return AptPackage(name, file)


def test_assemble(tmp_path: Path) -> None:
    """Packages become entries: /usr merged, set-uid bits off, rules applied, CA bundle joined, no script run."""
    python = deb(
        tmp_path,
        "python3.11",
        "3.11.2-6",
        {
            "usr/bin/python3.11": "elf",
            "bin/tool": "x",
            "usr/share/doc/python3.11/copyright": "licence",
            "lib/x/lib.so.1": "so",
        },
        {"lib64/ld.so": "/lib/x/lib.so.1"},
    )
    certificates = deb(
        tmp_path,
        "ca-certificates",
        "1",
        {"usr/share/ca-certificates/mozilla/B.crt": "BBB", "usr/share/ca-certificates/mozilla/A.crt": "AAA\n\n"},
    )
    extra = deb(tmp_path, "git", "1:2.0", {"usr/bin/git": "git", "usr/share/man/man1/git.1": "man"})
    packages = [(python, True), (certificates, True), (extra, False)]
    root = assemble(make_recipe("3.11"), packages, tmp_path, tmp_path)
    found = {entry.path: entry for entry in root.entries}
    assert root.python_version == "3.11.2" and ("git", "2.0") in root.packages
    assert found["/usr/bin/python3.11"].mode == 0o755 and found["/usr/lib/x/lib.so.1"].mode == 0o644
    assert "/usr/bin/git" in found and "/usr/bin/tool" not in found and "/usr/share/man/man1/git.1" not in found
    assert {found[path].target for path in ("/bin", "/lib", "/lib64", "/usr/bin/python3")} == {
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "python3.11",
    }
    assert found["/etc/ssl/certs/ca-certificates.crt"].source == b"AAA\nBBB\n"
    assert b"Version: 1:2.0" in bytes(found["/var/lib/dpkg/status.d/git"].source)  # type: ignore[arg-type]
    assert root.directories["/tmp"].mode == 0o1777 and not (tmp_path / "ran").exists()


def test_assembled_twice_is_the_same(tmp_path: Path) -> None:
    """The order of the packages on disk and the umask do not show in the tar."""
    packages = [(deb(tmp_path, name, "3.11.2", {f"usr/lib/{name}": name}), True) for name in ("python3.11", "b", "a")]
    tars = []
    for number, order in enumerate((packages, packages[::-1])):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        root = assemble(make_recipe("3.11"), order, tmp_path, scratch)
        with (scratch / "tar").open("wb") as sink:
            write_tar(root.entries, sink, root.directories)
        tars.append((scratch / "tar").read_bytes())
    assert tars[0] == tars[1]


def test_damaged_package(tmp_path: Path) -> None:
    """A package that dpkg-deb cannot read is named."""
    (tmp_path / "x_1_all.deb").write_bytes(b"!<arch>\ngarbage")
    with pytest.raises(EnvironmentFault, match=r"x_1_all\.deb") as caught:
        assemble(make_recipe("3.11"), [(AptPackage("x", "x_1_all.deb"), True)], tmp_path, tmp_path)
    assert caught.value.code == "download-failed"


def test_no_python_in_the_suite(tmp_path: Path) -> None:
    """A suite without the recipe's Python is an error, not an image without Python."""
    with pytest.raises(EnvironmentFault, match=r"no Python 3\.11"):
        assemble(make_recipe("3.11"), [(deb(tmp_path, "x", "1", {"usr/lib/x": "x"}), True)], tmp_path, tmp_path)


def test_libraries_that_only_left_out_modules_need() -> None:
    """They do not come with the plain base; with system packages, which may need them, they do."""
    assert "libtirpc3" in make_recipe("3.11").stand_ins
    assert "libtirpc3" not in make_recipe("3.11", system_packages=("libpq5",)).stand_ins
    for module, out in [("nis", True), ("_dbm", True), ("_testcapi", True), ("_decimal", False), ("_curses", False)]:
        path = f"usr/lib/python3.11/lib-dynload/{module}.cpython-311-x86_64-linux-gnu.so"
        assert make_recipe("3.11").leaves_out(path, own=True) is out, module
