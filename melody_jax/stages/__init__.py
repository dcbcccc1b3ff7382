"""One file per trainable thing: a `train.stage.Stage` around a model, its loss and its optimiser."""

ORDER = ("autoencoder", "mulan", "semantic", "codes", "lm", "dpd")
"""Every stage after its parents."""

PARENTS = {"codes": ("mulan", "semantic"), "lm": ("codes",), "dpd": ("codes", "autoencoder")}
"""The parts that a stage is trained with; others have none."""
