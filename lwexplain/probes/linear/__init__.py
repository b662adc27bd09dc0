"""The linear probe, all stages and all regularisation strengths together."""
