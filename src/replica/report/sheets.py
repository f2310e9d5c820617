"""A table of texts, written as CSV, Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

from replica.claims import csv_text

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "±": r"$\pm$", "−": "$-$", "≈": r"$\approx$",
    "→": r"$\rightarrow$", "†": r"$^{\dagger}$", "·": r"$\cdot$", "–": "--", "—": "---", "…": r"\ldots{}", "λ": r"$\lambda$",
    "α": r"$\alpha$", "β": r"$\beta$", "μ": r"$\mu$", "σ": r"$\sigma$", "ε": r"$\epsilon$", "✓": r"$\surd$", "✗": r"$\times$",
    "⊘": r"$\oslash$", "²": "$^2$", "³": "$^3$", "√": r"$\surd$", "Δ": r"$\Delta$", "θ": r"$\theta$", "ρ": r"$\rho$",
}  # fmt: skip


@dataclass
class Sheet:
    """Header and rows of text. `long` breaks over pages in LaTeX and wraps the columns named in `wrap`."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    long: bool = False
    wrap: dict[str, str] = field(default_factory=dict)

    def to_csv(self) -> str:
        """Return header and rows as CSV."""
        return csv_text.to_csv(self.header, self.rows)

    def to_markdown(self) -> str:
        """Return a Markdown table under its title."""
        lines = [f"**{markdown(self.title)}**", ""]
        lines.append("| " + " | ".join(markdown(cell) for cell in self.header) + " |")
        lines.append("|" + "---|" * len(self.header))
        lines += ["| " + " | ".join(markdown(cell) for cell in row) + " |" for row in self.rows]
        return "\n".join([*lines, *(["", markdown(self.note)] if self.note else [])]) + "\n"

    def to_latex(self) -> str:
        """Return a LaTeX table; needs the packages booktabs and, for long ones, longtable, and fonts in T1 encoding."""
        columns = "".join(f"p{{{self.wrap[name]}}}" if name in self.wrap else "l" for name in self.header)
        head, *body = [_latex_row(row) for row in (self.header, *self.rows)]
        if self.long:
            lines = [
                r"\begin{longtable}{" + columns + "}",
                r"\caption{" + latex(self.title) + r"}\\",
                r"\toprule",
                head,
            ]
            lines += [r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
        else:
            lines = [r"\begin{table}", r"\caption{" + latex(self.title) + "}", r"\begin{tabular}{" + columns + "}"]
            lines += [r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        if self.note:
            lines.append(r"\par\footnotesize " + latex(self.note))
        return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Return text in one line with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def markdown(text: str) -> str:
    """Return text in one line in which Markdown finds no HTML, link, code, emphasis or border of a table's cell."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _latex_row(cells: list[str]) -> str:
    """Return a line of a table; a bracket or star at its start would be taken for an option of the line break before it."""
    line = " & ".join(latex(cell) for cell in cells) + r" \\"
    return "{}" + line if line.startswith(("[", "*")) else line
