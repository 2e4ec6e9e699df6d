//! Verbs, progress and tables.
