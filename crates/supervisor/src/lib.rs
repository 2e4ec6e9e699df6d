//! Fates of tasks, shutdown, logging, metrics.
