"""One mark and one sentence per verdict, the same in every table and on every page."""

from __future__ import annotations

#: verdict: (mark in text, mark in LaTeX, meaning)
MARKS: dict[str, tuple[str, str, str]] = {
    "match": ("=", "$=$", "within the tolerance of the paper's number"),
    "better": ("+", "$+$", "beyond the tolerance on the good side"),
    "worse": ("−", "$-$", "beyond the tolerance, not on the good side"),
    "within-noise": ("≈", r"$\approx$", "beyond the tolerance, inside our seeds' interval"),
    "paper-inconsistent": ("!", "!", "the paper's number contradicts its own formula"),
    "reproduced": ("✓", r"$\surd$", "the whole interval lies beyond the margin"),
    "inconclusive": ("?", "?", "the interval holds the margin"),
    "contradicted": ("✗", r"$\times$", "the whole interval lies on the other side of the margin"),
    "not-run": ("·", r"$\cdot$", "no measurement, for the reason given"),
    "blocked": ("⊘", r"$\oslash$", "cannot be measured, for the reason given"),
}

#: Follows a number of the paper that was remembered and not read in a source.
UNSURE = "†"
UNSURE_MEANS = "remembered, not confirmed in a source: may not be what the paper printed"

LEGEND = "; ".join(f"{mark} {verdict}" for verdict, (mark, _, _) in MARKS.items())
