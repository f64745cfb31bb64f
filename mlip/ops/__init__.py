"""Differentiable operators of message passing. Each has a plain-torch reference; compiled paths come beside it."""

from mlip.ops.contraction_program import ContractionProgram as ContractionProgram
from mlip.ops.dispatch import pad_channels as pad_channels
from mlip.ops.dispatch import runs_compiled as runs_compiled
from mlip.ops.edges import edge_vectors as edge_vectors
from mlip.ops.edges import row_offsets as row_offsets
from mlip.ops.element_linear import element_linear as element_linear
from mlip.ops.interpolation import cubic_weights as cubic_weights
from mlip.ops.irreps_linear import irreps_linear as irreps_linear
from mlip.ops.matmul import matmul as matmul
from mlip.ops.message import coupling_matrix as coupling_matrix
from mlip.ops.message import message_blocks as message_blocks
from mlip.ops.message import message_exact as message_exact
from mlip.ops.message import message_interpolated as message_interpolated
from mlip.ops.message import neighbor_outer as neighbor_outer
from mlip.ops.message import pack_table as pack_table
from mlip.ops.message_general import MessageProgram as MessageProgram
from mlip.ops.message_general import message_exact_general as message_exact_general
from mlip.ops.message_general import message_interpolated_general as message_interpolated_general
from mlip.ops.radial import bessel_basis as bessel_basis
from mlip.ops.radial import radial_activations as radial_activations
from mlip.ops.radial import rowwise_dot as rowwise_dot
from mlip.ops.segment import segment_sum as segment_sum
from mlip.ops.silu import silu as silu
from mlip.ops.spherical_harmonics import spherical_harmonics as spherical_harmonics
from mlip.ops.symmetric_contraction import pack_coefficients as pack_coefficients
from mlip.ops.symmetric_contraction import symmetric_contraction as symmetric_contraction
