"""Configuration: one YAML file per run, checked in full before anything heavy is imported."""
