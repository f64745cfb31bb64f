"""The training configuration: one definition for the command line, YAML files, Python and the documentation.

Names and meaning are those of `mace_run_train` where it has the option. Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlip.errors import InputError

#: Options that say where and how to run, not what to train.
_LOCAL = frozenset(
    {"work_dir", "restart_latest", "plot", "error_table", "tensorboard"}
    | {"wandb", "wandb_project", "wandb_entity", "wandb_name"}
)


@dataclass(frozen=True)
class TrainingConfig:
    """Train a potential on structures labelled with energies, forces and stresses.

    Writes into the work folder: NAME.safetensors (the potential: EMA weights of the best validation), NAME_report.html,
    the log NAME_log.jsonl and NAME_log.csv, NAME_checkpoint.pt (for --restart_latest), NAME_learning_curve.png and
    NAME_parity.png.

    Args:
        train_file: structures to train on, extended xyz or any other format that ASE reads
        valid_file: structures to validate on; without it a random part of the training file is used
        test_file: structures for the final table of errors only
        valid_fraction: part of the training file that validates when there is no valid_file
        name: name of the potential and of all files written
        work_dir: folder for everything that is written
        seed: of the initial weights, the validation split and the order of the structures
        energy_key: name of the energies (eV) in the files; default REF_energy, else energy
        forces_key: name of the forces (eV/Å) in the files; default REF_forces, else forces
        stress_key: name of the stresses (eV/Å³, positive under tension) in the files; default REF_stress, else stress
        E0s: energies of single atoms, "isolated" (isolated atoms of the training file), "average" (least squares over
            the training energies) or a mapping such as "{14: -0.8}"
        model: MACE (shift 0, non-residual first layer) or ScaleShiftMACE (shift = mean interaction energy per atom,
            residual first layer)
        r_max: cutoff radius in Å
        num_radial_basis: number of Bessel functions
        num_cutoff_basis: exponent p of the polynomial cutoff
        hidden_irreps: features of an atom, such as "32x0e + 32x1o"; default num_channels and max_L
        num_channels: channels of each irrep when hidden_irreps is not given
        max_L: highest l of the features when hidden_irreps is not given
        max_ell: highest l of the spherical harmonics
        correlation: order of the many-body expansion, 3 for four-body terms
        num_interactions: number of layers
        MLP_irreps: hidden features of the last readout
        radial_MLP: widths of the hidden layers of the radial network, such as "[64, 64, 64]"
        avg_num_neighbors: normalization of the messages; default the mean over the training set
        scaling: scale (and shift) of the network's energies, rms_forces_scaling (RMS of the forces), std_scaling
            (standard deviation of the interaction energy per atom) or no_scaling (1 and 0)
        loss: weighted (mean squared errors) or huber
        huber_delta: error at which the Huber loss turns linear, in units of eV/atom, eV/Å, eV/Å³
        energy_weight: weight of the energies per atom in the loss
        forces_weight: weight of the forces in the loss
        stress_weight: weight of the stresses in the loss
        batch_size: structures in a training step
        valid_batch_size: structures at once in validation
        max_num_epochs: passes over the training set
        max_time: wall-clock minutes after which training ends and the potential is written, restarts included
        patience: validations without improvement after which training ends
        eval_interval: epochs between validations
        lr: learning rate
        weight_decay: L2 penalty of the linear maps inside the layers
        amsgrad: use the AMSGrad variant of Adam (--no_amsgrad: do not)
        ema: average the weights exponentially; validation and the result use the average (--no_ema: do not)
        ema_decay: decay of that average per step
        scheduler: plateau (reduce when the validation stalls), cosine or linear (to zero at max_num_epochs, or at
            max_time if that comes first), constant
        lr_factor: factor of each reduction by the plateau scheduler
        scheduler_patience: validations without improvement before a reduction
        warmup_steps: steps over which the learning rate rises from zero
        clip_grad: largest norm of the gradient, 0 for none
        device: where to train
        default_dtype: precision of weights, forces and stresses; energies and losses are summed in float64 always
        restart_latest: continue from the latest checkpoint of this name in work_dir, if there is one
        overwrite: replace an earlier run of this name in work_dir, which is refused otherwise
        plot: draw the learning curve and the parity plots, in files and in the report (--no_plot: do not)
        error_table: the table of errors at the end, PerAtomRMSE, TotalRMSE, PerAtomMAE, TotalMAE,
            PerAtomRMSEstressvirials or PerAtomMAEstressvirials; default PerAtomRMSE, with stresses where there are any
        tensorboard: write logs for TensorBoard into NAME_tensorboard
        wandb: log to Weights & Biases
        wandb_project: project there
        wandb_entity: user or team there
        wandb_name: name of the run there; default the name of the potential
    """

    train_file: str = ""
    valid_file: str | None = None
    test_file: str | None = None
    valid_fraction: float = 0.1
    name: str = "mlip"
    work_dir: str = "."
    seed: int = 123
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    E0s: str | dict[str, float] | dict[int, float] = "isolated"
    model: Literal["MACE", "ScaleShiftMACE"] = "MACE"
    r_max: float = 5.0
    num_radial_basis: int = 8
    num_cutoff_basis: int = 5
    hidden_irreps: str | None = None
    num_channels: int = 128
    max_L: int = 1
    max_ell: int = 3
    correlation: int = 3
    num_interactions: int = 2
    MLP_irreps: str = "16x0e"
    radial_MLP: str | list[int] = "[64, 64, 64]"
    avg_num_neighbors: float | None = None
    scaling: Literal["rms_forces_scaling", "std_scaling", "no_scaling"] = "rms_forces_scaling"
    loss: Literal["weighted", "huber"] = "weighted"
    huber_delta: float = 0.01
    energy_weight: float = 1.0
    forces_weight: float = 100.0
    stress_weight: float = 1.0
    batch_size: int = 10
    valid_batch_size: int = 10
    max_num_epochs: int = 2048
    max_time: float | None = None
    patience: int = 2048
    eval_interval: int = 1
    lr: float = 0.01
    weight_decay: float = 5e-7
    amsgrad: bool = True
    ema: bool = True
    ema_decay: float = 0.99
    scheduler: Literal["plateau", "cosine", "linear", "constant"] = "plateau"
    lr_factor: float = 0.8
    scheduler_patience: int = 50
    warmup_steps: int = 0
    clip_grad: float = 10.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    default_dtype: Literal["float32", "float64"] = "float32"
    restart_latest: bool = False
    overwrite: bool = False
    plot: bool = True
    error_table: str | None = None
    tensorboard: bool = False
    wandb: bool = False
    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_name: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that can't be right; bring `radial_MLP` and `E0s` to one form, however they were spelled.

        Raises:
            InputError: naming the option, what was expected and what was got.
        """
        if not self.train_file:
            raise InputError("--train_file is missing; it names the structures to train on")
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise InputError(f"--name {self.name!r} can't be part of a file name; use letters, digits, _ . + -")
        positive = (
            "r_max num_radial_basis num_cutoff_basis num_channels correlation num_interactions batch_size "
            "valid_batch_size max_num_epochs max_time patience eval_interval lr lr_factor avg_num_neighbors huber_delta"
        )
        for option in positive.split():
            value = getattr(self, option)
            if value is not None and not value > 0:
                raise InputError(f"--{option} is {value}; expected more than zero")
        for option in "energy_weight forces_weight stress_weight weight_decay clip_grad max_L max_ell seed".split():
            if not getattr(self, option) >= 0:
                raise InputError(f"--{option} is {getattr(self, option)}; expected zero or more")
        if not self.energy_weight + self.forces_weight + self.stress_weight > 0:
            raise InputError("energy_weight, forces_weight and stress_weight are all zero: nothing to train on")
        if not 0 < self.ema_decay < 1:
            raise InputError(f"--ema_decay is {self.ema_decay}; expected between 0 and 1")
        self._check_reporting()
        object.__setattr__(self, "radial_MLP", list(self.radial_widths()))
        if not isinstance(self.E0s, str) or self.E0s.lstrip().startswith("{"):
            from mlip.data.reference_energies import parse_E0s

            object.__setattr__(self, "E0s", parse_E0s(self.E0s))

    def _check_reporting(self) -> None:
        if self.error_table is not None:
            from mlip.training.error_tables import check_error_table

            check_error_table(self.error_table)
        for option in ("wandb_project", "wandb_entity", "wandb_name"):
            if getattr(self, option) is not None and not self.wandb:
                raise InputError(f"--{option} is given without --wandb; add --wandb, or leave it out")

    def radial_widths(self) -> tuple[int, ...]:
        """Widths of the radial network's hidden layers, from [64, 64], "[64, 64]", "64 64" or "64,64"."""
        words = re.sub(r"[\[\](),]", " ", str(self.radial_MLP)).split()
        if not words or not all(word.isdigit() and int(word) > 0 for word in words):
            raise InputError(f"--radial_MLP {self.radial_MLP!r} is not a list of widths such as [64, 64, 64]")
        return tuple(map(int, words))

    def feature_irreps(self) -> str:
        """Irreps of the atom features, with the parity of spherical harmonics."""
        if self.hidden_irreps:
            return self.hidden_irreps
        return " + ".join(f"{self.num_channels}x{ell}{'eo'[ell % 2]}" for ell in range(self.max_L + 1))

    def file(self, suffix: str) -> Path:
        """Path of the output `NAME` + suffix in the work folder."""
        return Path(self.work_dir) / f"{self.name}{suffix}"

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def portable(self) -> dict[str, Any]:
        """The options that make the potential what it is; files by name, without their folder."""
        options = {name: value for name, value in self.as_dict().items() if name not in _LOCAL}
        return {name: Path(v).name if name.endswith("_file") and v else v for name, v in options.items()}

    def command(self) -> str:
        """The command line of this run, with the options that are not at their defaults."""
        words, defaults = ["mlip", "train"], TrainingConfig(train_file="-").as_dict()
        for name, value in self.portable().items():
            if value == defaults[name]:
                continue
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no_{name}")
            else:
                words += [f"--{name}", str(value)]
        return shlex.join(words)
