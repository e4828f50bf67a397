"""The published work: the reports' other systems, the studies, the benchmark and the paper."""
