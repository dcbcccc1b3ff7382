"""One file per trainable thing: a `train.stage.Stage` around a model, its loss and its optimiser. Their table: `graph.py`."""
