"""Looking at stamps by eye: a local page, a ledger of grades, how far graders agree, and verdicts for the cleaning."""
