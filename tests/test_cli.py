"""The command line with a foreign calculator in place of a model; test_cli_models.py has models."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write
from stillinger_weber import LATTICE_CONSTANT, silicon, stillinger_weber

from mlip.cli import main
from mlip.cli.main import COMMANDS
from mlip.workflows.tour import strained_silicon


@pytest.fixture
def foreign(monkeypatch):
    """All commands compute with Stillinger-Weber silicon."""
    monkeypatch.setattr("mlip.cli.structures.make_calculator", lambda *args, **options: stillinger_weber())


@pytest.fixture
def strained(tmp_path) -> str:
    write(tmp_path / "strained.extxyz", strained_silicon())
    return str(tmp_path / "strained.extxyz")


@pytest.fixture
def relaxed(tmp_path) -> str:
    write(tmp_path / "relaxed.cif", silicon())
    return str(tmp_path / "relaxed.cif")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def run_json(capsys, *arguments: object) -> dict:
    """Run with --json; stdout must be one JSON object and nothing else."""
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def assert_one_line(capsys, pattern: str) -> None:
    """What a bad input gives: one line on stderr, nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    assert re.search(pattern, err), err


def test_relax(foreign, strained, tmp_path, capsys):
    result = run_json(capsys, "relax", strained, "--cell", "--fmax", 1e-3, "-o", tmp_path / "out.cif")
    assert {"energy", "forces_max", "stress", "cell", "volume", "steps", "converged"} <= set(result)
    assert result["converged"] and result["volume"] ** (1 / 3) == pytest.approx(LATTICE_CONSTANT, abs=1e-3)
    assert read(tmp_path / "out.cif").get_volume() == pytest.approx(result["volume"], rel=1e-4)


def test_relax_that_does_not_converge_fails(foreign, strained, capsys):
    assert run("relax", strained, "--cell", "--steps", 1) == 1
    assert "NOT converged" in capsys.readouterr().out


def test_phonon(foreign, relaxed, tmp_path, capsys):
    folder = tmp_path / "phonon"
    result = run_json(capsys, "phonon", relaxed, "--supercell", 2, 2, 2, "-o", folder)
    assert len(result["frequencies_gamma_THz"]) == 6 and result["imaginary"] == 0
    assert result["heat_capacity_300K"] == pytest.approx(37.28, abs=0.05)
    names = {"phonopy_params.yaml", "band.yaml", "total_dos.dat", "thermal_properties.yaml", "phonon.json"}
    assert {path.name for path in folder.iterdir()} == names | {"phonon_bands.png", "phonon_dos.png"}
    assert json.loads((folder / "phonon.json").read_text()) == result


def test_phonon_of_an_unrelaxed_crystal_warns_in_one_line(foreign, strained, capsys):
    assert run("phonon", strained, "--supercell", 1, 1, 1, "--mesh_length", 10, "--json") == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert re.fullmatch(r"mlip phonon: warning: the structure is not relaxed .*\n", err)


def test_elastic(foreign, relaxed, capsys):
    result = run_json(capsys, "elastic", relaxed)
    assert result["C11"] == pytest.approx(151.4, abs=0.1) and np.shape(result["C"]) == (6, 6)
    assert run("elastic", relaxed) == 0
    assert "151.4" in capsys.readouterr().out


def test_md_and_resume(foreign, relaxed, tmp_path, capsys):
    common = ["md", relaxed, "--ensemble", "npt", "--temperature", 300, "-o", tmp_path / "run.traj"]
    result = run_json(capsys, *common, "--steps", 20, "--plot", tmp_path / "md.png")
    assert result["steps"] == 20 and result["frames"] == 3 and result["resumed_from"] is None
    assert (tmp_path / "md.png").exists()
    assert run(*common, "--steps", 40) == 1
    assert_one_line(capsys, r"run.traj exists: resume it \(--resume\)")
    assert run_json(capsys, *common, "--steps", 40, "--resume")["resumed_from"] == 20
    assert [frame.info["step"] for frame in read(tmp_path / "run.traj", ":")] == [0, 10, 20, 30, 40]


def test_md_from_rest_without_temperature_warns(foreign, relaxed, tmp_path, capsys):
    assert run("md", relaxed, "--ensemble", "nve", "--steps", 1, "-o", tmp_path / "run.traj") == 0
    assert "nve starts at rest" in capsys.readouterr().err


def test_demo(foreign, tmp_path, capsys):
    assert run("demo", "-o", tmp_path / "demo", "--steps", 10) == 0
    out = capsys.readouterr().out
    for text in ("lattice constant", "C44", "15.1", "40.06", "Zuo", "try next", "mlip phonon"):
        assert text in out
    assert sum(line.startswith("  mlip ") for line in out.splitlines()) == 3


