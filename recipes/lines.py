"""Reads a YAML file and remembers on which line each part of it stands. It knows nothing of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from contract.errors import UserError

Location = tuple[str | int, ...]


class Lines(dict[Location, int]):
    """Line of each key and list item, counted from 1."""

    def nearest(self, loc: Location) -> int:
        """The line of `loc`, or of the innermost part of the file that would hold it."""
        return next((self[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in self), 1)


def read(path: Path, where: str) -> tuple[Any, Lines]:
    """The file's data as yaml.safe_load gives it, and where each part stands. Refuses repeated keys and aliases."""
    lines = Lines()
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UserError("a recipe is a list of `key: value` lines", f"{where}:1", "start from a file in recipes/")
        _note_lines(node, (), lines, set(), where)
        return loader.construct_document(node), lines
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8 text", where, "save the file as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"not YAML ({error.problem})", f"{where}:{line}", "mend that line") from error
    except yaml.YAMLError as error:
        raise UserError(f"not YAML ({error})".replace("\n", " "), where, "mend the file") from error


def _note_lines(node: yaml.Node, loc: Location, lines: Lines, seen: set[int], where: str) -> None:
    here = f"{where}:{node.start_mark.line + 1}"
    if id(node) in seen:
        raise UserError("anchors and aliases are not taken", here, "write the value out")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*loc, index)] = item.start_mark.line + 1
            _note_lines(item, (*loc, index), lines, seen, where)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise UserError("this key is not a word", f"{where}:{line}", "quote it, or mend it")
            if (*loc, key.value) in lines:
                raise UserError(
                    f'key "{key.value}" stands here again, after line {lines[(*loc, key.value)]}',
                    f"{where}:{line}",
                    "remove one of the two",
                )
            lines[(*loc, key.value)] = line
            _note_lines(value, (*loc, key.value), lines, seen, where)
