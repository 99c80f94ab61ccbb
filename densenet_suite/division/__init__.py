"""How a dataset is divided without leaks: groups, stratification, and the files that say so."""
