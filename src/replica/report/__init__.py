"""The report: tables, figures, the page and the scorecard, all made from the ledger's rows."""
