"""The training configuration: one definition for the command line, YAML files, Python and the documentation.

Names and meaning are those of `mace_run_train` where it has the option. Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlip.training.fine_tuning_options import check_fine_tuning, rates
from mlip.training.model_options import Activation, CutoffName, Interaction, Model, model_defaults, widths
from mlip.training.option_checks import check_options, check_reporting
from mlip.training.property_options import check_target

#: Values that have another name in `mace_run_train`.
MACE_VALUES = {
    "scheduler": {"ReduceLROnPlateau": "plateau", "ExponentialLR": "exponential"},
    "loss": {"l1l2energyforces": "l1l2"},
}


@dataclass(frozen=True)
class TrainingConfig:
    """Train a potential on structures labelled with energies, forces and stresses, or a model of another property.

    Writes into the work folder: NAME.safetensors (the potential: EMA weights of the best validation), NAME_report.html,
    the log NAME_log.jsonl and NAME_log.csv, NAME_checkpoint.pt (for --restart_latest), NAME_learning_curve.png and
    NAME_parity.png.

    Args:
        train_file: structures to train on, extended xyz, npz, n2p2's input.data, files of VASP and folders of them, or
            any other format that ASE reads (docs/data.md); one or several files, or patterns such as "*.xyz"
        valid_file: structures to validate on; without it a random part of the training file is used
        test_file: structures for the final table of errors only
        stream: read the structures that train from HDF5 files while they train, a window at a time, instead of keeping
            them in memory; needs --valid_file; docs/training.md
        valid_fraction: part of the training file that validates when there is no valid_file
        name: name of the potential and of all files written
        work_dir: folder for everything that is written
        seed: of the initial weights, the validation split and the order of the structures
        valid_seed: of the validation split alone; default that of seed
        committee: train so many potentials, which differ in their seed from seed on, and put them into one file, NAME,
            with factors that calibrate their deviations on the validation set; docs/uncertainty.md
        energy_key: name of the energies (eV) in the files; default REF_energy, else energy
        forces_key: name of the forces (eV/Å) in the files; default REF_forces, else forces
        stress_key: name of the stresses (eV/Å³, positive under tension) in the files; default REF_stress, else stress
        virials_key: name of the virials (eV, mace's sign: -volume times the stress) in the files; default REF_virials,
            else virials; they become stresses
        target: name of a property of whole structures to learn instead of energies, such as mu, alpha or dipole, as the
            info of the structures has it
        readout: how the target comes from the atoms, their sum or mean, or the dipole of their charges and atomic
            dipoles (a vector) or its length (dipole_norm); default dipole for dipole, dipole_norm for mu, else sum
        target_unit: unit of the target in the files; default that of its name in the file (mu_D, gap_eV), else e·Å for
            dipole and D for mu
        length_unit: of files of n2p2 (input.data, input.nn), which do not name it: Bohr or Angstrom; default Bohr
        energy_unit: likewise Hartree or eV; default Hartree. Of an input.data both are given or none
        config_type_weights: factors of the weights of structures by their config_type, such as
            '{"Default": 1.0, "surface": 5.0}'; Default is the name of those without
        foundation_model: model to fine-tune instead of training from random weights, a MACE by name or file; it decides
            the options of the model, scale and shift included
        foundation_head: which head of a foundation model that has several
        foundation_model_elements: keep all elements of the foundation model; else those of the data
        multiheads_finetuning: learn a second head beside the foundation model's, pt_head, which goes on training on
            replay data
        pt_train_file: replay data, of what the foundation model was trained on
        num_samples_pt: most structures of it that are taken, drawn at random
        weight_pt_head: factor of the weights of replay structures
        real_pt_data_ratio_threshold: fewer new structures than this part of the replay data are repeated
        pseudolabel_replay: learn what the foundation model says of the replay structures, instead of their labels
        freeze: parts of the foundation model that are not trained, mace's numbers, 1 to 4 the embedding, 5 the
            interactions, too, 6 all but the readouts
        lora: train low-rank adapters of the linear maps; they are merged into the weights at the end
        lora_rank: their rank
        lora_alpha: their update is multiplied by lora_alpha / lora_rank
        forgetting_file: structures on which the errors of the foundation model before and of the result are compared,
            where they have no labels with what the foundation model said; default the replay data
        E0s: energies of single atoms, "isolated" (isolated atoms of the training file), "average" (least squares over
            the training energies), a mapping such as "{14: -0.8}", or a file: such a mapping in JSON, or isolated
            atoms in extended xyz; of a foundation model "foundation" (its own) or "estimated" (shifted by least
            squares over what its energies of the training file miss)
        model: MACE (shift 0, non-residual first layer), ScaleShiftMACE (shift = mean interaction energy per atom,
            residual first layer), HDNNP (networks of symmetry functions), DimeNet or DimeNet++ (messages along
            directed pairs); the last three have that shift, too
        r_max: cutoff radius in Å
        radial_type: functions of the distance, bessel, gaussian or chebyshev
        num_radial_basis: number of functions of the distance, default 8; with DimeNet and DimeNet++ 6
        num_cutoff_basis: exponent p of the polynomial cutoff
        distance_transform: of the distances these functions are taken at, None, Agnesi or Soft
        pair_repulsion: add the ZBL repulsion of the nuclei
        hidden_irreps: features of an atom, such as "32x0e + 32x1o", instead of num_channels and max_L
        num_channels: channels of each irrep, or of the messages of DimeNet and DimeNet++; default 128
        max_L: highest l of the features, default 1
        max_ell: highest l of the spherical harmonics; also --l_max
        correlation: order of the many-body expansion, 3 for four-body terms
        num_interactions: number of layers, default 2; with DimeNet and DimeNet++ 4
        interaction: kind of the layers after the first, by the names of mace's classes
        interaction_first: kind of the first layer; default RealAgnosticInteractionBlock with --model MACE,
            RealAgnosticResidualInteractionBlock with ScaleShiftMACE
        MLP_irreps: hidden features of the last readout
        gate: activation in the last readout, silu, tanh, abs or None
        radial_MLP: widths of the hidden layers of the radial network, default "[64, 64, 64]"
        avg_num_neighbors: normalization of the messages; default the mean over the training set
        num_spherical: degrees of the functions of the angle in DimeNet and DimeNet++, default 7
        envelope_exponent: of their cutoff, default 5; the p of the paper is one more
        num_before_skip: residual layers of an interaction before its skip connection, default 1
        num_after_skip: and after it, default 2
        num_output_layers: hidden layers of each output, default 3
        num_bilinear: channels of the bilinear layer of DimeNet, default 8
        int_emb_size: size of the messages summed over angles in DimeNet++, default 64
        basis_emb_size: size of its bases between two linear maps, default 8
        out_emb_channels: width of its outputs, default 256
        hidden_layers: widths of the hidden layers of HDNNP's networks, default "[32, 32]"
        activation: in these layers, one of n2p2's, default tanh
        cutoff_function: of the symmetry functions, one of n2p2's, default poly2 (two continuous derivatives, as
            tanh and tanhu; poly3, poly4 and exp have more, cos and poly1 have one)
        num_symmetry_functions: how many are chosen for each element, default 64
        symmetry_functions: file with those to take instead, an input.nn of n2p2 (of which nothing else is taken) or a
            list in JSON
        scaling: scale (and shift) of the network's energies, rms_forces_scaling (RMS of the forces), std_scaling
            (standard deviation of the interaction energy per atom) or no_scaling (1 and 0)
        loss: what is minimized, a sum of terms with the weights below. Mean squared errors of energies per atom and
            forces (weighted), of forces (forces_only), with stresses (stress), with virials per atom (virials);
            Huber's function of energies per atom, forces, stresses (huber), turning linear earlier for large forces
            (universal); energies per atom and lengths of the force errors, not squared (l1l2); root mean squared
            errors of energies per atom, forces, stresses (rmse)
        huber_delta: error at which the Huber loss turns linear, in units of eV/atom, eV/Å, eV/Å³
        energy_weight: weight of the energies per atom in the loss
        forces_weight: weight of the forces in the loss
        stress_weight: weight of the stresses in the loss
        virials_weight: weight of the virials per atom in the loss
        swa: train in two stages; in the second the loss has the weights swa_*_weight, the learning rate is swa_lr, and
            the weights at the end of each epoch are averaged equally beside the exponential average; also --stage_two
        start_swa: epochs before the second stage, default three quarters of the run; also --start_stage_two
        swa_lr: learning rate of the second stage; also --stage_two_lr
        swa_energy_weight: weight of the energies in the second stage; also --stage_two_energy_weight
        swa_forces_weight: weight of the forces in the second stage; also --stage_two_forces_weight
        swa_stress_weight: weight of the stresses in the second stage; also --stage_two_stress_weight
        swa_virials_weight: weight of the virials in the second stage; also --stage_two_virials_weight
        batch_size: structures in a training step, default 10; with batch_atoms or batch_edges the most there may be,
            by default any number
        batch_atoms: most atoms in a training step; batches are then about equally large, as many in every epoch
        batch_edges: most pairs of neighbors in a training step, likewise
        valid_batch_size: structures at once in validation
        max_num_epochs: passes over the training set
        max_time: wall-clock minutes after which training ends and the potential is written, restarts included
        patience: validations without improvement after which training ends
        eval_interval: epochs between validations
        lr: learning rate; default 0.01, of a foundation model 0.001, with lora 0.005, with multiheads_finetuning 0.0001
        optimizer: adam, adamw (weight decay apart from the gradient), schedulefree (averages instead of a schedule) or
            soap (Adam in the eigenbasis of the gradients' correlations, far fewer epochs; try --lr 0.02)
        weight_decay: decay of the linear maps inside the layers, an L2 penalty with adam; default 5e-07, of a
            foundation model none
        amsgrad: use the AMSGrad variant of adam or adamw (--no_amsgrad: do not); default yes, with schedulefree
            and soap no
        beta: decay of the mean gradient in adam and adamw
        beta1_schedulefree: how near the gradients are taken to the average, in schedulefree
        beta2_schedulefree: decay of the mean squared gradient in schedulefree
        beta1_soap: decay of the mean gradient in soap
        beta2_soap: decay of the mean squared gradient, and of the correlations, in soap
        precondition_frequency: steps between improvements of the eigenbases in soap
        ema: average the weights exponentially; validation and the result use the average (--no_ema: do not); default
            yes, with schedulefree no, which has an average of its own
        ema_decay: decay of that average per step
        scheduler: plateau (reduce when the validation stalls; mace's ReduceLROnPlateau), exponential (by
            lr_scheduler_gamma each epoch; mace's ExponentialLR), cosine or linear (to zero at max_num_epochs, or at
            max_time if that comes first), constant; default plateau, with schedulefree constant
        lr_factor: factor of each reduction by the plateau scheduler
        scheduler_patience: validations without improvement before a reduction
        lr_scheduler_gamma: factor of the exponential scheduler after each epoch
        warmup_steps: steps over which the learning rate rises from zero
        clip_grad: largest norm of the gradient, 0 for none
        device: where to train
        default_dtype: precision of weights, forces and stresses; energies and losses are summed in float64 always
        deterministic: take operations of torch that give the same bits in every run, where a GPU has others; a CPU
            always has the same
        processes: processes of this machine that train together, each with its share of every batch and, with cuda, a
            GPU of its own; torchrun and SLURM's srun start them, too, on several machines
        num_workers: processes that put batches together beside the one that trains
        restart_latest: continue from the latest checkpoint of this name in work_dir, if there is one
        overwrite: replace an earlier run of this name in work_dir, which is refused otherwise
        keep_checkpoints: keep the checkpoint of every validation that was the best so far, as NAME_epoch-N.pt
        save_all_checkpoints: keep the checkpoint of every epoch, as NAME_epoch-N.pt
        dry_run: read the data, build the potential, take a few steps, say what a run would need; write nothing
        plot: draw the learning curve and the parity plots, in files and in the report (--no_plot: do not)
        error_table: the table of errors at the end, PerAtomRMSE, TotalRMSE, PerAtomMAE, TotalMAE,
            PerAtomRMSEstressvirials or PerAtomMAEstressvirials; default PerAtomRMSE, with stresses where there are any
        tensorboard: write logs for TensorBoard into NAME_tensorboard
        wandb: log to Weights & Biases
        wandb_project: project there
        wandb_entity: user or team there
        wandb_name: name of the run there; default the name of the potential
    """

    train_file: str | list[str] = ""
    valid_file: str | list[str] | None = None
    test_file: str | list[str] | None = None
    stream: bool = False
    valid_fraction: float = 0.1
    name: str = "mlip"
    work_dir: str = "."
    seed: int = 123
    valid_seed: int | None = None
    committee: int | None = None
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    virials_key: str | None = None
    target: str | None = None
    readout: Literal["sum", "mean", "dipole", "dipole_norm"] | None = None
    target_unit: str | None = None
    length_unit: str | None = None
    energy_unit: str | None = None
    config_type_weights: str | dict[str, float] = '{"Default": 1.0}'
    foundation_model: str | None = None
    foundation_head: str | None = None
    foundation_model_elements: bool = False
    multiheads_finetuning: bool = False
    pt_train_file: str | None = None
    num_samples_pt: int = 10000
    weight_pt_head: float = 1.0
    real_pt_data_ratio_threshold: float = 0.1
    pseudolabel_replay: bool = False
    freeze: int | None = None
    lora: bool = False
    lora_rank: int = 4
    lora_alpha: float = 1.0
    forgetting_file: str | None = None
    E0s: str | dict[str, float] | dict[int, float] = "isolated"
    model: Model = "MACE"
    r_max: float = 5.0
    radial_type: Literal["bessel", "gaussian", "chebyshev"] = "bessel"
    num_radial_basis: int | None = None
    num_cutoff_basis: int = 5
    distance_transform: Literal["None", "Agnesi", "Soft"] = "None"
    pair_repulsion: bool = False
    hidden_irreps: str | None = None
    num_channels: int | None = None
    max_L: int | None = None
    max_ell: int = 3
    correlation: int = 3
    num_interactions: int | None = None
    interaction: Interaction = "RealAgnosticResidualInteractionBlock"
    interaction_first: Interaction | None = None
    MLP_irreps: str = "16x0e"
    gate: Literal["silu", "tanh", "abs", "None"] = "silu"
    radial_MLP: str | list[int] | None = None
    avg_num_neighbors: float | None = None
    num_spherical: int | None = None
    envelope_exponent: int | None = None
    num_before_skip: int | None = None
    num_after_skip: int | None = None
    num_output_layers: int | None = None
    num_bilinear: int | None = None
    int_emb_size: int | None = None
    basis_emb_size: int | None = None
    out_emb_channels: int | None = None
    hidden_layers: str | list[int] | None = None
    activation: Activation | None = None
    cutoff_function: CutoffName | None = None
    num_symmetry_functions: int | None = None
    symmetry_functions: str | None = None
    scaling: Literal["rms_forces_scaling", "std_scaling", "no_scaling"] = "rms_forces_scaling"
    loss: Literal[
        "weighted", "forces_only", "virials", "stress", "huber", "universal", "l1l2", "rmse", "l1l2energyforces"
    ] = "weighted"
    huber_delta: float = 0.01
    energy_weight: float = 1.0
    forces_weight: float = 100.0
    stress_weight: float = 1.0
    virials_weight: float = 1.0
    swa: bool = False
    start_swa: int | None = None
    swa_lr: float = 1e-3
    swa_energy_weight: float = 1000.0
    swa_forces_weight: float = 100.0
    swa_stress_weight: float = 10.0
    swa_virials_weight: float = 10.0
    batch_size: int | None = None
    batch_atoms: int | None = None
    batch_edges: int | None = None
    valid_batch_size: int = 10
    max_num_epochs: int = 2048
    max_time: float | None = None
    patience: int = 2048
    eval_interval: int = 1
    lr: float | None = None
    optimizer: Literal["adam", "adamw", "schedulefree", "soap"] = "adam"
    weight_decay: float | None = None
    amsgrad: bool | None = None
    beta: float = 0.9
    beta1_schedulefree: float = 0.9
    beta2_schedulefree: float = 0.98
    beta1_soap: float = 0.95
    beta2_soap: float = 0.99
    precondition_frequency: int = 10
    ema: bool | None = None
    ema_decay: float = 0.99
    scheduler: (
        Literal["plateau", "exponential", "cosine", "linear", "constant", "ReduceLROnPlateau", "ExponentialLR"] | None
    ) = None
    lr_factor: float = 0.8
    scheduler_patience: int = 50
    lr_scheduler_gamma: float = 0.9993
    warmup_steps: int = 0
    clip_grad: float = 10.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    default_dtype: Literal["float32", "float64"] = "float32"
    deterministic: bool = False
    processes: int | None = None
    num_workers: int = 0
    restart_latest: bool = False
    overwrite: bool = False
    keep_checkpoints: bool = False
    save_all_checkpoints: bool = False
    dry_run: bool = False
    plot: bool = True
    error_table: str | None = None
    tensorboard: bool = False
    wandb: bool = False
    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_name: str | None = None

    def __post_init__(self) -> None:
        """Bring options to one form, however they were spelled; refuse what can't be right or would do nothing.

        Raises:
            InputError: naming the option, what was expected and what was got.
        """
        from mlip.data.weights import parse_config_type_weights

        for name in ("train_file", "valid_file", "test_file"):
            if isinstance(value := getattr(self, name), list | tuple):
                object.__setattr__(self, name, str(value[0]) if len(value) == 1 else list(map(str, value)))
        object.__setattr__(self, "config_type_weights", parse_config_type_weights(self.config_type_weights))
        if self.batch_size is None and self.batch_atoms is None and self.batch_edges is None:
            object.__setattr__(self, "batch_size", 10)
        free = self.optimizer == "schedulefree"
        amsgrad = self.optimizer in ("adam", "adamw")
        for name, value in (("amsgrad", amsgrad), ("ema", not free), ("scheduler", "constant" if free else "plateau")):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, renamed in MACE_VALUES.items():
            object.__setattr__(self, name, renamed.get(getattr(self, name), getattr(self, name)))
        for name, value in (model_defaults(self) | rates(self)).items():
            object.__setattr__(self, name, value)
        for name in ("radial_MLP", "hidden_layers"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, list(widths(name, value)))
        if not isinstance(self.E0s, str) or self.E0s.lstrip().startswith("{"):
            from mlip.data.reference_energies import parse_E0s

            object.__setattr__(self, "E0s", parse_E0s(self.E0s))
        check_options(self)
        check_target(self)
        check_fine_tuning(self)
        check_reporting(self)

    @property
    def split_seed(self) -> int:
        """Seed of the validation split."""
        return self.seed if self.valid_seed is None else self.valid_seed

    def first_interaction(self) -> str:
        """Kind of the first layer, by default the one that the model is known for."""
        plain = "RealAgnosticInteractionBlock" if self.model == "MACE" else "RealAgnosticResidualInteractionBlock"
        return self.interaction_first or plain

    def feature_irreps(self) -> str:
        """Irreps of the atom features, with the parity of spherical harmonics."""
        if self.hidden_irreps:
            return self.hidden_irreps
        channels, highest = self.num_channels or 128, 1 if self.max_L is None else self.max_L
        return " + ".join(f"{channels}x{ell}{'eo'[ell % 2]}" for ell in range(highest + 1))

    def file(self, suffix: str) -> Path:
        """Path of the output `NAME` + suffix in the work folder."""
        return Path(self.work_dir) / f"{self.name}{suffix}"

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def portable(self) -> dict[str, Any]:
        """The options that make the potential what it is; files by name, without their folder."""
        from mlip.training.run_command import portable

        return portable(self)

    def command(self, portable: bool = True) -> str:
        """The command line of this run, with the options that are not at their defaults; paths unless `portable`."""
        from mlip.training.run_command import command

        return command(self, portable)
