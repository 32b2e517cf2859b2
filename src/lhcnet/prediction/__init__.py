"""The trained model put to use: pictures of any kind in, expressions with probabilities out."""