def test_people_get_tables(foreign, strained, relaxed, tmp_path, capsys):
    assert run("relax", strained, "--cell") == 0
    assert run("phonon", relaxed, "--supercell", 1, 1, 1) == 0
    assert run("md", relaxed, "--steps", 10, "-o", tmp_path / "run.xyz") == 0
    out = capsys.readouterr().out
    for text in ("largest force", "heat capacity", "temperature"):
        assert text in out


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("command", ["relax", "md", "phonon", "vibrations", "elastic"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("this is\nnot a structure\n", "not a structure that ASE can read"),
        ("2\n\nSi 0 0 0\n", "not a structure that ASE can read"),
        ('1\nLattice="5 0 0 0 5 0 0 0 5"\nSi nan 0 0\n', "finite"),
        ('1\nLattice="5 0 0 5 0 0 0 0 5"\nSi 0 0 0\n', "dependent"),
        ("0\n\n", "no atoms"),
    ],
)
def test_files_that_are_no_structures(foreign, tmp_path, capsys, monkeypatch, command, content, message):
    monkeypatch.chdir(tmp_path)
    assert run(command, _write(tmp_path / "bad.xyz", content)) == 1
    assert_one_line(capsys, message)


def test_missing_files_and_folders(foreign, tmp_path, capsys):
    assert run("relax", tmp_path / "none.cif") == 1
    assert_one_line(capsys, "none.cif: No such file")
    assert run("relax", tmp_path) == 1
    assert_one_line(capsys, "is a folder")


def test_of_several_structures_the_last_is_used(foreign, tmp_path, capsys):
    write(tmp_path / "two.extxyz", [silicon(5.2), silicon(5.5)])
    assert run("relax", tmp_path / "two.extxyz", "--json", "--steps", 0) in (0, 1)
    out, err = capsys.readouterr()
    assert json.loads(out)["volume"] == pytest.approx(5.5**3)
    assert "the last one is used" in err
    assert run("relax", f"{tmp_path / 'two.extxyz'}@0", "--json", "--steps", 0) in (0, 1)
    assert json.loads(capsys.readouterr().out)["volume"] == pytest.approx(5.2**3)
    assert run("relax", f"{tmp_path / 'two.extxyz'}@2") == 1
    assert_one_line(capsys, "no structure of this index")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["relax", "MOLECULE", "--cell"], "periodic"),
        (["phonon", "MOLECULE"], "periodic"),
        (["elastic", "MOLECULE"], "periodic"),
        (["md", "MOLECULE", "--ensemble", "npt"], "periodic"),
        (["relax", "MOLECULE", "--pressure", "3"], "--cell"),
        (["md", "MOLECULE", "--timestep", "-1"], "timestep"),
        (["md", "MOLECULE", "-o", "md.dcd"], r"\.traj"),
        (["relax", "MOLECULE", "-o", "x.nosuchformat"], "nosuchformat"),
        (["relax", "MOLECULE", "-o", "no/such/folder/x.xyz"], "no folder .*no/such/folder"),
        (["relax", "MOLECULE", "-o", "nosuffix"], "nosuffix"),
        (["relax", "MOLECULE", "-o", "."], "directory"),
        (["md", "MOLECULE", "--plot", "md.plot"], r"\.png"),
        (["md", "MOLECULE", "--plot", "no/folder/md.png"], "no/folder"),
        (["phonon", "CRYSTAL", "-o", "co.xyz"], "co.xyz: File exists"),
        (["phonon", "CRYSTAL", "--symprec", "-1"], "symprec must be positive"),
        (["phonon", "CRYSTAL", "--supercell", "0", "1", "1"], "three positive integers"),
        (["phonon", "CRYSTAL", "--supercell", "99999", "99999", "99999"], "repeat the cell less"),
        (["phonon", "CRYSTAL", "--symprec", "3"], "symprec must be positive and at most 0.5"),
        (["phonon", "CRYSTAL", "--displacement", "5"], "displacement must be positive and at most 1"),
        (["phonon", "CRYSTAL", "--mesh_length", "1e9"], "mesh_length must be positive and at most 1000"),
        (["elastic", "CRYSTAL", "--symprec", "0"], "symprec must be positive"),
        (["demo", "--steps", "-1"], "steps must not be negative"),
    ],
)
def test_impossible_requests(monkeypatch, tmp_path, capsys, arguments, message):
    """Refused before anything is computed, so that no work is lost."""
    from ase.calculators.calculator import Calculator

    monkeypatch.setattr("mlip.cli.structures.make_calculator", lambda *args, **options: Calculator())
    monkeypatch.chdir(tmp_path)
    write("co.xyz", molecule("CO"))
    write("si.xyz", silicon())
    names = {"MOLECULE": "co.xyz", "CRYSTAL": "si.xyz"}
    assert run(*[names.get(word, word) for word in arguments]) == 1
    assert_one_line(capsys, message)


def test_full_disk(foreign, relaxed, tmp_path, capsys, monkeypatch):
    from mlip.workflows.md_files import TrajectoryFile

    frames = 0
    append = TrajectoryFile._write_traj

    def full(self, frame):
        nonlocal frames
        frames += 1
        if frames > 2:
            with self.path.open("ab") as file:
                file.write(b"half a frame")
            raise OSError(28, "No space left on device")
        append(self, frame)

    monkeypatch.setattr(TrajectoryFile, "_write_traj", full)
    assert run("md", relaxed, "--steps", 50, "-o", tmp_path / "run.traj") == 1
    assert_one_line(capsys, "run.traj: No space left on device; the frames up to step 10 are safe")
    assert len(read(tmp_path / "run.traj", ":")) == 2


