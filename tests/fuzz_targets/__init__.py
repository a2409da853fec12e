"""Targets for fuzzers that are led by coverage, in the form that OSS-Fuzz takes.

Each module takes bytes and lets nothing through but errors of `fmristore_stores.errors`::

    pip install atheris
    python -m tests.fuzz_targets.nifti_header -max_total_time=60

Further arguments are those of libFuzzer: folders with examples, ``-runs=``, ``-rss_limit_mb=``.
"""
