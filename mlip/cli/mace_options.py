"""Options of `mace_run_train` (mace-torch 0.3.16): other names of ours, and why some are not here."""

from __future__ import annotations

#: mace's other names for options.
ALIASES = {
    "--l_max": "--max_ell",
    "--stage_two": "--swa",
    "--start_stage_two": "--start_swa",
    "--stage_two_lr": "--swa_lr",
    **{f"--stage_two_{term}_weight": f"--swa_{term}_weight" for term in ("energy", "forces", "stress", "virials")},
}
#: Values that mace writes in another way.
VALUES = {("--clip_grad", "None"): "0"}

_REASONS = {
    "all files are written into --work_dir": "log_dir model_dir checkpoints_dir results_dir downloads_dir wandb_dir",
    "torchrun, srun and --processes start several processes, and a run knows it": "distributed launcher",
    "errors and warnings are always shown": "log_level",
    "plots are drawn at the end, over the whole run": "plot_frequency",
    "plots are of total energies per atom": "plot_interaction_e",
    "energies, and the forces or stresses that --loss has a term for, are always computed": (
        "compute_forces compute_stress"
    ),
    "the mean over the training set is the default; a number is given with --avg_num_neighbors": (
        "compute_avg_num_neighbors"
    ),
    "dipole moments are learned with --target dipole, by a model of their own": "compute_atomic_dipole dipole_key",
    "potentials give energies, forces and stresses only": (
        "compute_polarizability polarizability_key charges_key dipole_weight "
        "polarizability_weight swa_dipole_weight stage_two_dipole_weight swa_polarizability_weight "
        "stage_two_polarizability_weight elec_temp_key total_spin_key total_charge_key embedding_specs "
        "use_embedding_readout les_arguments"
    ),
    "it belongs to PolarMACE, which mlip does not have": (
        "kspace_cutoff_factor atomic_multipoles_max_l atomic_multipoles_smearing_width field_feature_max_l "
        "field_feature_widths field_feature_norms num_recursion_steps field_si include_electrostatic_self_interaction "
        "add_local_electron_energy quadrupole_feature_corrections return_electrostatic_potentials field_norm_factor "
        "fixedpoint_update_config field_readout_config"
    ),
    "a run has one head, or with --multiheads_finetuning two: that of --train_file and pt_head": "heads head_key",
    "a foundation model is taken as it is, with its readouts; --foundation_head chooses one of several": (
        "foundation_model_kwargs foundation_model_readout foundation_filter_elements"
    ),
    "the learning rate is --lr, with replay data 0.0001 by default": "force_mh_ft_lr",
    "replay structures are drawn at random from all of --pt_train_file; choose them there": (
        "subselect_pt filter_type_pt disallow_random_padding_pt"
    ),
    "the best epoch is that of the new head; --forgetting_file judges the other one": (
        "pt_valid_file skip_evaluate_heads"
    ),
    "with --pseudolabel_replay every periodic structure has a stress": "pseudolabel_replay_compute_stress",
    "isolated atoms define E0s and never train": "keep_isolated_atoms",
    "elements, scale and shift are taken from the training file": "atomic_numbers mean std statistics_file",
    "test structures are one file, --test_file": "test_dir multi_processed_test",
    "batches are moved to the device as they are needed": "pin_memory",
    "all layers learn at the rate --lr": "lr_params_factors",
    "the optimizers are adam, adamw, schedulefree and soap": "lbfgs",
    "weight files load on any device": "save_cpu",
    "the operators are mlip's own": "enable_cueq only_cueq enable_oeq use_reduced_cg",
    "training takes mace's defaults here": (
        "apply_cutoff use_last_readout_only use_so3 use_agnostic_product edge_irreps use_edge_irreps_first"
    ),
    "all options are logged": "wandb_log_hypers",
}
#: Option -> why there is none.
FOREIGN = {f"--{name}": reason for reason, names in _REASONS.items() for name in names.split()}
