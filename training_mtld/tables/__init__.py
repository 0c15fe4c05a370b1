"""The tables of the paper, trained and scored here."""
