//! The monitor: the tiny process that outlives the manager.
