"""From a trained network to its analysis: capture every stage in one pass, run the probes, keep the results."""
