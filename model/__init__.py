"""The GLM-130B and GLM-5 families in plain PyTorch."""
