"""Differential privacy: of a site's own training (noise, DP-SGD, accounting, models), and of the sum (integer noise in shares).

Nothing is imported here: `accountant` and `models` load Opacus on first use, `dpsgd` when it is imported, `plain` never.
"""
