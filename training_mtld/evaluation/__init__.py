"""How good a network is: its predictions on whole splits, their scores, and what is written and drawn of them."""
