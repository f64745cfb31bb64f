"""Workflows: each takes a structure and any ASE calculator, and returns a frozen result; none prints.

`relax.relax`, `md.run_md`, `phonons.phonons`, `vibrations.vibrations`, `elastic.elastic`; import the one you need.
"""
