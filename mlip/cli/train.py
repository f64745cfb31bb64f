"""`mlip train`: options are the fields of `TrainingConfig`."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

from mlip.cli.mace_options import ALIASES as ALIASES
from mlip.cli.mace_options import FOREIGN as FOREIGN
from mlip.cli.mace_options import VALUES as VALUES
from mlip.training.config import TrainingConfig


def command(**options: Any) -> int:
    """Replaced below by the configuration's own description."""
    as_json = options.pop("json")
    config = TrainingConfig(**options)

    from mlip.cli.output import console, print_json
    from mlip.errors import MissingDependencyError

    try:
        from mlip.training.dry_run import rehearse
        from mlip.training.train import train
    except ModuleNotFoundError as error:
        if error.name != "lightning":
            raise
        raise MissingDependencyError("training needs lightning: pip install 'mlip-torch[train]'") from error
    from mlip.training.launch import end_with_launcher, launch, only_the_first_speaks
    from mlip.training.processes import launched

    me = launched(config.processes)
    if me is None and (config.processes or 1) > 1:
        return launch(config, *(["--json"] if as_json else []))
    end_with_launcher()
    with only_the_first_speaks(me):
        if config.committee is not None:
            from mlip.training.committee import train_committee

            result: Any = train_committee(config, console(as_json))
        else:
            result = (rehearse if config.dry_run else train)(config, console(as_json))
        if as_json and (me is None or not me.rank):
            print_json(result.as_dict())
    return 0


def _take_signature() -> None:
    """Give `command` the parameters, types and help of the configuration, from which the parser is made."""
    hints = typing.get_type_hints(TrainingConfig)
    parameters = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in dataclasses.fields(TrainingConfig)
    ]
    parameters.append(inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = f"{inspect.getdoc(TrainingConfig)}\n    json: print the result as JSON on stdout\n"


_take_signature()
