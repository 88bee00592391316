"""Differential privacy of a site's own training: noise, DP-SGD, accounting, and the models that it can train.

Nothing is imported here: `accountant` and `models` load Opacus on first use, `dpsgd` when it is imported, `plain` never.
"""
