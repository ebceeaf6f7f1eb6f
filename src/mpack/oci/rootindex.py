"""The final file system of an image as an index: every path's kind and owner, and the content of files asked for."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from posixpath import dirname, join, split

from mpack.oci.image import OciImage
from mpack.oci.members import layer_members, tar_faults

_MAX_LINKS = 40


@dataclass(frozen=True)
class Node:
    """One path: `kind` is "file", "link" (`target`), "directory" or "other"; `content` only of wanted small files."""

    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    size: int = 0
    target: str = ""
    content: bytes | None = None


class Files(Mapping[str, Node]):
    """Absolute path -> node, after all layers and whiteouts."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes

    def __getitem__(self, path: str) -> Node:
        return self._nodes[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def resolve(self, path: str) -> str | None:
        """Where a path leads when all links are followed inside the image; None if nothing stands there."""
        found = follow(self._nodes, path)
        return found if found is not None and (found == "/" or found in self._nodes) else None

    def place(self, path: str) -> str:
        """The path with the links among its directories followed: where a file of that path really stands."""
        parent, name = split(path)
        return join(follow(self._nodes, parent) or parent, name)

    def read(self, path: str) -> bytes | None:
        """The content of a wanted file, links followed; None if it is missing, was not wanted or was too large."""
        found = self.resolve(path)
        return self._nodes[found].content if found is not None and found in self._nodes else None


def read_files(image: OciImage, wanted: Callable[[str], bool], limit: int = 4 << 20) -> Files:
    """Reads all layers once. `wanted` gets absolute paths; files above `limit` bytes have no content."""
    nodes: dict[str, Node] = {}
    lost: set[str] = set()
    for number in range(len(image.layers)):
        with tar_faults(image, number):
            lost |= _apply(nodes, image, number, wanted, limit)
    if lost:  # hard links to files whose content nobody wanted under their first name: once more, with those
        return read_files(image, lambda path: wanted(path) or path in lost, limit)
    return Files(nodes)


def _apply(nodes: dict[str, Node], image: OciImage, number: int, wanted: Callable[[str], bool], limit: int) -> set[str]:
    """Applies one layer; returns the targets of wanted hard links whose content was not kept."""
    fresh: set[str] = set()
    lost: set[str] = set()
    for member, stream, parts in layer_members(image, number):
        if not parts:
            continue
        parent = follow(nodes, "/" + "/".join(parts[:-1])) or "/"
        path = join(parent, parts[-1])
        if parts[-1] == ".wh..wh..opq":
            _remove_below(nodes, parent, fresh)
        elif parts[-1].startswith(".wh."):
            hidden = join(parent, parts[-1].removeprefix(".wh."))
            if hidden not in fresh:
                nodes.pop(hidden, None)
                _remove_below(nodes, hidden, fresh)
        else:
            if not member.isdir() and path in nodes and nodes[path].kind == "directory":
                _remove_below(nodes, path, fresh)
            _add_parents(nodes, parent, fresh)
            if member.islnk():
                target = join(follow(nodes, dirname(_absolute(member.linkname))) or "/", member.linkname.split("/")[-1])
                node = nodes.get(target, Node("other"))
                if node.kind == "file" and node.content is None and node.size <= limit and wanted(path):
                    lost.add(target)
            else:
                keep = stream is not None and member.size <= limit and wanted(path)
                node = _node(member, stream.read() if keep and stream is not None else None)
            nodes[path] = node
            fresh.add(path)
    return lost


def _node(member: tarfile.TarInfo, content: bytes | None) -> Node:
    kind = "directory" if member.isdir() else "link" if member.issym() else "file" if member.isreg() else "other"
    return Node(kind, member.mode & 0o7777, member.uid, member.gid, member.size, member.linkname, content)


def _absolute(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _add_parents(nodes: dict[str, Node], path: str, fresh: set[str]) -> None:
    while path != "/" and (path not in nodes or nodes[path].kind != "directory"):
        nodes[path] = Node("directory")
        fresh.add(path)
        path = dirname(path)


def _remove_below(nodes: dict[str, Node], path: str, fresh: set[str]) -> None:
    prefix = path.rstrip("/") + "/"
    for other in [item for item in nodes if item.startswith(prefix) and item not in fresh]:
        del nodes[other]


def follow(nodes: Mapping[str, Node], path: str) -> str | None:
    """A path with all its links followed, whether or not something stands there; None for a circle of links."""
    done = ""
    todo = list(reversed(path.split("/")))
    links = 0
    while todo:
        name = todo.pop()
        if name in ("", "."):
            continue
        if name == "..":
            done = done.rpartition("/")[0]
            continue
        node = nodes.get(f"{done}/{name}")
        if node is None or node.kind != "link":
            done = f"{done}/{name}"
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        if node.target.startswith("/"):
            done = ""
        todo.extend(reversed(node.target.split("/")))
    return done or "/"
