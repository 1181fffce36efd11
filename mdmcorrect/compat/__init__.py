"""Drop-in replacements for the samplers of other repositories, one module each, over the one engine."""
