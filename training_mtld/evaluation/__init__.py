"""Evaluation of a network: its predictions on whole splits, their scores, and the files and pictures made of them."""
