"""`mpack packagers [NAME]`: the installed packagers; one packager's arguments and targets."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command("packagers")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one packager's with its arguments' JSON Schema.")
def command(name: str | None, as_json: bool) -> None:
    """List the packagers, or show the arguments and targets of NAME."""
    from mpack.plugins import load_packager, load_packagers

    if name is None:
        packagers, problems = load_packagers()
        for problem in problems:
            click.echo(f"warning: {problem.message}", err=True)
        if as_json:
            click.echo(json.dumps([{"name": key, "summary": item.summary} for key, item in packagers.items()]))
            return
        width = max((len(key) for key in packagers), default=0)
        for key, item in packagers.items():
            click.echo(f"{key:<{width}}  {item.summary}")
        return
    packager = load_packager(name)
    schema = packager.arguments.model_json_schema()
    if as_json:
        value = {"name": name, "summary": packager.summary, "targets": packager.targets, "arguments": schema}
        click.echo(json.dumps(value))
        return
    click.echo(f"{name}: {packager.summary}\n\ntargets: {', '.join(packager.targets)}\n\narguments:")
    for line in argument_table(schema):
        click.echo("  " + line)
    click.echo("\nJSON Schema of the arguments:\n" + json.dumps(schema, indent=2))


def argument_table(schema: dict[str, Any]) -> list[str]:
    """One aligned line an argument: name, type, default, description."""
    rows = [("name", "type", "default", "")]
    for key, item in schema["properties"].items():
        options = [option for option in item.get("anyOf", [item]) if option.get("type") != "null"]
        kinds = [option.get("const") or option["type"] for option in options]
        default = "" if item.get("default") is None else json.dumps(item["default"]).strip('"')
        rows.append((key, "|".join(kinds), default, item.get("description", "")))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]).rstrip() for row in rows]
