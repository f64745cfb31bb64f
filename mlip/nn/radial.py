"""From distances to the weights of messages: radial basis functions, distance transforms, perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from mlip import ops
from mlip.errors import InputError
from mlip.nn.activation import SILU_GAIN, silu
from mlip.nn.constants import KeepsPrecision, double
from mlip.nn.cutoff import PolynomialCutoff


class BesselBasis(KeepsPrecision):
    """b_n(r) = sqrt(2/r_c) sin(nπ r/r_c) / r for n = 1..N (Gasteiger et al., ICLR 2020, eq. 7)."""

    def __init__(self, cutoff: float, num_basis: int = 8) -> None:
        super().__init__()
        self.prefactor: Tensor
        self.frequencies: Tensor
        self.register_buffer("prefactor", double(math.sqrt(2 / cutoff)))
        self.register_buffer("frequencies", math.pi / cutoff * double(range(1, num_basis + 1)))

    def forward(self, length: Tensor) -> Tensor:
        """Values (E, N) for distances `length` (E,) in Å."""
        r = length.unsqueeze(1)
        return self.prefactor.to(r.dtype) * torch.sin(self.frequencies.to(r.dtype) * r) / r


class GaussianBasis(KeepsPrecision):
    """b_n(r) = exp(-(r - r_n)² / 2 w²) with centers r_n from 0 to r_c, a width w apart."""

    def __init__(self, cutoff: float, num_basis: int = 8) -> None:
        super().__init__()
        if num_basis < 2:
            raise InputError(f"num_bessel = {num_basis}: a gaussian basis needs at least 2 functions")
        self.width: Tensor
        self.centers: Tensor
        self.register_buffer("width", double(cutoff / (num_basis - 1)))
        self.register_buffer("centers", torch.linspace(0.0, cutoff, num_basis, dtype=torch.float64))

    def forward(self, length: Tensor) -> Tensor:
        """Values (E, N) for distances `length` (E,) in Å."""
        offset = length.unsqueeze(1) - self.centers.to(length.dtype)
        return torch.exp((-0.5 / self.width**2).to(length.dtype) * offset**2)


class ChebyshevBasis(nn.Module):
    """Chebyshev polynomials T_1 ... T_N of the distance itself, not brought to [-1, 1]: as MACE has them."""

    def __init__(self, cutoff: float, num_basis: int = 8) -> None:
        super().__init__()
        self.num_basis = num_basis

    def forward(self, length: Tensor) -> Tensor:
        """Values (E, N) for distances `length` (E,) in Å."""
        values = [torch.ones_like(length), length]
        while len(values) <= self.num_basis:
            values.append(2 * length * values[-1] - values[-2])
        return torch.stack(values[1:], dim=1)


class AgnesiTransform(KeepsPrecision):
    """Distances to (0, 1]: 1 / (1 + a x^q / (1 + x^(q-p))), x = 2r / (R_i + R_j) with covalent radii R.

    The transform of ACEpotentials.jl (Witt et al., J. Chem. Phys. 159, 164101 (2023)).
    """

    def __init__(self, elements: Sequence[int]) -> None:
        super().__init__()
        self.a: Tensor
        self.p: Tensor
        self.q: Tensor
        self.covalent_radii: Tensor
        for name, value in (("q", 0.9183), ("p", 4.5791), ("a", 1.0805)):
            self.register_buffer(name, double(value))
        self.register_buffer("covalent_radii", double(covalent_radii[list(elements)]))

    def forward(self, length: Tensor, species: Tensor) -> Tensor:
        """Transformed `length` (E,) of pairs of element indices `species` (2, E)."""
        x = length / (0.5 * self.covalent_radii[species].sum(dim=0).to(length.dtype))
        a, p, q = (constant.to(length.dtype) for constant in (self.a, self.p, self.q))
        return 1 / (1 + a * x**q / (1 + x ** (q - p)))


class SoftTransform(KeepsPrecision):
    """Distances clamped softly from below at p = 3/4 (R_i + R_j): p + (r - p)/2 · (1 + tanh(...)), as MACE has it."""

    def __init__(self, elements: Sequence[int]) -> None:
        super().__init__()
        self.alpha: Tensor
        self.covalent_radii: Tensor
        self.register_buffer("alpha", double(4.0))
        self.register_buffer("covalent_radii", double(covalent_radii[list(elements)]))

    def forward(self, length: Tensor, species: Tensor) -> Tensor:
        """Transformed `length` (E,) in Å of pairs of element indices `species` (2, E)."""
        contact = self.covalent_radii[species].sum(dim=0).to(length.dtype)
        lower, upper = 3 / 4 * contact, 4 / 3 * contact
        step = torch.tanh(self.alpha.to(length.dtype) / (upper - lower) * (length - 0.5 * (lower + upper)))
        return lower + (length - lower) * 0.5 * (1 + step)


class EarlySoftTransform(KeepsPrecision):
    """The `SoftTransform` of mace-torch 0.3.5 to 0.3.10: r + (1 + tanh(-x - a x^b))/2, x = 4 r / (R_i + R_j)."""

    def __init__(self, elements: Sequence[int]) -> None:
        super().__init__()
        self.a: Tensor
        self.b: Tensor
        self.covalent_radii: Tensor
        for name, value in (("a", 0.2), ("b", 3.0)):
            self.register_buffer(name, double(value))
        self.register_buffer("covalent_radii", double(covalent_radii[list(elements)]))

    def forward(self, length: Tensor, species: Tensor) -> Tensor:
        """Transformed `length` (E,) in Å of pairs of element indices `species` (2, E)."""
        x = length / (self.covalent_radii[species].sum(dim=0).to(length.dtype) / 4)
        a, b = (constant.to(length.dtype) for constant in (self.a, self.b))
        return length + 0.5 * torch.tanh(-x - a * x**b) + 0.5


BASES: dict[str, type[BesselBasis | GaussianBasis | ChebyshevBasis]] = {
    "bessel": BesselBasis,
    "gaussian": GaussianBasis,
    "chebyshev": ChebyshevBasis,
}
TRANSFORMS: dict[str, type[AgnesiTransform | SoftTransform | EarlySoftTransform]] = {
    "Agnesi": AgnesiTransform,
    "Soft": SoftTransform,
    "early Soft": EarlySoftTransform,
}


class RadialEmbedding(nn.Module):
    """Basis functions of (transformed) distances, and the envelope that makes them vanish at the cutoff.

    Args:
        elements: atomic numbers, in the order of the element indices.
        cutoff: r_c in Å.
        num_basis: number of functions.
        basis: "bessel", "gaussian" or "chebyshev".
        transform: None or a key of `TRANSFORMS`.
        p: order of the polynomial envelope.
        apply_cutoff: multiply the functions by the envelope; else it is handed on, for the messages themselves.
    """

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float,
        num_basis: int,
        basis: str = "bessel",
        transform: str | None = None,
        p: int = 5,
        apply_cutoff: bool = True,
    ) -> None:
        super().__init__()
        if basis not in BASES:
            raise InputError(f"radial_basis {basis!r}: expected one of {', '.join(BASES)}")
        if transform is not None and transform not in TRANSFORMS:
            raise InputError(f"distance_transform {transform!r}: expected None or one of {', '.join(TRANSFORMS)}")
        self.basis = BASES[basis](cutoff, num_basis)
        self.transform = None if transform is None else TRANSFORMS[transform](elements)
        self.envelope = PolynomialCutoff(cutoff, p)
        self.apply_cutoff = apply_cutoff

    def forward(self, length: Tensor, species: Tensor) -> tuple[Tensor, Tensor | None]:
        """Distances (E,) of pairs of element indices (2, E) to values (E, N) and, if not applied, envelope (E, 1)."""
        envelope = self.envelope(length).unsqueeze(1)
        values = self.basis(length if self.transform is None else self.transform(length, species))
        return (values * envelope, None) if self.apply_cutoff else (values, envelope)


class RadialMLP(nn.Module):
    """Bias-free perceptron with normalised silu: zero in, zero out, so that the cutoff of the basis carries over.

    Weights are (fan_in, fan_out) with unit variance; the 1/sqrt(fan_in) is applied in `forward` (e3nn's
    `FullyConnectedNet`, which MACE uses).
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(n_in, n_out)) for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def hidden(self, x: Tensor) -> Tensor:
        """Activations (E, sizes[-2]) before the last, linear layer."""
        for weight in list(self.weights)[:-1]:
            x = silu(x @ (weight / math.sqrt(weight.shape[0])))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(E, sizes[0]) to (E, sizes[-1])."""
        last = self.weights[-1]
        return self.hidden(x) @ (last / math.sqrt(last.shape[0]))

    def last(self, dtype: torch.dtype) -> Tensor:
        """The matrix (sizes[-2], sizes[-1]) of the last layer, with its factor."""
        last = list(self.weights)[-1]
        return last.to(dtype) / math.sqrt(last.shape[0])

    def dual(self, x: Tensor, tangent: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (E, n) with another last matrix (h, n), and their derivatives along `tangent` (E, sizes[0]).

        In the precision of `x`.
        """
        for weight in [weight.to(x.dtype) / math.sqrt(weight.shape[0]) for weight in list(self.weights)[:-1]]:
            z, dz = ops.matmul(x, weight), ops.matmul(tangent, weight)
            x, tangent = SILU_GAIN * ops.silu(z), SILU_GAIN * ops.silu(z, dz, 1)
        return ops.matmul(x, last), ops.matmul(tangent, last)


class NormalizedMLP(nn.Module):
    """Perceptron with biases; each hidden layer is normalised (LayerNorm) before its plain silu. Zero in, not zero out.

    The radial network of MACE's `RealAgnosticResidualNonLinearInteractionBlock`.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes[1:-1])

    @property
    def last(self) -> nn.Linear:
        """The layer without activation."""
        return cast("nn.Linear", self.linears[-1])

    def hidden(self, x: Tensor) -> Tensor:
        """Activations (E, sizes[-2]) before the last, linear layer."""
        for linear, norm in zip(list(self.linears)[:-1], self.norms, strict=True):
            x = nn.functional.silu(norm(linear(x)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(E, sizes[0]) to (E, sizes[-1])."""
        return self.last(self.hidden(x))
