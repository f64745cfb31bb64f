"""``mlip convert``: another program's model file to ours."""

from __future__ import annotations

from pathlib import Path

from mlip.cli.output import check_output, console, print_json, table
from mlip.errors import InputError

POSITIONAL = ("model",)
ALIASES = {"-o": "--output"}
SUFFIX = ".safetensors"


def command(
    model: str,
    output: Path | None = None,
    head: str | None = None,
    dtype: str | None = None,
    json: bool = False,
) -> None:
    """Write a model, such as a .model file of mace-torch, as a weights file of mlip.

    Nothing in the file is executed. The numbers stay as they are, and so do all heads of a model of several.

    Args:
        model: a .model file of mace-torch, a weights file, or the name of a model (mlip models lists them)
        output: the file to write; default: the same name in this folder, ending in .safetensors, if it is not there
        head: the head that is used unless another is chosen, for a model of several
        dtype: float32 or float64; default: that of the file
        json: print everything as JSON on stdout
    """
    from mlip.zoo import load, model_path

    source = model_path(model)
    if output is None:
        output = Path(source.with_suffix(SUFFIX).name)
        if output.exists():
            raise InputError(f"{output} is already there; name the file to write with -o")
    if output.suffix != SUFFIX:
        raise InputError(f"a weights file of mlip ends in {SUFFIX}; got {output.name!r}")
    check_output(output)
    if output.exists() and output.samefile(source):
        raise InputError(f"{output} is the model itself; choose another name with -o")
    potential = load(source, dtype=dtype, head=head)
    potential.save(output)
    facts = {
        "model": str(source),
        "output": str(output),
        "architecture": type(potential.model).__name__,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "heads": list(potential.heads),
        "head": potential.head,
        "elements": len(potential.elements),
        "parameters": sum(p.numel() for p in potential.parameters()),
        "size_bytes": output.stat().st_size,
        "source": potential.metadata.get("source"),
    }
    if json:
        print_json(facts)
        return
    shown = {name: value for name, value in facts.items() if name not in ("model", "source")}
    rows = [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in shown.items()]
    console().print(table(source.name, ("", "converted"), rows))
