"""The final file system of an image as an index: every path's kind and owner, and the content of files asked for."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import dirname, join, split
from typing import IO

from mpack.errors import InputError
from mpack.oci.image import OciImage
from mpack.oci.members import layer_members, require_depth, tar_faults

#: Bytes that an index may take, all layers together: contents, paths, and what Python needs for each.
MEMORY_LIMIT = 256 << 20
_NODE_BYTES = 400
_MAX_LINKS = 40
#: Names that may be looked up to find where entries go: an image of 200,000 files needs about two millions.
_MAX_STEPS = 50_000_000


@dataclass(frozen=True, slots=True)
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
    """Reads all layers once. `wanted` gets absolute paths; files above `limit` bytes have no content.

    Raises InputError base-unsuitable for what no image may hold, or what would take more than MEMORY_LIMIT bytes.
    """
    index = _Index(image, wanted, limit)
    for number in range(len(image.layers)):
        with tar_faults(image, number):
            index.apply(number)
    if index.lost:  # hard links to files that nobody wanted under their first name: once more, with those
        return read_files(image, lambda path: wanted(path) or path in index.lost, limit)
    return Files(index.nodes)


class _Index:
    """The nodes under way; `lost` are the first names of wanted hard links whose content was not kept."""

    def __init__(self, image: OciImage, wanted: Callable[[str], bool], limit: int) -> None:
        self._image = image
        self._wanted = wanted
        self._limit = limit
        self.nodes: dict[str, Node] = {}
        self.lost: set[str] = set()
        #: Names in a directory: taking one away must not look at all others.
        self._below: dict[str, set[str]] = {}
        #: Paths that the layer under way has, and those below which it has hidden what others had.
        self._fresh: set[str] = set()
        self._cleared: set[str] = set()
        #: A hard link's path -> the path that its content was read under.
        self._first: dict[str, str] = {}
        self._bytes = 0
        self._steps = 0

    def apply(self, number: int) -> None:
        self._fresh.clear()
        self._cleared.clear()
        for member, stream, parts in layer_members(self._image, number):
            if not parts:
                continue
            parent = self._place(parts[:-1])
            path = join(parent, parts[-1])
            if parts[-1] == ".wh..wh..opq":
                self._clear(parent)
            elif parts[-1].startswith(".wh."):
                self._hide(join(parent, parts[-1].removeprefix(".wh.")))
            else:
                if not member.isdir():
                    self._clear(path)
                self._add_parents(parent)
                self._put(path, self._node(member, stream, path))

    def _node(self, member: tarfile.TarInfo, stream: IO[bytes] | None, path: str) -> Node:
        self._first.pop(path, None)
        if member.islnk():
            named = tuple(part for part in member.linkname.split("/") if part not in ("", "."))
            target = join(self._place(named[:-1]), named[-1]) if named else "/"
            node = self.nodes.get(target, Node("other"))
            first = self._first[path] = self._first.get(target, target)
            if node.kind == "file" and node.content is None and node.size <= self._limit and self._wanted(path):
                self.lost.add(first)
            return node
        content = None
        if stream is not None and member.size <= self._limit and self._wanted(path):
            self._spend(member.size)
            content = stream.read()
        kind = "directory" if member.isdir() else "link" if member.issym() else "file" if member.isreg() else "other"
        return Node(kind, member.mode & 0o7777, member.uid, member.gid, member.size, member.linkname, content)

    def _put(self, path: str, node: Node) -> None:
        self._spend(_NODE_BYTES + len(path) + len(node.target))
        self.nodes[path] = node
        self._fresh.add(path)
        self._below.setdefault(dirname(path), set()).add(path)

    def _add_parents(self, path: str) -> None:
        while path != "/" and (path not in self.nodes or self.nodes[path].kind != "directory"):
            self._put(path, Node("directory"))
            path = dirname(path)

    def _hide(self, path: str) -> None:
        if path not in self._fresh:
            self._take(path)
            self._clear(path)

    def _clear(self, path: str) -> None:
        """Removes what lower layers have below a path."""
        todo = [path]
        while todo:
            above = todo.pop()
            if above in self._cleared or above not in self._below:
                continue
            self._cleared.add(above)
            for inner in list(self._below.get(above, ())):
                if inner not in self._fresh:
                    self._take(inner)
                todo.append(inner)

    def _take(self, path: str) -> None:
        if self.nodes.pop(path, None) is not None:
            self._below[dirname(path)].discard(path)

    def _place(self, parts: Sequence[str]) -> str:
        """Where the directory of these names really is."""
        found, steps = _walk(self.nodes, "/" + "/".join(parts))
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise InputError("base-unsuitable", f"The image {self._image.id} has too many links and levels to read.")
        if found is not None:
            require_depth(found.count("/"), self._image.id)
        return found or "/"

    def _spend(self, count: int) -> None:
        self._bytes += count
        if self._bytes > MEMORY_LIMIT:
            raise InputError(
                "base-unsuitable",
                f"Reading the files of the image {self._image.id} takes more than {MEMORY_LIMIT >> 20} MiB of memory.",
                "Use an image with fewer files, or smaller ones.",
            )


def follow(nodes: Mapping[str, Node], path: str) -> str | None:
    """A path with all its links followed, whether or not something stands there; None for a circle of links."""
    return _walk(nodes, path)[0]


def _walk(nodes: Mapping[str, Node], path: str) -> tuple[str | None, int]:
    """As `follow`, and how many names were looked up."""
    done = ""
    todo = list(reversed(path.split("/")))
    links = steps = 0
    while todo:
        name = todo.pop()
        steps += 1 + (len(done) >> 8)
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
            return None, steps
        if node.target.startswith("/"):
            done = ""
        todo.extend(reversed(node.target.split("/")))
    return done or "/", steps
