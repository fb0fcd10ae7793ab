"""What the model server loads: handlers, and the archives that carry them with their model."""
