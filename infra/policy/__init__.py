"""Rules that every plan is held against; docs/plans.md lists them."""
