"""A page for one trained model on one's own machine: pictures in, expressions with their probabilities out."""
