"""The published MACE models that `mlip` knows by name: where they are, what they cover, under which license.

A table of facts, nothing else; `mlip.downloads` fetches, `mlip.zoo` finds and loads. What no source states is None.

Sources, read in November 2026:

- URLs, mace's own names: `calculators/foundations_models.py` and `cli/run_train.py` of mace-torch 0.3.16; OFF24 in the
  file list of ACEsuit/mace-off.
- Licenses, elements, training data: the READMEs of ACEsuit/mace, ACEsuit/mace-foundations and ACEsuit/mace-off, the
  "Foundation models" page of mace's documentation.
- Elements by number: the file of `mace-mp-0a-small`, `mace_omat/omat-statistics.json`, the E0s of OFF23's scripts.
- Cutoffs: the training scripts in ACEsuit/mace-foundations (0a, 0b, 0b2, 0b3, OMAT). Those of OFF23 and MPA-0 are as
  others have read them from the files; the scripts of OFF23 are three copies of one.
- Parameters: 0a small counted in the file; 0a medium and MPA-0 from Matbench Discovery, 0b2 small and 0b3 as others
  counted them; 0a large and 0b2 medium and large counted in mace-torch built as their scripts say, which gives the
  stated number for each of the five above that has a script.
- Sizes: as others have recorded them. They are shown and not enforced.
- `sha256` only of files that we have held. `git_blob` is the name git itself gives a file in a repository (a SHA-1 over
  length and content); such files (OFF, ANI-CC) are taken from the commit in which we read that name, not from `main`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class License:
    """Terms of use; `notice` is what users must be told first, empty if the terms are permissive."""

    name: str
    url: str
    notice: str = ""


MIT = License("MIT", "https://github.com/ACEsuit/mace-foundations/blob/main/LICENSE")
MIT_OF_MACE = License("MIT", "https://github.com/ACEsuit/mace/blob/main/LICENSE.md")
ASL = License(
    "ASL",
    "https://github.com/gabor1/ASL",
    "the Academic Software License: academic, non-commercial use only; by using the model you accept its terms",
)


@dataclass(frozen=True)
class PublishedModel:
    """One published file of weights.

    Attributes:
        name: how `mlip` calls it.
        url: where it is published; always https. Its last part is the file's name.
        elements: atomic numbers, ascending.
        trained_on: data set and level of theory.
        citation: the paper to cite.
        alias: mace's own name, if it can mean no other model.
        cutoff: Å.
        parameters: number of trained weights.
        size: bytes.
        sha256: hexadecimal, of the file as we held it.
        git_blob: git's SHA-1 of the file where it is published in a git repository.
    """

    name: str
    url: str
    license: License
    elements: tuple[int, ...]
    trained_on: str
    citation: str
    alias: str | None = None
    cutoff: float | None = None
    parameters: int | None = None
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    @property
    def file_name(self) -> str:
        """Name of the published file."""
        return self.url.rpartition("/")[2]


_MP = "https://github.com/ACEsuit/mace-mp/releases/download"
_FOUNDATIONS = "https://github.com/ACEsuit/mace-foundations/releases/download"
_OFF = "https://raw.githubusercontent.com/ACEsuit/mace-off/91a78c5a9c300d1104700d9352c8bfe449227737"
_MACE = "https://raw.githubusercontent.com/ACEsuit/mace/667eee4e58d23a38ff5a75122109ec2025809649"

#: H to Bi and Ac to Pu.
_INORGANIC = (*range(1, 84), *range(89, 95))
#: H C N O F P S Cl Br I.
_ORGANIC = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)

_FOUNDATION_PAPER = "Batatia et al., A foundation model for atomistic materials chemistry, arXiv:2401.00096"
_OFF_PAPER = "Kovács et al., MACE-OFF23, arXiv:2312.15211"
_ANI_PAPER = "Kovács et al., Evaluation of the MACE force field architecture, doi:10.1063/5.0155322, arXiv:2305.14247"


_mp = partial(PublishedModel, license=MIT, elements=_INORGANIC, trained_on="MPtrj (PBE+U)", citation=_FOUNDATION_PAPER)
_academic_mp = partial(PublishedModel, license=ASL, elements=_INORGANIC, citation=_FOUNDATION_PAPER)
_off = partial(PublishedModel, license=ASL, elements=_ORGANIC, citation=_OFF_PAPER)

_MODELS = (
    _mp(
        "mace-mp-0a-small",
        f"{_MP}/mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model",
        cutoff=6.0,
        parameters=3_847_696,
        size=32_581_838,
        sha256="2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
    ),
    _mp(
        "mace-mp-0a-medium",
        f"{_MP}/mace_mp_0/2023-12-03-mace-128-L1_epoch-199.model",
        cutoff=6.0,
        parameters=4_688_656,
        size=44_422_970,
    ),
    _mp(
        "mace-mp-0a-large",  # the README's; what mace-torch itself calls "large" is the next one
        f"{_MP}/mace_mp_0/2024-01-07-mace-128-L2_epoch-199.model",
        cutoff=6.0,
        parameters=5_725_072,
        size=63_509_066,
    ),
    _mp("mace-mptrj-2022.9", f"{_MP}/mace_mp_0/MACE_MPtrj_2022.9.model", size=133_803_220),
    _mp(
        "mace-mp-0b-small",
        f"{_MP}/mace_mp_0b/mace_agnesi_small.model",
        alias="small-0b",
        cutoff=6.0,
        size=67_603_120,
    ),
    _mp(
        "mace-mp-0b-medium",
        f"{_MP}/mace_mp_0b/mace_agnesi_medium.model",
        alias="medium-0b",
        cutoff=6.0,
        size=79_447_096,
    ),
    _mp(
        "mace-mp-0b2-small",
        f"{_MP}/mace_mp_0b2/mace-small-density-agnesi-stress.model",
        alias="small-0b2",
        cutoff=5.0,
        parameters=8_221_984,
        size=67_622_684,
    ),
    _mp(
        "mace-mp-0b2-medium",
        f"{_MP}/mace_mp_0b2/mace-medium-density-agnesi-stress.model",
        alias="medium-0b2",
        cutoff=5.0,
        parameters=9_062_944,
        size=79_462_798,
    ),
    _mp(
        "mace-mp-0b2-large",
        f"{_MP}/mace_mp_0b2/mace-large-density-agnesi-stress.model",
        alias="large-0b2",
        cutoff=5.0,
        parameters=10_099_360,
        size=98_544_548,
    ),
    _mp(
        "mace-mp-0b3-medium",
        f"{_MP}/mace_mp_0b3/mace-mp-0b3-medium.model",
        alias="medium-0b3",
        cutoff=6.0,
        parameters=9_063_204,
        size=79_472_952,
    ),
    _mp(
        "mace-mpa-0-medium",
        f"{_MP}/mace_mpa_0/mace-mpa-0-medium.model",
        trained_on="MPtrj + sAlex (PBE+U)",
        alias="medium-mpa-0",
        cutoff=6.0,
        parameters=9_063_204,
        size=79_462_305,
    ),
    _academic_mp(
        "mace-omat-0-small",
        f"{_MP}/mace_omat_0/mace-omat-0-small.model",
        trained_on="OMat24 (PBE+U, VASP 54)",
        alias="small-omat-0",
        cutoff=6.0,
        size=67_630_500,
    ),
    _academic_mp(
        "mace-omat-0-medium",
        f"{_MP}/mace_omat_0/mace-omat-0-medium.model",
        trained_on="OMat24 (PBE+U, VASP 54)",
        alias="medium-omat-0",
        cutoff=6.0,
        size=79_463_999,
    ),
    _academic_mp(
        "mace-matpes-pbe-0-medium",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-pbe-omat-ft.model",
        trained_on="MatPES (PBE)",
        alias="mace-matpes-pbe-0",
        size=79_471_284,
    ),
    _academic_mp(
        "mace-matpes-r2scan-0-medium",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-r2scan-omat-ft.model",
        trained_on="MatPES (r2SCAN)",
        alias="mace-matpes-r2scan-0",
        size=79_470_738,
    ),
    _off(
        "mace-off23-small",
        f"{_OFF}/mace_off23/MACE-OFF23_small.model",
        alias="small_off",
        trained_on="SPICE v1 (wB97M-D3)",
        cutoff=4.5,
        size=7_347_350,
        git_blob="6c1daa4a7aebf6a9ba059214ded4645774f0a1a0",
    ),
    _off(
        "mace-off23-medium",
        f"{_OFF}/mace_off23/MACE-OFF23_medium.model",
        alias="medium_off",
        trained_on="SPICE v1 (wB97M-D3)",
        cutoff=5.0,
        size=18_350_596,
        git_blob="51573784691d0bd80bc3b6278411d006db8f848a",
    ),
    _off(
        "mace-off23-large",
        f"{_OFF}/mace_off23/MACE-OFF23_large.model",
        alias="large_off",
        trained_on="SPICE v1 (wB97M-D3)",
        cutoff=5.0,
        size=55_492_786,
        git_blob="02a50e3cfad8d263e0501f7fe522062fde9874bd",
    ),
    _off(
        "mace-off24-medium",
        f"{_OFF}/mace_off24/MACE-OFF24_medium.model",
        trained_on="SPICE",
        git_blob="413df802546a6effe05b77b589ccb1d8a34b7225",
    ),
    PublishedModel(
        "mace-ani-cc",
        f"{_MACE}/mace/calculators/foundations_models/ani500k_large_CC.model",
        license=MIT_OF_MACE,
        elements=(1, 6, 7, 8),
        trained_on="ANI (coupled cluster)",
        citation=_ANI_PAPER,
        alias="mace_anicc",
        git_blob="eee5bb699e0ad6d8dbf8ba6212fe2e0c572ab2e8",
    ),
)

#: What the bundled potentials were trained on, by name.
BUNDLED_DATA = {"silicon": "mlearn Si (PBE)"}

#: The table, by name.
PUBLISHED: dict[str, PublishedModel] = {model.name: model for model in _MODELS}


def find(name: str) -> PublishedModel | None:
    """The model of this name, or of this name in mace; case does not matter."""
    known = name.lower()
    return next((model for model in PUBLISHED.values() if known in (model.name, model.alias)), None)
