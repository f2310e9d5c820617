"""The report: tables, figures, the site and the scorecard, all made from the ledger's rows."""
