"""The tables of the paper, reproduced by training and scoring."""
