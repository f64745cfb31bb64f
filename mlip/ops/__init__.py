"""Differentiable operators of message passing. Each has a plain-torch reference; compiled paths come beside it."""

from mlip.ops.segment import segment_sum as segment_sum
