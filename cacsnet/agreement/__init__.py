"""Agreement between reference and model scores."""
