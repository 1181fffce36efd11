"""Arguments like a model's for each operator, and the float64 reference over whole tensors."""