def test_a_disk_that_fills_while_buffers_are_flushed_is_told_with_the_file(foreign, relaxed, tmp_path, capsys):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "out.extxyz").symlink_to(full)
    assert run("relax", relaxed, "-o", tmp_path / "out.extxyz") == 1
    assert_one_line(capsys, "out.extxyz: No space left on device")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], ""),
        (["relaks"], "did you mean relax?"),
        (["relax"], "structure"),
        (["relax", "x", "--fmxa", "1"], "no option --fmxa, did you mean --fmax?"),
        (["relax", "x", "--fmax", "one"], "--fmax: Expected a float. Got value: one"),
        (["relax", "x", "y"], "y"),
        (["phonon", "x", "--supercell", "2", "2"], "--supercell: expected 3 arguments"),
        (["md", "x", "--ensemble", "nph"], "nph"),
        (["md", "x", "--steps", "1.5"], "--steps"),
    ],
)
def test_usage_errors(capsys, arguments, message):
    assert main(arguments) == 2
    if message:
        assert_one_line(capsys, re.escape(message))


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in COMMANDS)
    assert main(["--version"]) == 0
    assert re.fullmatch(r"mlip \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_explains_every_option(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"mlip {name}" in out and "<class" not in out and "lambda" not in out


def test_help_imports_no_torch():
    code = (
        "import sys; from mlip.cli import main; codes = [main([n, '--help']) for n in "
        f"{['--help', *COMMANDS]!r} if n != '--help'] + [main(['--help'])]; "
        "assert not any(codes), codes; assert 'torch' not in sys.modules and 'ase' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=root,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


@pytest.fixture
def command(monkeypatch):
    """Install a function as the subcommand ``info`` and return what installs it."""

    def install(function, **attributes):
        module = types.ModuleType("mlip.cli.info")
        module.__dict__.update(command=function, **attributes)
        monkeypatch.setitem(sys.modules, "mlip.cli.info", module)

    return install


def test_parser_follows_the_signature(command):
    seen = {}

    def function(
        model: Path,
        extra: str | None = None,
        output: Path | None = None,
        kind: Literal["a", "b"] = "a",
        numbers: list[float] | None = None,
        wrap: bool = True,
        fast: bool = False,
    ) -> None:
        """Do it.

        Args:
            model: a file
        """
        seen.update(locals())

    command(function, ALIASES={"-o": "--output"}, POSITIONAL=("extra",))
    assert main("info m.xyz -o out --kind b --numbers 1 2.5 --no-wrap --fast".split()) == 0
    assert seen["model"] == Path("m.xyz") and seen["extra"] is None and seen["output"] == Path("out")
    assert seen["kind"] == "b" and seen["numbers"] == [1.0, 2.5] and seen["wrap"] is False and seen["fast"] is True
    assert main(["info", "m", "more"]) == 0
    assert seen["extra"] == "more" and seen["wrap"] is True and seen["fast"] is False and seen["numbers"] is None


def test_options_from_a_file(command, tmp_path, capsys):
    seen = {}

    def function(steps: int = 1, fmax: float = 2.0) -> None:
        seen.update(locals())

    command(function)
    config = _write(tmp_path / "options.yaml", "steps: 7\nfmax: 0.5\n")
    assert run("info", "--config", config, "--fmax", 0.25) == 0
    assert seen["steps"] == 7 and seen["fmax"] == 0.25
    assert run("info", "--config", _write(config, "steps: null\n")) == 2
    assert_one_line(capsys, "--steps: expected a value, got null")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device", "x.traj")])
def test_interrupts_and_system_errors(command, capsys, error):
    def function() -> None:
        raise error

    command(function)
    assert main(["info"]) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert "Traceback" not in capsys.readouterr().err


def test_traceback_on_demand_and_for_bugs(command):
    from mlip.errors import InputError

    def bad_input() -> None:
        raise InputError("bad")

    def bug() -> None:
        raise KeyError("bug")

    command(bad_input)
    assert main(["info"]) == 1
    with pytest.raises(InputError):
        main(["info", "--traceback"])
    command(bug)
    with pytest.raises(KeyError):
        main(["info"])


def test_warnings_are_one_line_on_stderr(command, capsys):
    def function() -> None:
        warnings.warn("look\n  here", stacklevel=1)
        warnings.warn("for developers", FutureWarning, stacklevel=1)

    command(function)
    assert main(["info"]) == 0
    assert capsys.readouterr().err == "mlip info: warning: look here\n"


@pytest.mark.parametrize(("end", "message"), [("| true", ""), ("> /dev/full", "stdout: No space left on device\n")])
def test_console_script_whose_stdout_fails(end, message):
    if "/dev/full" in end and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    root = Path(__file__).parents[1]
    process = subprocess.run(
        f"{sys.executable} -m mlip --help {end}", shell=True, cwd=root, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in process.stderr and process.stderr.endswith(message)
